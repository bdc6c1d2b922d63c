"""On what the work is done: this process and its device, or actors of a Ray cluster as one Ray Data pipeline, one GPU or CPU each."""

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from hepdist.errors import RunError
from hepdist.inference.spec import PredictSpec
from hepdist.ingest.parallel import Each, Make, as_map, here, processes


@dataclass(frozen=True)
class Spread:
    headers: Callable[..., Iterable[Any]]
    """Like `map`, for the pass over headers."""
    each: Each
    device: str
    threads: int | None
    """Of each process; None: as torch has it."""
    count: int


@contextmanager
def spread(spec: PredictSpec, small: bool) -> Iterator[Spread]:
    """small: the input isn't worth starting a Ray for, unless it is asked for by workers=N. Raises RunError where a GPU is asked for and there is none."""
    import torch

    if spec.workers == 1 or (spec.workers is None and small):
        there = torch.cuda.is_available()
        if spec.device == "cuda" and not there:
            raise RunError("device=cuda, but this machine has no GPU that PyTorch can use; leave the option out")
        yield Spread(map, here, "cuda" if there and spec.device != "cpu" else "cpu", None, 1)
        return

    from hepdist.cluster import connect

    with processes(None) as headers, connect(train=False) as cluster:
        if spec.device == "cuda" and cluster.gpus < 1:
            raise RunError("device=cuda, but the cluster has no GPU; leave the option out")
        device = "cuda" if cluster.gpus >= 1 and spec.device != "cpu" else "cpu"
        count = max(1, min(spec.workers or 1 << 30, int(cluster.gpus if device == "cuda" else cluster.cpus)))
        yield Spread(as_map(headers), _Actors(count, device), device, 1 if device == "cpu" else None, count)


class _Actors:
    """An `Each` whose processes live as long as the work, since a model takes seconds to load."""

    def __init__(self, count: int, device: str) -> None:
        self._count, self._device = count, device

    def __call__(self, make: Make, arguments: tuple[Any, ...], items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        if not items:
            return
        import ray.data
        import ray.util.annotations

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        given = [{"index": index, "item": pickle.dumps(item)} for index, item in enumerate(items)]
        with warnings.catch_warnings():
            # as in evaluation/score.py: not restarting a lost actor has no other name
            warnings.simplefilter("ignore", ray.util.annotations.RayDeprecationWarning)
            done = ray.data.from_items(given, override_num_blocks=len(given)).map_batches(
                _Actor,
                fn_constructor_args=(pickle.dumps((make, arguments)),),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(self._count, len(items))),
                num_cpus=1 if self._device == "cpu" else 0.5,
                num_gpus=1 if self._device == "cuda" else 0,
                max_restarts=0,  # its constructor's arguments are not kept for one; the others take its items
            )
        for batch in done.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
            for index, result in zip(batch["index"].tolist(), batch["result"], strict=True):
                yield index, pickle.loads(result)


class _Actor:
    def __init__(self, made: bytes) -> None:
        make, arguments = pickle.loads(made)
        self._work = make(*arguments)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        results = [pickle.dumps(self._work(pickle.loads(item))) for item in batch["item"]]
        return {"index": batch["index"], "result": np.array(results, object)}
