"""Steps whose loss or gradient is NaN or infinite: they never reach the weights, and the recipe says what becomes of the run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from hepdist.errors import DivergedError
from hepdist.recipe import Recipe
from hepdist.training.checkpoint import Progress
from hepdist.training.engine import zero_stage

LEFT_OUT_IN_A_ROW = 10
"""Steps after which leaving out is no way to go on."""
SHOWN = 20
"""Sample ids in one message."""


@dataclass
class Step:
    """A step that was taken: whether it was left out is known on the device, and here somewhat later."""

    number: int
    flag: torch.Tensor
    rows: list[torch.Tensor]
    """int64[b], a micro-batch each."""
    losses: list[torch.Tensor]


class Guard:
    """Looks at the gradient's norm right before AdamW's step, on the device: where it is not finite, the fused optimiser leaves all as it was.
    From ZeRO 1 on, DeepSpeed does so itself.

    The norm is that of the whole gradient, so all ranks agree without asking each other. The host learns of it `delay` steps later, when
    reading the flag no longer makes it wait for a GPU.
    """

    def __init__(self, engines: list[Any], recipe: Recipe, delay: int, sample_ids: Callable[[list[int]], list[str]]) -> None:
        """engines: the model's, and the critic's where there is one; sample_ids: names of train rows."""
        self.policy, self.delay, self.sample_ids = recipe.train.on_nonfinite, delay, sample_ids
        self.limits = {"optim.lr": recipe.optim.lr, "optim.clip": recipe.optim.clip}
        self.engines = engines
        self.flags: list[torch.Tensor] = []
        self.rows: list[torch.Tensor] = []
        self.losses: list[torch.Tensor] = []
        self.steps: deque[Step] = deque()
        for engine in engines:
            if not zero_stage(engine):
                engine.optimizer.register_step_pre_hook(lambda optimizer, *_: self._look(optimizer))

    def watch(self, rows: torch.Tensor, losses: torch.Tensor) -> None:
        """Remember which rows of a micro-batch had which losses, until the step's flag is known."""
        self.rows.append(rows)
        self.losses.append(losses.detach())

    def stepped(self, step: int) -> torch.Tensor:
        """To be called after the engines' steps; returns 1.0 where the step was left out, else 0.0, on the device."""
        device = self.losses[0].device
        flags = self.flags + [torch.tensor(float(e.optimizer.overflow), device=device) for e in self.engines if zero_stage(e)]
        assert len(flags) == len(self.engines), "each optimiser steps once"
        flag, self.flags = torch.stack(flags).amax(), []
        self.steps.append(Step(step, flag, self.rows, self.losses))
        self.rows, self.losses = [], []
        return flag

    def settle(self, progress: Progress, *, all_steps: bool) -> list[str]:
        """Apply the policy to the steps that are `delay` steps old, or to all; returns what is to be said. Raises RunError to stop.

        Collective where a step was left out, which all ranks find at the same step.
        """
        said = []
        while self.steps and (all_steps or len(self.steps) > self.delay):
            step = self.steps.popleft()
            if not float(step.flag):
                progress.left_out = 0
                continue
            progress.left_out += 1
            what = f"the loss or gradient of step {step.number + 1} is not finite; {self._culprits(step)}"
            if self.policy == "stop":
                raise DivergedError(
                    f"{what}; look at these inputs, lower optim.lr (now {self.limits['optim.lr']:g}) or optim.clip"
                    f" (now {self.limits['optim.clip']:g}), or set train.on_nonfinite=skip"
                )
            if progress.left_out >= LEFT_OUT_IN_A_ROW:
                raise DivergedError(f"{what}; it was so in {LEFT_OUT_IN_A_ROW} steps in a row, so lower optim.lr or look at these inputs")
            if self.policy == "back_off":
                progress.lr_scale *= 0.5
                said.append(f"{what}; the step is left out, and the learning rate is {progress.lr_scale:g} of the recipe's from here on")
            else:
                said.append(f"{what}; the step is left out")
        return said

    def _look(self, optimizer: torch.optim.Optimizer) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        flag = (~torch.isfinite(torch.nn.utils.get_total_norm(gradients))).float()
        optimizer.found_inf = flag  # type: ignore[attr-defined]  # read by fused AdamW, which was made for loss scaling
        self.flags.append(flag)

    def _culprits(self, step: Step) -> str:
        """The samples with a loss that is not finite, of all ranks; if there are none, it was the gradient."""
        rows, losses = torch.cat(step.rows), torch.cat(step.losses)
        mine = rows[~torch.isfinite(losses)].tolist()
        everyone: list[list[int]] = [[]] * dist.get_world_size()
        dist.all_gather_object(everyone, mine)
        found = sorted({row for rows in everyone for row in rows})
        if not found:
            return "each sample's loss was finite, the gradient was not"
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        return f"samples {', '.join(self.sample_ids(found[:SHOWN]))}{more}"
