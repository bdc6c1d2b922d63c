"""The learning rate as a pure function of the step, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math

from hepdist.sections import OptimSpec


def learning_rate(spec: OptimSpec, step: int, steps: int) -> float:
    """Learning rate of optimiser step `step` (from 0) of `steps`: linear warm-up, then half a cosine or constant.

    Loshchilov & Hutter, 2017 (SGDR), without restarts.
    """
    warmup = max(1, round(spec.warmup * steps)) if spec.warmup else 0
    if step < warmup:
        return spec.lr * (step + 1) / warmup
    if spec.schedule == "constant":
        return spec.lr
    done = (step - warmup) / max(1, steps - warmup)
    return spec.lr * (spec.final_lr + (1 - spec.final_lr) * 0.5 * (1 + math.cos(math.pi * done)))
