"""What a prediction rests on: Grad-CAM of an image, and how much ranking suffers when a column's values change hands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, softplus

from hepdist.evaluation.bootstrap import percentile_interval, resampled_weights
from hepdist.evaluation.metrics import Floats
from hepdist.tasks import forward


def grad_cam(model: nn.Module, batch: dict[str, Tensor], evidence: Callable[[Tensor], Tensor]) -> Tensor:
    """float32[b, *spatial] from 0 to 1: where the last feature maps speak for what `evidence` says (Selvaraju et al., 2017).

    batch: normalised, as the model reads it; evidence: from logits to float[b], such as the logit of one class. The feature maps are the output of
    the last layer that still has places, so the map is as coarse as these; 0 everywhere where nothing speaks for it.
    """
    places = batch["image"].ndim
    maps: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == places and output.requires_grad and output[0, 0].numel() > 1:
            maps[:] = [output]

    hooks = [module.register_forward_hook(keep) for module in model.modules() if not list(module.children())]
    try:
        with torch.enable_grad():
            image = batch["image"].detach().clone().requires_grad_(True)
            logits = forward(model, {**batch, "image": image})
            assert isinstance(logits, Tensor), "put the model into evaluation mode first"
            (slope,) = torch.autograd.grad(evidence(logits.float()).sum(), maps)
    finally:
        for hook in hooks:
            hook.remove()
    weight = slope.flatten(2).mean(2)[(..., *(None,) * (places - 2))]
    found = (weight * maps[0]).sum(1, keepdim=True).clamp(min=0).detach()
    found = interpolate(found, size=batch["image"].shape[2:], mode="bilinear" if places == 4 else "trilinear", align_corners=False)[:, 0]
    highest = found.flatten(1).amax(1)[(..., *(None,) * (places - 2))]
    return torch.where(highest > 0, found / highest.clamp(min=1e-30), 0.0)


def evidence_for(task_kind: str, target: int, *, ordinal: bool) -> Callable[[Tensor], Tensor]:
    """What speaks for class `target`, from logits float[b, K] or of an ensemble's members [b, members, K]; of survival, for an early event."""
    from hepdist.tasks.classification import ordinal_log_probability

    def evidence(logits: Tensor) -> Tensor:
        logits = logits.mean(1) if logits.ndim == 3 else logits
        if task_kind == "survival":
            return softplus(logits).sum(1)  # the cumulated hazard
        return (ordinal_log_probability(logits) if ordinal else logits)[:, target]

    return evidence


@dataclass(frozen=True)
class Importance:
    """How much a score falls when one input's values are dealt anew among the rows."""

    name: str
    fall: float
    low: float
    high: float
    """95 % interval over resampled patients."""


def permutation_importance(
    predict: Callable[[str | None, np.ndarray], Floats],
    names: list[str],
    score: Callable[[Floats], Callable[[Floats], Floats]],
    patient: np.ndarray,
    *,
    repeats: int,
    resamples: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Importance]:
    """The fall of a score for each named input, the largest first (Breiman, 2001; Fisher et al., 2019).

    predict: from a name and an order int64[n] to the probabilities float[n, K] of all rows, with that input taken from the rows in that order
    (None: as they are); score: from probabilities to a function of weight float64[r, n]. Each input is dealt `repeats` times. Of inputs that
    say the same, each alone seems to matter little: the other still says it.
    """
    n = len(patient)
    weights = [np.ones((1, n)), *resampled_weights(patient, resamples, seed)]
    plain = score(predict(None, np.arange(n)))
    whole = np.concatenate([plain(weight) for weight in weights])
    found = []
    for number, name in enumerate(names):
        falls = []
        for repeat in range(repeats):
            dealt = score(predict(name, np.random.default_rng([seed, number, repeat]).permutation(n)))
            falls.append(whole - np.concatenate([dealt(weight) for weight in weights]))
            if progress:
                progress(number * repeats + repeat + 1, len(names) * repeats)
        mean = np.mean(falls, axis=0)
        bound = percentile_interval(mean[1:])
        found.append(Importance(name, float(mean[0]), float(bound.low), float(bound.high)))
    return sorted(found, key=lambda importance: -importance.fall)
