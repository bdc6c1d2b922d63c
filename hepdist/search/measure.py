"""What one configuration costs, measured by a few training passes of its network over real rows in this process; nothing of it is kept."""

from __future__ import annotations

import statistics
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hepdist.errors import HepdistError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from hepdist.recipe import Recipe
    from hepdist.shards.manifest import Manifest

PROBE = 2
"""Samples of the first pass, which also warms up; from it alone the cost is scaled where a whole micro-batch would take too long."""
LONGEST_S = 5.0
"""Seconds that a pass over a whole micro-batch may take here."""
PATIENCE_S = 20.0
"""Seconds of the first pass beyond which there is no second one."""
PASSES = 3
STATE_BYTES = 4
"""Of a parameter, of its gradient and of each of AdamW's two moments: fp32 under any precision (training/engine.py)."""


@dataclass(frozen=True)
class Cost:
    """Of a trial with one configuration. Where it fails, `trouble` says why and all else is 0."""

    parameters: int = 0
    micro_batch: int = 0
    """Samples of a forward pass on one worker."""
    state_bytes: int = 0
    """Of one worker: parameters, gradients and moments, as train.zero_stage shards them."""
    activation_bytes: int = 0
    """Of one worker: what a forward pass keeps for the backward pass, and its batch."""
    train_s: float = 0.0
    """Forward, backward and optimiser step of one micro-batch."""
    validate_s: float = 0.0
    """A forward pass of one micro-batch without gradients."""
    scaled: bool = False
    """Taken from PROBE samples, not from a whole micro-batch."""
    epoch_s: float = 0.0
    """An epoch with its share of validations, every worker on its own cores."""
    trouble: str = ""

    @property
    def memory_bytes(self) -> int:
        """Tensors of one worker at the end of a forward pass; Python and the libraries come on top."""
        return self.state_bytes + self.activation_bytes


def measure(recipe: Recipe, manifest: Manifest) -> Cost:
    """The cost of a trial of this recipe: one worker's part of its global batch, on this machine's CPU with the worker's share of cores.

    Rows are read from the cohort. What a trial waits for (its start, data, other workers, checkpoints, an adversary's critic) is not in it.
    """
    import torch

    threads, random_state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(max(1, int(recipe.train.cpus_per_worker)))
    try:
        return _measure(recipe, manifest)
    except (RuntimeError, ValueError, MemoryError, HepdistError) as error:  # what a trial of it would end with
        return Cost(trouble=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(random_state)


def _measure(recipe: Recipe, manifest: Manifest) -> Cost:
    import torch

    from hepdist.tasks import build as build_task
    from hepdist.tasks import forward
    from hepdist.training.optimizer import adamw
    from hepdist.training.saved_model import Signature, build_model

    train = recipe.train
    part = -(-min(train.global_batch, manifest.rows("train")) // train.most)
    micro = min(part, train.micro_batch or part)
    model, task = build_model(recipe, Signature.of(manifest)).train(), build_task(recipe, manifest)
    optimizer = adamw(model, recipe.optim)
    saved = 0

    def step(size: int) -> Callable[[], None]:
        batch = _batch(recipe, manifest, size)

        def run() -> None:
            nonlocal saved
            prepared = _prepared(recipe, manifest, batch)
            with counted(model) as kept, torch.autocast("cpu", torch.bfloat16, enabled=train.precision == "bf16"):
                losses = task.loss(model, prepared)
            saved = sum(kept.values()) + sum(value.nbytes for value in prepared.values())
            losses.mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        return run

    def look(size: int) -> Callable[[], None]:
        prepared = _prepared(recipe, manifest, _batch(recipe, manifest, size))

        def run() -> None:
            with torch.no_grad():
                forward(model, prepared)

        return run

    probe = size = min(PROBE, micro)
    first = step(probe)
    train_s = _seconds(first)
    if train_s <= PATIENCE_S:  # else it stands as it is: another one would tell little more
        train_s = _usual_seconds(first)  # the first one also imported, took memory from the system and chose kernels
        if train_s * micro / probe <= LONGEST_S:
            size = micro
            train_s = _usual_seconds(step(micro))
    model.eval()
    validate_s = _usual_seconds(look(size))
    factor = micro / size
    parameters = sum(p.numel() for p in model.parameters())
    cost = Cost(
        parameters=parameters,
        micro_batch=micro,
        state_bytes=_state_bytes(parameters, train.zero_stage, train.most),
        activation_bytes=int(saved * factor),
        train_s=train_s * factor,
        validate_s=validate_s * factor,
        scaled=size < micro,
    )
    return _with_epoch(cost, recipe, manifest)


def _with_epoch(cost: Cost, recipe: Recipe, manifest: Manifest) -> Cost:
    """An epoch's rows on all workers at once, at the speed of one micro-batch on one of them."""
    workers, micro = recipe.train.most, cost.micro_batch
    passes = manifest.rows("train") / workers / micro
    judged = manifest.rows("val") * (1 + len(recipe.augment.test_flip)) * (2 if recipe.augment.test_shift else 1)
    return replace(cost, epoch_s=cost.train_s * passes + cost.validate_s * judged / workers / micro / recipe.train.validate_every)


def _state_bytes(parameters: int, zero_stage: int, workers: int) -> int:
    """Parameters, gradients and two moments of one worker; ZeRO 1 shards the moments, 2 the gradients too, 3 the parameters too."""
    shares = [1 / workers if zero_stage >= stage else 1.0 for stage in (3, 2, 1, 1)]
    return int(parameters * STATE_BYTES * sum(shares))


def _usual_seconds(run: Callable[[], None]) -> float:
    """The median of PASSES, or the first one where it is a long one."""
    first = _seconds(run)
    return first if first > 1.0 else statistics.median([first, *(_seconds(run) for _ in range(PASSES - 1))])


def _seconds(run: Callable[[], None]) -> float:
    """Seconds by the clock, but at most those that all threads were on a core: what is beyond them went to other programs."""
    began, on_core = time.perf_counter(), time.process_time()
    run()
    return min(time.perf_counter() - began, time.process_time() - on_core)


@contextmanager
def counted(model: torch.nn.Module) -> Iterator[dict[int, int]]:
    """Bytes of each storage that autograd keeps for the backward pass inside the block, by address; the model's own are not counted.

    What a checkpointed block computes again in the backward pass is not among it.
    """
    import torch

    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would hold the graph that holds it

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def _batch(recipe: Recipe, manifest: Manifest, size: int) -> dict[str, Any]:
    """The first train rows as a worker gets them, over and over where there are fewer than `size`."""
    import torch

    from hepdist.shards.read import SplitReader, columns_of
    from hepdist.shards.tensors import tensor_of

    reader = SplitReader(recipe.data.cohort, manifest, "train", verify=False)
    rows = np.arange(size) % len(reader)
    first = np.arange(min(size, len(reader)))
    arrays = {name: values[rows] for name, values in reader.arrays(first, columns_of(recipe, manifest)).items()}
    batch = {name: tensor_of(values) for name, values in arrays.items()}
    return {**batch, "row": torch.from_numpy(rows), "position": torch.arange(size)}


def _prepared(recipe: Recipe, manifest: Manifest, batch: dict[str, Any]) -> dict[str, Any]:
    """What the loop does to a batch before the model sees it (training/loop.py)."""
    from hepdist.augment import augment, normalise
    from hepdist.augment.degrade import Scale, degrade
    from hepdist.training.batching import weigh

    seed = recipe.train.seed
    batch = augment(normalise(weigh(batch), recipe.data.normalise, manifest.normalisation), recipe.augment, seed, 0)
    return degrade(batch, recipe.degrade, Scale.of(recipe, manifest), seed, 0) if recipe.degrade.kinds else batch
