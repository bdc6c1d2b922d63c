"""AdamW (Loshchilov & Hutter 2019) of a recipe: which parameters decay, and torch's own without the compiler that it imports for itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hepdist.sections import OptimSpec


class AdamW(torch.optim.AdamW):
    """torch.optim.AdamW, whose step asks torch.compile nothing.

    torch's optimisers import all of torch._dynamo to keep themselves out of compiled graphs: 2 CPU seconds of each worker's start,
    of each restart after a fault and of each trial of a search. A step is never compiled here, and train.compile compiles the model.
    """

    step = torch.no_grad()(getattr(torch.optim.Adam.step, "__wrapped__", torch.optim.Adam.step))


for _name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
    _plain = getattr(getattr(torch.optim.Optimizer, _name), "__wrapped__", None)
    if _plain is not None:
        vars(_plain).setdefault("__dynamo_disable", _plain)  # where torch keeps what it would import the compiler for


def adamw(model: nn.Module, optim: OptimSpec) -> AdamW:
    """Fused AdamW over the model's parameters with the recipe's rates."""
    return AdamW(decay_groups(model, optim.weight_decay), lr=optim.lr, betas=(optim.beta1, optim.beta2), fused=True)


def decay_groups(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices and kernels, none on biases and norm scales, which it would only shrink."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for _, p in named if p.ndim > 1], "weight_decay": decay},
        {"params": [p for _, p in named if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [g for g in groups if g["params"]]
