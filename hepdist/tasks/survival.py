"""Time to event by discrete hazards: the network says the risk of each interval up to the horizon, and censored rows teach as far as they go."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from hepdist.tasks import forward, selected

if TYPE_CHECKING:
    from hepdist.recipe import Recipe
    from hepdist.shards.manifest import Manifest


class Survival:
    """Likelihood of followup float32[b, 2] (days from the landmark, 1 = event) under a hazard for each of equally long intervals.

    Gensheimer & Narasimhan, 2019 (nnet-survival). What it predicts is the probability of the event by the cohort's horizon, so that it is
    scored like a classifier of that label, and by concordance over all rows, those too that are censored before the horizon.
    """

    def __init__(self, recipe: Recipe, manifest: Manifest) -> None:
        self.horizon = float(manifest.label_rule["horizon_days"])
        count = recipe.task.intervals
        self.edges = [self.horizon * j / count for j in range(count + 1)]
        self.classes = tuple(f"days {low:.0f} to {high:.0f}" for low, high in zip(self.edges, self.edges[1:], strict=False))
        self.select, self.higher_is_better = selected(recipe, "concordance", ("concordance", "auroc", "loss"))

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        logits = self._logits(model, batch)
        days, event = batch["followup"].float().unbind(1)
        survived, happened = self.intervals(days, event > 0)
        likelihood = (survived * logsigmoid(-logits) + happened * logsigmoid(logits)).sum(2)
        return -likelihood.mean(0)

    def intervals(self, days: Tensor, event: Tensor) -> tuple[Tensor, Tensor]:
        """float[b, intervals] twice: which intervals were survived, and in which the event fell; neither is after the follow-up's end.

        Whoever is censored within an interval counts as its survivor from its middle on.
        """
        edges = torch.tensor(self.edges, device=days.device)
        low, high, days, event = edges[:-1], edges[1:], days[:, None], event[:, None]
        survived = torch.where(event, days > high, days >= (low + high) / 2)
        return survived.float(), (event & (days > low) & (days <= high)).float()

    @torch.no_grad()
    def predict(self, model: nn.Module, batch: dict[str, Tensor], extras: Collection[str] = ()) -> dict[str, np.ndarray]:
        """`probability` float32[b, 2], as `probability` gives it; no extras."""
        return {"probability": self.probability(model, batch).cpu().numpy()}

    @torch.no_grad()
    def probability(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """float32[b, 2]: of no event and of the event by the horizon, the mean over members of an ensemble."""
        free = logsigmoid(-self._logits(model, batch)).sum(2).exp().mean(0)
        return torch.stack((free, 1 - free), dim=1)

    def score(self, rows: dict[str, np.ndarray]) -> dict[str, float]:
        """concordance over rows with a follow-up; auroc and loss (cross-entropy) over rows whose label at the horizon is known."""
        from sklearn.metrics import roc_auc_score

        from hepdist.evaluation.concordance import concordance

        risk, label = rows["probability"][:, 1].astype(np.float64), rows["label"]
        days, event = rows["followup"].astype(np.float64).T
        followed = days > 0
        agreed = concordance(risk[followed], days[followed], event[followed] > 0, np.ones((1, int(followed.sum()))))
        risk, label = risk[label >= 0].clip(1e-7, 1 - 1e-7), label[label >= 0]
        both = len(np.unique(label)) == 2
        return {
            "concordance": float(agreed[0]),
            "auroc": float(roc_auc_score(label, risk)) if both else float("nan"),
            "loss": float(-np.log(np.where(label == 1, risk, 1 - risk)).mean()) if len(label) else float("nan"),
        }

    def _logits(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """float32[members, b, intervals]."""
        logits = forward(model, batch)
        assert isinstance(logits, Tensor)
        return logits.float().movedim(1, 0) if logits.ndim == 3 else logits.float()[None]
