"""What each of two processes does in test_guard.py: steps of which one has a loss that is not a number, on one rank only."""

from __future__ import annotations

import torch
import torch.distributed as dist
from engine_worker import BATCH, STEPS, WORLD, _join, data, net, recipe
from torch import nn

from hepdist.errors import RunError
from hepdist.training.checkpoint import Progress

BAD_STEP, BAD_ROW = 2, 6


def spoilt(step: int, bad: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """The batch of a step; in bad ones one picture, of the second worker's half, is not a number."""
    x, y = data(step)
    if step in bad:
        x[BAD_ROW] = torch.nan
    return x, y


def guarded(stage: int, clip: float, policy: str, bad: tuple[int, ...], steps: int) -> tuple[dict[str, torch.Tensor], Progress, list[str]]:
    """Weights after the steps, what progress says, and what was said; where training stopped, the error is the last that was said."""
    from hepdist.training import engine as engines
    from hepdist.training.guard import Guard

    values = recipe(stage)
    train = values.train.model_copy(update={"on_nonfinite": policy})
    values = values.model_copy(update={"train": train, "optim": values.optim.model_copy(update={"clip": clip})})
    engine = engines.build_engine(net(), values, BATCH, torch.device("cpu"))
    guard = Guard([engine], values, 0, lambda rows: [f"s{row}" for row in rows])
    progress, said, rank = Progress(), [], dist.get_rank()
    for step in range(steps):
        x, y = (t[rank * BATCH // WORLD : (rank + 1) * BATCH // WORLD] for t in spoilt(step, bad))
        engine.set_gradient_accumulation_boundary(True)
        losses = nn.functional.cross_entropy(engine(x).float(), y, reduction="none")
        guard.watch(torch.arange(BATCH)[rank * BATCH // WORLD : (rank + 1) * BATCH // WORLD], losses)
        engine.backward(losses.sum() / BATCH * WORLD, scale_wrt_gas=False)
        engine.step()
        assert float(guard.stepped(step)) == (step in bad)
        try:
            said += guard.settle(progress, all_steps=False)
        except RunError as error:
            return engines.whole_weights(engine), progress, [*said, str(error)]
    return engines.whole_weights(engine), progress, said


def worker(rank: int, port: int, out: str) -> None:
    _join(rank, port)
    results = {}
    for stage in range(4):
        for clip in (0.5, 0.0):
            results[f"{stage}/{clip}"] = guarded(stage, clip, "skip", (BAD_STEP,), STEPS)
    results["stop"] = guarded(0, 0.5, "stop", (BAD_STEP,), STEPS)
    results["back_off"] = guarded(0, 0.5, "back_off", (1, BAD_STEP), STEPS)
    results["always"] = guarded(0, 0.5, "skip", tuple(range(20)), 20)
    if rank == 0:
        torch.save({name: (weights, vars(progress), said) for name, (weights, progress, said) in results.items()}, out)
    dist.destroy_process_group()
