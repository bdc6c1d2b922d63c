"""The same work on many things: in this process, or in several of a Ray cluster as one Ray Data pipeline; knows nothing of ingest."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import pyarrow as pa


class Each(Protocol):
    """Calls `make(*arguments)` once a process, and what that gives on every item: yields (index, result) as they are ready."""

    def __call__(
        self, make: Callable[..., Callable[[Any], Any]], arguments: tuple[Any, ...], items: Sequence[Any]
    ) -> Iterator[tuple[int, Any]]: ...


def here(make: Callable[..., Callable[[Any], Any]], arguments: tuple[Any, ...], items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """In this process, in order."""
    if items:
        work = make(*arguments)
        for index, item in enumerate(items):
            yield index, work(item)


@contextmanager
def processes(count: int | None) -> Iterator[Each]:
    """An `Each` over `count` processes, one CPU each; 1: this process; None: one a CPU of the cluster."""
    if count == 1:
        yield here
        return
    from hepdist.cluster import connect

    with connect() as cluster:
        yield _Pipeline(count or max(1, int(cluster.cpus)))


class _Pipeline:
    def __init__(self, count: int):
        self._count = count

    def __call__(
        self, make: Callable[..., Callable[[Any], Any]], arguments: tuple[Any, ...], items: Sequence[Any]
    ) -> Iterator[tuple[int, Any]]:
        if not items:
            return
        import ray
        from ray.data import ActorPoolStrategy, DataContext

        context = DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.target_max_block_size = None  # a result is one block, whatever its size
        shared = ray.put(pickle.dumps((make, arguments)))  # once, not with each item
        blocks = [pa.table({"index": [index], "item": [pickle.dumps(item)]}) for index, item in enumerate(items)]
        with DataContext.current(context):
            results = ray.data.from_arrow(blocks).map_batches(
                _Worker, fn_constructor_args=([shared],), batch_size=None, batch_format="pyarrow", num_cpus=1,
                compute=ActorPoolStrategy(size=min(self._count, len(items)), max_tasks_in_flight_per_actor=2),
            )  # fmt: skip
        for batch in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            assert isinstance(batch, pa.Table)
            for index, result in zip(batch["index"].to_pylist(), batch["result"], strict=True):
                yield index, pickle.loads(result.as_buffer())


class _Worker:
    def __init__(self, shared: list[Any]):
        import ray

        make, arguments = pickle.loads(ray.get(shared[0]))
        self._work = make(*arguments)

    def __call__(self, batch: pa.Table) -> pa.Table:
        results = [pickle.dumps(self._work(pickle.loads(item.as_buffer()))) for item in batch["item"]]
        return pa.table({"index": batch["index"], "result": pa.array(results, pa.large_binary())})
