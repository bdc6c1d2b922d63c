"""What a critic's verdicts cost the model and the critic itself: three losses and the R1 penalty, a value a sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from hepdist.models.specs.adversary import Verdict
from hepdist.tasks import Task


class Contested(Task, Protocol):
    """A task whose predictions a critic can judge."""

    condition: str
    """The batch entry that a claim is judged beside: float32[b, C, *spatial]."""

    def claim(self, output: Tensor | list[Tensor]) -> Tensor:
        """float32[b, K, *spatial]: what the critic judges of the model's output."""
        ...

    def truth(self, batch: dict[str, Tensor]) -> Tensor:
        """The same of the truth, without gradients."""
        ...


def persuasion_loss(verdict: Tensor, loss: Verdict) -> Tensor:
    """float32[b]: the model's loss for claims that do not look true; verdict: the critic's logits [b, 1, *patches] on them."""
    by_patch = {
        "cross_entropy": lambda logits: softplus(-logits),  # non-saturating: steep where the critic is sure
        "least_squares": lambda logits: 0.5 * (logits - 1).square(),
        "hinge": lambda logits: -logits,
    }[loss]
    return by_patch(verdict.float()).flatten(1).mean(1)


def judgement_loss(true: Tensor, claimed: Tensor, loss: Verdict) -> Tensor:
    """float32[b]: the critic's loss; its logits [b, 1, *patches] on true pairs and on claimed ones. The mean of both sides."""
    sides: dict[Verdict, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
        "cross_entropy": (lambda logits: softplus(-logits), softplus),
        "least_squares": (lambda logits: 0.5 * (logits - 1).square(), lambda logits: 0.5 * logits.square()),
        "hinge": (lambda logits: relu(1 - logits), lambda logits: relu(1 + logits)),
    }
    of_true, of_claimed = sides[loss]
    return 0.5 * (of_true(true.float()) + of_claimed(claimed.float())).flatten(1).mean(1)


def r1_penalty(verdict: Tensor, truth: Tensor) -> Tensor:
    """float32[b]: half the squared gradient of the mean verdict with respect to the truth that it is on (Mescheder et al., 2018).

    verdict: logits [b, 1, *patches], computed from truth float32[b, K, *spatial], which requires gradients. Differentiable once more.
    """
    (slope,) = torch.autograd.grad(verdict.float().flatten(1).mean(1).sum(), truth, create_graph=True)
    return 0.5 * slope.square().flatten(1).sum(1)
