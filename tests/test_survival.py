"""Time to event: the likelihood of what was followed and nothing more, probabilities by the horizon, and Harrell's concordance."""

from __future__ import annotations

import math
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hepdist.evaluation.concordance import concordance
from hepdist.recipe import Recipe
from hepdist.spec import parse
from hepdist.tasks.survival import Survival
from hepdist.training.batching import weigh


class Constant(nn.Module):
    """Says the same logits whatever it reads."""

    inputs = ("emr",)

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, emr: Tensor) -> Tensor:
        return self.logits.expand(len(emr), *self.logits.shape)


def task(intervals: int = 4, horizon: float = 100.0, **changes: Any) -> Survival:
    values = {
        "name": "s", "data": {"cohort": "c", "emr": True}, "model": {"family": "mlp"}, "task": {"kind": "survival", "intervals": intervals, **changes}
    }  # fmt: skip
    manifest: Any = SimpleNamespace(label_rule={"horizon_days": horizon})
    return Survival(parse(Recipe, values), manifest)


HAZARD = torch.tensor([0.1, 0.2, 0.3, 0.4])
MODEL = Constant(torch.logit(HAZARD))


@pytest.mark.parametrize(
    ("days", "event", "likelihood"),
    [
        (60, 1, 0.9 * 0.8 * 0.3),
        (50, 1, 0.9 * 0.2),  # an interval holds its last day
        (100, 1, 0.9 * 0.8 * 0.7 * 0.4),
        (101, 1, 0.9 * 0.8 * 0.7 * 0.6),
        (100, 0, 0.9 * 0.8 * 0.7 * 0.6),
        (62, 0, 0.9 * 0.8),  # censored before the middle of its interval
        (63, 0, 0.9 * 0.8 * 0.7),
        (0, 0, 1.0),
    ],
)
def test_the_loss_is_the_likelihood_of_what_was_followed(days, event, likelihood):
    batch = {"emr": torch.zeros(1, 1), "followup": torch.tensor([[float(days), float(event)]])}
    assert task().loss(MODEL, batch).tolist() == pytest.approx([-math.log(likelihood)], abs=1e-6)


def test_the_probability_is_that_of_the_event_by_the_horizon_and_the_mean_of_members():
    free = 0.9 * 0.8 * 0.7 * 0.6
    assert task().predict(MODEL, {"emr": torch.zeros(2, 1)})["probability"].tolist() == [pytest.approx([free, 1 - free])] * 2
    both = Constant(torch.stack((torch.logit(HAZARD), torch.full((4,), -50.0))))
    batch = {"emr": torch.zeros(1, 1), "followup": torch.tensor([[60.0, 1.0]])}
    assert task().predict(both, batch)["probability"][0].tolist() == pytest.approx([(free + 1) / 2, (1 - free) / 2])
    assert task().loss(both, batch).tolist() == pytest.approx([(-math.log(0.9 * 0.8 * 0.3) + 50) / 2], rel=1e-5)


def test_rows_without_a_follow_up_have_no_weight_and_censored_ones_have():
    batch = {"row": torch.arange(3), "label": torch.tensor([-1, -1, 1]), "followup": torch.tensor([[0.0, 0], [30, 0], [20, 1]])}
    assert weigh(batch)["weight"].tolist() == [0, 1, 1]


def test_concordance_counts_every_comparable_pair_as_often_as_its_rows():
    rng = np.random.default_rng(3)
    risk, days, event = rng.integers(0, 6, 40).astype(float), rng.integers(1, 15, 40).astype(float), rng.random(40) < 0.5
    weight = np.stack([np.ones(40), rng.integers(0, 3, 40).astype(float)])
    expected = []
    for w in weight:
        right = pairs = 0.0
        for i, j in combinations(range(40), 2):
            first, second = (i, j) if (days[i], not event[i]) < (days[j], not event[j]) else (j, i)
            if event[first] and (days[first] < days[second] or not event[second]):
                pairs += w[i] * w[j]
                right += w[i] * w[j] * ((risk[first] > risk[second]) + (risk[first] == risk[second]) / 2)
        expected.append(right / pairs)
    assert concordance(risk, days, event, weight).tolist() == pytest.approx(expected)
    assert concordance(-days, days, np.ones(40, bool), weight).tolist() == [1.0, 1.0]
    assert np.isnan(concordance(risk, days, np.zeros(40, bool), weight)).all()


def test_scores_take_labelled_rows_for_auroc_and_all_followed_ones_for_concordance():
    risk = np.array([0.9, 0.2, 0.4, 0.5])
    rows = {
        "probability": np.stack([1 - risk, risk], 1).astype(np.float32), "label": np.array([1, 0, -1, -1]),
        "followup": np.array([[10, 1], [200, 0], [30, 0], [0, 0]], np.float32),
    }  # fmt: skip
    found = task().score(rows)
    assert found["auroc"] == 1.0 and found["concordance"] == 1.0
    assert found["loss"] == pytest.approx(-(math.log(0.9) + math.log(0.8)) / 2, rel=1e-5)
