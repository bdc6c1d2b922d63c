"""What each of two processes does in test_matrix.py: train a small U-Net in many combinations of settings, and resume it half-way.

A module of its own, since spawned processes can't import test modules.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import combinations, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hepdist.models import Inputs, build
from hepdist.recipe import Recipe
from hepdist.shards.manifest import Manifest
from hepdist.spec import parse

STEPS, BATCH, WORLD, IMAGE = 10, 5, 2, (1, 8, 8)  # five rows: the ranks' parts differ, and one row has no weight
MANIFEST = Manifest(
    "c", "phantom", {"image": {"dtype": "float32", "shape": list(IMAGE)},
    "mask": {"dtype": "uint8", "shape": list(IMAGE), "classes": ["background", "liver"]}}, (),
)  # fmt: skip


class Case(NamedTuple):
    """One combination of what test_matrix.py crosses."""

    stage: int
    offload: str
    precision: str
    micro: int | None
    clip: float
    ema: float
    checkpointing: bool
    critic: bool


OPTIONS = Case(
    (0, 1, 2, 3), ("none", "optimizer", "parameters"), ("fp32", "bf16"), (None, 2), (0.0, 0.05), (0.0, 0.9), (False, True), (False, True)
)  # type: ignore[arg-type]
"""By field of Case: the values that are crossed."""


def recipe(case: Case) -> Recipe:
    """Raises RecipeError for a combination that is refused."""
    return parse(
        Recipe,
        {
            "name": "t", "data": {"cohort": "x"}, "task": {"kind": "segmentation"},
            # Its widest convolutions have more than the 1e5 weights up to which ZeRO 3 leaves a tensor whole. Smooth: at a kink, rounding
            # of 1e-7 flips a slope now and then, and losses differ by 1e-3 after ten steps whatever the order of sums is.
            "model": {"family": "unet", "width": 56, "depth": 2, "activation": "silu", "checkpointing": case.checkpointing},
            "adversary": {"weight": 0.1, "start": 0.3, "width": 8, "layers": 1, "lr": 1e-3} if case.critic else None,
            "optim": {"lr": 1e-3, "weight_decay": 0.1, "clip": case.clip, "warmup": 0.2, "ema": case.ema},
            "train": {
                "zero_stage": case.stage, "precision": case.precision, "global_batch": BATCH, "micro_batch": case.micro, "offload": case.offload,
            },
        },
    )  # fmt: skip


def refused(case: Case) -> bool:
    """What the engine can't do; that the recipe says so is tested."""
    least = {"none": 0, "optimizer": 1, "parameters": 3}[case.offload]
    return case.stage < least or (case.critic and case.stage == 3)


def every_case() -> list[Case]:
    """All combinations, those that are refused left out."""
    return [case for values in product(*OPTIONS) if not refused(case := Case(*values))]


def pairwise_cases() -> list[Case]:
    """The fewest that a greedy search finds in which every two values that go together meet at least once."""
    everything = every_case()
    missing = {pair for case in everything for pair in pairs(case)}
    chosen = []
    while missing:
        best = max(everything, key=lambda case: len(missing & pairs(case)))
        chosen.append(best)
        missing -= pairs(best)
    return chosen


def pairs(case: Case) -> set[tuple[Any, ...]]:
    return set(combinations(zip(Case._fields, case, strict=True), 2))


def network(recipe: Recipe) -> nn.Module:
    torch.manual_seed(0)
    return build(recipe.model, Inputs(IMAGE), 2)


def batch(step: int) -> dict[str, Tensor]:
    """A whole global batch: four of them in turn, a bright box to be found in noise; the last row has no weight."""
    generator = torch.Generator().manual_seed(step % 4)
    mask = torch.zeros(BATCH, *IMAGE, dtype=torch.uint8)
    for row, corner in zip(mask, torch.randint(0, 5, (BATCH, 2), generator=generator).tolist(), strict=True):
        row[:, corner[0] : corner[0] + 4, corner[1] : corner[1] + 4] = 1
    weight = torch.ones(BATCH)
    weight[-1] = 0
    image = mask + torch.randn(BATCH, *IMAGE, generator=generator)
    return {"image": image, "mask": mask, "weight": weight, "row": torch.arange(BATCH)}


class Run:
    """The parts of training/worker.py for one case, and the losses so far."""

    def __init__(self, case: Case) -> None:
        from hepdist.tasks import build as build_task
        from hepdist.training import engine as engines
        from hepdist.training.adversary import Adversary
        from hepdist.training.ema import EMA

        self.recipe, device, micro = recipe(case), torch.device("cpu"), case.micro or 3
        self.engine = engines.build_engine(network(self.recipe), self.recipe, micro, device)
        self.ema = EMA(self.engine, case.ema) if case.ema else None
        self.task: Any = build_task(self.recipe, MANIFEST)
        self.adversary = Adversary(self.recipe, self.task, IMAGE, 2, STEPS, micro, device) if case.critic else None
        self.losses: list[list[float]] = []

    def advance(self, first: int, last: int) -> None:
        """The steps of training/loop.py from `first` to `last`; appends the whole batch's loss, and the critic's where there is one."""
        from hepdist.training.engine import set_learning_rate
        from hepdist.training.loop import optimise
        from hepdist.training.schedule import learning_rate

        rank = dist.get_rank()
        low, high = (0, 3) if rank == 0 else (3, BATCH)
        stream = SimpleNamespace(world=WORLD, rank=rank)
        guard = SimpleNamespace(watch=lambda rows, losses: None)
        parts: Any = SimpleNamespace(
            recipe=self.recipe,
            engine=self.engine,
            task=self.task,
            stream=stream,
            adversary=self.adversary,
            every_row_counts=False,
            guard=guard,
        )
        for step in range(first, last):
            set_learning_rate(self.engine, learning_rate(self.recipe.optim, step, STEPS))
            mine = {name: values[low:high] for name, values in batch(step).items()}
            shares = torch.stack([share for share in optimise(parts, mine, BATCH, step) if share is not None])
            if self.ema:
                self.ema.update(step)
            dist.all_reduce(shares)
            self.losses.append(shares.tolist())

    def state(self) -> Any:
        from hepdist.training import engine as engines
        from hepdist.training.checkpoint import Checkpoint, Progress

        critic = self.adversary.state() if self.adversary else (None, None)
        average = self.ema.state() if self.ema else None
        return Checkpoint(Progress(), engines.whole_weights(self.engine), engines.whole_optimizer(self.engine), average, *critic)

    def restore(self, state: Any) -> None:
        from hepdist.training import engine as engines

        engines.restore(self.engine, state.weights, state.optimizer, (torch.zeros(1, *IMAGE),))
        if self.ema:
            self.ema.load(state.ema)
        if self.adversary:
            self.adversary.restore(state.critic, state.critic_optimizer)


def tensors(state: Any) -> dict[str, Tensor]:
    """Weights, averages and the critic's weights by name."""
    kinds = {"": state.weights, "average.": state.ema or {}, "critic.": state.critic or {}}
    return {f"{kind}{name}": values for kind, found in kinds.items() for name, values in found.items()}


def outcomes(case: Case, folder: Path, resume: bool) -> Iterator[tuple[str, tuple[list[list[float]], dict[str, Tensor]]]]:
    """('straight' or 'resumed', (losses of each step, all weights)); the resumed one goes through the files of a checkpoint."""
    from hepdist.training import checkpoint as checkpoints

    straight = Run(case)
    straight.advance(0, STEPS // 2)
    if resume:
        checkpoints.save(folder, straight.state(), {})
    straight.advance(STEPS // 2, STEPS)
    yield "straight", (straight.losses, tensors(straight.state()))
    if resume:
        again = Run(case)
        again.restore(checkpoints.load(checkpoints.newest_first(folder)[0]))
        again.advance(STEPS // 2, STEPS)
        yield "resumed", (again.losses, tensors(again.state()))


def worker(rank: int, port: int, cases: list[Case], resume: bool, out: str) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(WORLD), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    results = {}
    for number, case in enumerate(cases):
        folder = Path(out).parent / f"{number} of rank {rank}"
        results |= {(number, kind): outcome for kind, outcome in outcomes(case, folder, resume)}
    if rank == 0:
        torch.save(results, out)
    dist.destroy_process_group()
