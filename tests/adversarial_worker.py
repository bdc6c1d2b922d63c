"""What each of two processes does in test_adversarial.py: train a small restorer against a critic in each ZeRO stage, and resume both.

A module of its own, since spawned processes can't import test modules.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hepdist.models import Inputs, build
from hepdist.recipe import Recipe
from hepdist.shards.manifest import Manifest
from hepdist.spec import parse
from hepdist.tasks import build as build_task
from hepdist.tasks.restoration import Restoration

STEPS, BATCH, WORLD, IMAGE = 6, 7, 2, (1, 12, 13)  # seven rows: the ranks' parts differ
MANIFEST = Manifest("c", "phantom", {"image": {"dtype": "uint8", "shape": list(IMAGE)}}, ())


def recipe(stage: int, precision: str = "fp32", micro: int | None = None, r1: float = 0.0, loss: str = "hinge") -> Recipe:
    return parse(
        Recipe,
        {
            "name": "t", "data": {"cohort": "x", "normalise": "none"}, "task": {"kind": "restoration"}, "degrade": {"kinds": ["noise", "blur"]},
            "model": {"family": "restorer", "width": 8, "encoder": [1], "middle": 1, "decoder": [1]},
            "adversary": {"weight": 0.1, "start": 0.34, "width": 8, "layers": 1, "lr": 1e-3, "r1": r1, "loss": loss},
            "optim": {"lr": 2e-3, "weight_decay": 0.1, "clip": 0.5, "warmup": 0.0},
            "train": {"zero_stage": stage, "precision": precision, "global_batch": BATCH, "micro_batch": micro},
        },
    )  # fmt: skip


def network(recipe: Recipe) -> nn.Module:
    torch.manual_seed(0)
    net = build(recipe.model, Inputs(IMAGE), 1)
    for parameter in net.parameters():  # its scales start at zero, which would leave most of it without a gradient
        nn.init.normal_(parameter, std=0.2)
    return net


def task(recipe: Recipe) -> Restoration:
    found = build_task(recipe, MANIFEST)
    assert isinstance(found, Restoration)
    return found


def batch(step: int) -> dict[str, Tensor]:
    """A whole global batch whose last row has no weight."""
    generator = torch.Generator().manual_seed(step)
    target = torch.rand(BATCH, *IMAGE, generator=generator)
    weight = torch.ones(BATCH)
    weight[-1] = 0
    return {
        "image": target + 0.1 * torch.randn(target.shape, generator=generator),
        "target": target,
        "weight": weight,
        "row": torch.arange(BATCH),
    }


def advance(parts, first: int, last: int) -> list[tuple[float, float]]:
    """The whole batch's loss and critic's loss of each step."""
    from hepdist.training.engine import set_learning_rate
    from hepdist.training.loop import optimise
    from hepdist.training.schedule import learning_rate

    low, high = (0, 4) if dist.get_rank() == 0 else (4, BATCH)
    losses = []
    for step in range(first, last):
        set_learning_rate(parts.engine, learning_rate(parts.recipe.optim, step, STEPS))
        mine = {name: values[low:high] for name, values in batch(step).items()}
        shares = torch.stack(optimise(parts, mine, BATCH, step))
        dist.all_reduce(shares)
        losses.append(tuple(shares.tolist()))
    return losses


def build_parts(recipe: Recipe):
    from hepdist.training import engine as engines
    from hepdist.training.adversary import Adversary

    device, micro = torch.device("cpu"), recipe.train.micro_batch or 4
    engine = engines.build_engine(network(recipe), recipe, micro, device)
    adversary = Adversary(recipe, task(recipe), IMAGE, 1, STEPS, micro, device)
    stream = SimpleNamespace(world=WORLD, rank=dist.get_rank())
    guard = SimpleNamespace(watch=lambda rows, losses: None)
    return SimpleNamespace(
        recipe=recipe, engine=engine, task=adversary.task, stream=stream, adversary=adversary, every_row_counts=False, guard=guard
    )


def whole(parts) -> dict[str, Tensor]:
    """Weights of both nets, whole."""
    from hepdist.training import engine as engines

    critic, _ = parts.adversary.state()
    return engines.whole_weights(parts.engine) | {f"critic.{name}": values for name, values in critic.items()}


def worker(rank: int, port: int, out: str) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(WORLD), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    from hepdist.training import checkpoint as checkpoints
    from hepdist.training import engine as engines
    from hepdist.training.checkpoint import Checkpoint, Progress

    results, halves = {}, {}
    cases = {f"zero {stage}": recipe(stage) for stage in range(3)}
    cases |= {
        "micro-batches": recipe(2, micro=2),
        "r1": recipe(1, r1=0.5),
        "least_squares": recipe(0, loss="least_squares"),
        "cross_entropy": recipe(0, loss="cross_entropy"),
        "bf16": recipe(1, "bf16"),
    }
    for name, values in cases.items():
        parts = build_parts(values)
        losses = advance(parts, 0, STEPS // 2)
        if name.startswith("zero"):  # through the files of a checkpoint, as a run does
            state = Checkpoint(
                Progress(cursor=3),
                engines.whole_weights(parts.engine),
                engines.whole_optimizer(parts.engine),
                None,
                *parts.adversary.state(),
            )
            halves[name] = Path(out).parent / f"rank {rank} {name}"
            checkpoints.save(halves[name], state, {})
        losses += advance(parts, STEPS // 2, STEPS)
        results[name] = (losses, whole(parts))
    example = (torch.zeros(1, *IMAGE),)
    for saved in halves:
        for stage in halves:
            parts, state = build_parts(cases[stage]), checkpoints.load(checkpoints.newest_first(halves[saved])[0])
            engines.restore(parts.engine, state.weights, state.optimizer, example)
            parts.adversary.restore(state.critic, state.critic_optimizer)
            losses = advance(parts, STEPS // 2, STEPS)
            results[f"{saved} -> {stage}"] = (losses, whole(parts))
    if rank == 0:
        torch.save(results, out)
    dist.destroy_process_group()
