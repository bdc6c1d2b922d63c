"""Classification of whole samples: exclusive classes by softmax, ordered ones by steps, or several findings at once by sigmoid."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, logsigmoid, one_hot

from hepdist.errors import RecipeError
from hepdist.evaluation.metrics import ordinal_scores
from hepdist.tasks import forward, selected

if TYPE_CHECKING:
    from hepdist.recipe import Recipe
    from hepdist.shards.manifest import Manifest


AUXILIARY = 0.3
"""Weight of the loss of each auxiliary head (Szegedy et al., 2015)."""


class Classification:
    """Cross-entropy on label int64[b] (-1: unlabelled), or binary cross-entropy on label uint8[b, K] where the cohort is multi-label."""

    def __init__(self, recipe: Recipe, manifest: Manifest) -> None:
        self.classes = manifest.label_names
        self.multilabel = manifest.multilabel
        self.ordinal = recipe.task.ordinal
        if self.ordinal and self.multilabel:
            raise RecipeError("recipe key 'task.ordinal' is true, but the cohort's findings may occur together; set task.ordinal=false")
        self.focal = recipe.task.focal
        self.smoothing = recipe.task.label_smoothing
        self.test_flip = recipe.augment.test_flip
        metrics = ("auroc", "accuracy", "loss", *(("quadratic_kappa", "mae") if self.ordinal else ()))
        self.select, self.higher_is_better = selected(recipe, "auroc", metrics)
        self.class_weights = _class_weights(manifest) if recipe.task.class_weights == "balanced" else None

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """That of the logits; from a model with auxiliary heads, plus AUXILIARY times that of each further list entry."""
        label = batch["label"]
        target = self._target(label)
        if "mixed_share" in batch:  # augment's mixup or cutmix
            share = batch["mixed_share"][:, None]
            target = share * target + (1 - share) * self._target(batch["mixed_label"])
        outputs = forward(model, batch)
        if isinstance(outputs, Tensor):
            return self._loss(outputs.float(), target)
        main, *others = [self._loss(logits.float(), target) for logits in outputs]
        return main + AUXILIARY * torch.stack(others).sum(0) if others else main

    def _loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """float32[b]; target float32[b, K]. Focal (Lin et al., 2017): each term counts (1 - probability) ** gamma, so easy samples fade."""
        if logits.ndim == 3:  # [b, members, K]: each member of an ensemble learns as if it were alone
            return torch.stack([self._loss(member, target) for member in logits.unbind(1)]).mean(0)
        weights = 1.0 if self.class_weights is None else torch.tensor(self.class_weights, device=logits.device)
        if self.multilabel:
            present, absent = self._focal(logsigmoid(logits)), self._focal(logsigmoid(-logits))
            # The weight of a finding counts where it is present.
            return -((1 + (weights - 1) * target) * (target * present + (1 - target) * absent)).mean(1)
        return -(weights * target * self._focal(self._log_probability(logits))).sum(1)

    def _focal(self, log_probability: Tensor) -> Tensor:
        if not self.focal:
            return log_probability
        miss = (-torch.expm1(log_probability)).clamp(min=1e-6)  # a root of 0 has no finite slope
        return miss**self.focal * log_probability

    def _log_probability(self, logits: Tensor) -> Tensor:
        return ordinal_log_probability(logits) if self.ordinal else log_softmax(logits, dim=-1)

    def _target(self, label: Tensor) -> Tensor:
        """float32[b, K] with label smoothing; a row of zeros where unlabelled."""
        count = len(self.classes)
        if self.multilabel:
            return label.float() * (1 - self.smoothing) + self.smoothing / 2
        hot = one_hot(label.clamp(min=0), count).float() * (1 - self.smoothing) + self.smoothing / count
        return hot * (label >= 0)[:, None]

    @torch.no_grad()
    def predict(self, model: nn.Module, batch: dict[str, Tensor], extras: Collection[str] = ()) -> dict[str, np.ndarray]:
        """`probability` float32[b, K], as `probability` gives it; there are no extras."""
        return {"probability": self.probability(model, batch).cpu().numpy()}

    @torch.no_grad()
    def probability(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """float32[b, K]: the mean over the mirrored images of recipe.augment.test_flip."""
        total = self._probability(model, batch)
        for axis in self.test_flip:
            total = total + self._probability(model, {**batch, "image": batch["image"].flip(axis + 2)})
        return total / (1 + len(self.test_flip))

    def _probability(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        logits = forward(model, batch)
        assert isinstance(logits, Tensor)  # auxiliary heads answer in training only
        probability = logits.float().sigmoid() if self.multilabel else self._log_probability(logits.float()).exp()
        return probability.mean(1) if probability.ndim == 3 else probability  # [b, members, K]: an ensemble's is its members' mean

    def score(self, rows: dict[str, np.ndarray]) -> dict[str, float]:
        """auroc (binary; else the mean over classes, one against the rest), accuracy (arg max, or 0.5 a finding) and loss.

        loss is the unweighted cross-entropy of `probability`. Ordered classes: also quadratic_kappa and mae, as in evaluation/metrics.py.
        Rows with label -1 are left out; auroc is nan where a class is absent.
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
            return dict.fromkeys(("auroc", "accuracy", "loss", *(("quadratic_kappa", "mae") if self.ordinal else ())), float("nan"))
        ordered = {}
        if self.ordinal:
            found = ordinal_scores(label, probability.argmax(1), len(self.classes), np.ones((1, len(label))))
            ordered = {name: float(values[0]) for name, values in found.items()}
        truth = np.eye(len(self.classes))[label]
        columns = slice(1, None) if len(self.classes) == 2 else slice(None)
        return {
            "auroc": _macro_auroc(probability[:, columns], truth[:, columns]),
            "accuracy": float((probability.argmax(1) == label).mean()),
            "loss": float(-np.log(clipped[np.arange(len(label)), label]).mean()),
            **ordered,
        }


def ordinal_log_probability(logits: Tensor) -> Tensor:
    """Logarithms of the probabilities of K ordered classes, float[..., K], from logits float[..., K].

    The chance of reaching class k from k - 1 is sigmoid(logits[k] - logits[k - 1]), and a sample is of the last class it reaches. So the
    K - 1 chances of being at least k never rise with k, and the loss of a sample is that of the binary decisions on its way: the
    conditional training of CORN (Shi, Cao & Raschka, 2023) on a head of K logits, of which like softmax only differences count.
    """
    steps = logits.diff(dim=-1)
    nothing = torch.zeros_like(logits[..., :1])
    return torch.cat((nothing, logsigmoid(steps).cumsum(-1)), -1) + torch.cat((logsigmoid(-steps), nothing), -1)


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
