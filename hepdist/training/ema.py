"""The exponential moving average of the weights, kept whole and alike on every rank."""

from __future__ import annotations

from typing import Any

import torch

from hepdist.training.engine import gathered


class EMA:
    """Average of the parameters, updated after each optimiser step (Polyak & Juditsky, 1992).

    Kept in fp32 on the engine's device; in stage 3 the parameters are gathered for each update.
    """

    def __init__(self, engine: Any, decay: float) -> None:
        self.engine, self.decay = engine, decay
        parameters = dict(engine.module.named_parameters())
        with gathered(engine, list(parameters.values())):
            self.average = {n: p.detach().float().clone() for n, p in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """`step`: optimiser steps taken before this one."""
        decay = decay_at(self.decay, step)
        parameters = list(self.engine.module.parameters())
        with gathered(self.engine, parameters):
            torch._foreach_lerp_(list(self.average.values()), [p.detach().float() for p in parameters], 1 - decay)

    def state(self) -> dict[str, torch.Tensor]:
        return {n: t.to("cpu", copy=True).contiguous() for n, t in self.average.items()}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        for name, tensor in self.average.items():
            tensor.copy_(state[name])


def decay_at(decay: float, step: int) -> float:
    """The decay rises as (1 + step) / (10 + step) to its end value, so that the first random weights are soon forgotten."""
    return min(decay, (1 + step) / (10 + step))
