"""Classification of whole samples: exclusive classes by softmax, or several findings at once by sigmoid."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax, one_hot

from hepdist.tasks import forward, selected

if TYPE_CHECKING:
    from hepdist.recipe import Recipe
    from hepdist.shards.manifest import Manifest


class Classification:
    """Cross-entropy on label int64[b] (-1: unlabelled), or binary cross-entropy on label uint8[b, K] where the cohort is multi-label."""

    def __init__(self, recipe: Recipe, manifest: Manifest) -> None:
        self.classes = manifest.label_names
        self.multilabel = manifest.multilabel
        self.smoothing = recipe.task.label_smoothing
        self.test_flip = recipe.augment.test_flip
        self.select, self.higher_is_better = selected(recipe, "auroc", ("auroc", "accuracy", "loss"))
        self.class_weights = _class_weights(manifest) if recipe.task.class_weights == "balanced" else None

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        logits = forward(model, batch)
        assert isinstance(logits, Tensor)
        if logits.ndim == 3:  # [b, members, K]: each member of an ensemble learns as if it were alone
            return torch.stack([self._loss(member, batch) for member in logits.unbind(1)]).mean(0)
        return self._loss(logits, batch)

    def _loss(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        logits, label = logits.float(), batch["label"]
        target = self._target(label)
        if "mixed_share" in batch:  # augment's mixup
            share = batch["mixed_share"][:, None]
            target = share * target + (1 - share) * self._target(batch["mixed_label"])
        weights = 1.0 if self.class_weights is None else torch.tensor(self.class_weights, device=logits.device)
        if self.multilabel:
            positive = 1 + (weights - 1) * target  # the weight of a finding counts where it is present
            return (binary_cross_entropy_with_logits(logits, target, reduction="none") * positive).mean(1)
        return -(weights * target * log_softmax(logits, dim=1)).sum(1)

    def _target(self, label: Tensor) -> Tensor:
        """float32[b, K] with label smoothing; a row of zeros where unlabelled."""
        count = len(self.classes)
        if self.multilabel:
            return label.float() * (1 - self.smoothing) + self.smoothing / 2
        hot = one_hot(label.clamp(min=0), count).float() * (1 - self.smoothing) + self.smoothing / count
        return hot * (label >= 0)[:, None]

    @torch.no_grad()
    def predict(self, model: nn.Module, batch: dict[str, Tensor], extras: Collection[str] = ()) -> dict[str, np.ndarray]:
        """`probability` float32[b, K]: the mean over the mirrored images of recipe.augment.test_flip; there are no extras."""
        total = self._probability(model, batch)
        for axis in self.test_flip:
            total = total + self._probability(model, {**batch, "image": batch["image"].flip(axis + 2)})
        return {"probability": (total / (1 + len(self.test_flip))).cpu().numpy()}

    def _probability(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        logits = forward(model, batch)
        assert isinstance(logits, Tensor)
        probability = logits.float().sigmoid() if self.multilabel else logits.float().softmax(-1)
        return probability.mean(1) if probability.ndim == 3 else probability  # [b, members, K]: an ensemble's is its members' mean

    def score(self, rows: dict[str, np.ndarray]) -> dict[str, float]:
        """auroc (binary; else the mean over classes, one against the rest), accuracy (arg max, or 0.5 a finding) and loss.

        loss is the unweighted cross-entropy of `probability`. Rows with label -1 are left out; auroc is nan where a class is absent.
        """
        probability, label = rows["probability"].astype(np.float64), rows["label"]
        clipped = probability.clip(1e-7, 1 - 1e-7)
        if self.multilabel:
            accuracy = ((probability > 0.5) == label).mean()
            loss = -np.where(label > 0, np.log(clipped), np.log(1 - clipped)).mean()
            return {"auroc": _macro_auroc(probability, label), "accuracy": float(accuracy), "loss": float(loss)}
        known = label >= 0
        probability, label, clipped = probability[known], label[known], clipped[known]
        if not len(label):
            return {"auroc": float("nan"), "accuracy": float("nan"), "loss": float("nan")}
        truth = np.eye(len(self.classes))[label]
        columns = slice(1, None) if len(self.classes) == 2 else slice(None)
        return {
            "auroc": _macro_auroc(probability[:, columns], truth[:, columns]),
            "accuracy": float((probability.argmax(1) == label).mean()),
            "loss": float(-np.log(clipped[np.arange(len(label)), label]).mean()),
        }


def _macro_auroc(probability: np.ndarray, truth: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    if any(len(np.unique(column)) < 2 for column in truth.T):
        return float("nan")
    return float(np.mean([roc_auc_score(t, p) for t, p in zip(truth.T, probability.T, strict=True)]))


def _class_weights(manifest: Manifest) -> list[float]:
    """Inverse class frequency in the train split; scaled so that the mean over train rows is 1 (a class without rows gets 1)."""
    rows = np.array([manifest.counts["train"]["classes"].get(name, 0) for name in manifest.label_names], dtype=np.float64)
    if manifest.multilabel:
        total = manifest.counts["train"]["rows"]
        return [float((total - r) / r) if r else 1.0 for r in rows]
    return [float(rows.sum() / ((rows > 0).sum() * r)) if r else 1.0 for r in rows]
