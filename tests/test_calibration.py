"""Temperature, calibration errors, shares and operating points: equal to references, chosen on validation, honest at their ends."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.stats import binomtest, chi2_contingency
from sklearn.metrics import log_loss

from hepdist.evaluation.calibration import apply_temperature, decisions_of, fit_temperature
from hepdist.evaluation.further import Chosen, choose, further
from hepdist.evaluation.metrics import calibration_scores
from hepdist.evaluation.operating import apply_points, choose_points
from hepdist.evaluation.proportions import difference, proportion
from hepdist.evaluation.result import write_result
from hepdist.sections import EvaluationSpec


def overconfident(rows: int, seed: int, classes: int = 2, temperature: float = 2.5) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from calibrated probabilities, and these probabilities made `temperature` times too sure."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.2, (rows, classes))
    calibrated = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    label = (rng.random(rows)[:, None] > calibrated.cumsum(1)).sum(1)
    sure = np.exp(temperature * logits)
    return label, sure / sure.sum(1, keepdims=True)


def one(rows: int) -> np.ndarray:
    return np.ones((1, rows))


def binary_table(label: np.ndarray, probability: np.ndarray, rows_a_patient: int = 1) -> pd.DataFrame:
    rows = len(label)
    keys = {"sample_id": [f"{i:016x}" for i in range(rows)], "patient": [f"{i // rows_a_patient:016x}" for i in range(rows)]}
    return pd.DataFrame(keys | {"label": label, "probability_0": probability[:, 0], "probability_1": probability[:, 1]})


@pytest.mark.parametrize("classes", [2, 4])
def test_the_temperature_that_made_probabilities_too_sure_is_found(classes):
    label, probability = overconfident(20_000, 0, classes)
    found = fit_temperature(label, probability)
    assert found["temperature"] == pytest.approx(2.5, rel=0.05)
    assert found["log_loss_after"] < found["log_loss_before"] == pytest.approx(log_loss(label, probability))
    scaled = apply_temperature(probability, found["temperature"], multilabel=False)
    before, after = (calibration_scores(label, p, one(len(label))) for p in (probability, scaled))
    assert before["ece_equal_mass"][0] > 0.1 and after["ece_equal_mass"][0] < 0.02
    assert before["ece"][0] > 0.1 and after["ece"][0] < 0.02
    assert after["brier"][0] < before["brier"][0]


def test_the_temperature_is_that_of_least_log_loss():
    label, probability = overconfident(300, 1, classes=3)
    logits = np.log(probability)

    def loss(t: np.ndarray) -> float:
        scaled = np.exp(logits / t[0])
        return float(log_loss(label, scaled / scaled.sum(1, keepdims=True)))

    assert fit_temperature(label, probability)["temperature"] == pytest.approx(minimize(loss, [1.0]).x[0], rel=1e-3)


def test_findings_that_may_occur_together_are_scaled_each_by_itself():
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 1.5, (8000, 3))
    label = (rng.random((8000, 3)) < 1 / (1 + np.exp(-logits))).astype(np.int64)
    probability = 1 / (1 + np.exp(-0.5 * logits))
    found = fit_temperature(label, probability)
    assert found["temperature"] == pytest.approx(0.5, rel=0.06)
    scaled = apply_temperature(probability, 0.5, multilabel=True)
    np.testing.assert_allclose(scaled, 1 / (1 + np.exp(-logits)), atol=1e-9)
    each = [calibration_scores(label[:, k], np.stack([1 - scaled[:, k], scaled[:, k]], 1), one(8000))["ece"][0] for k in range(3)]
    assert calibration_scores(label, scaled, one(8000))["ece"][0] == pytest.approx(np.mean(each))


def test_scaling_keeps_order_and_decisions_and_survives_certainty():
    probability = overconfident(100, 3, classes=4)[1]
    scaled = apply_temperature(probability, 3.0, multilabel=False)
    assert (scaled.argmax(1) == probability.argmax(1)).all()
    np.testing.assert_allclose(scaled.sum(1), 1)
    certain = apply_temperature(np.array([[0.0, 1.0]]), 2.0, multilabel=False)
    assert np.isfinite(certain).all() and 0.99 < certain[0, 1] < 1


def test_validation_that_says_nothing_of_the_temperature_gives_the_reason():
    label = np.array([0, 0, 1, 1])
    right = np.where(label[:, None] == [0, 1], 0.8, 0.2)
    assert "no validation case is on the wrong side" in fit_temperature(label, right)["reason"]
    assert "one class only" in fit_temperature(np.ones(5, int), np.full((5, 2), 0.5))["reason"]
    assert "say nothing" in fit_temperature(label, 1 - right)["reason"]


def test_equal_mass_bins_hold_equally_many_rows_and_weights_count_as_rows():
    label, probability = overconfident(600, 4)
    stated = probability[:, 1]
    order = np.argsort(stated)
    expected = sum(abs((stated[part] - label[part]).sum()) for part in np.array_split(order, 15)) / 600
    assert calibration_scores(label, probability, one(600))["ece_equal_mass"][0] == pytest.approx(expected, abs=1e-12)
    tied = np.full((50, 2), 0.5)
    assert calibration_scores(label[:50], tied, one(50))["ece_equal_mass"][0] == pytest.approx(abs(label[:50].mean() - 0.5))
    weight = np.random.default_rng(0).integers(0, 3, (1, 600)).astype(float)
    rows = np.repeat(np.arange(600), weight[0].astype(int))
    weighted, repeated = (calibration_scores(label[i], probability[i], w) for i, w in ((slice(None), weight), (rows, one(len(rows)))))
    for name in ("brier", "log_loss", "ece"):
        assert weighted[name][0] == pytest.approx(repeated[name][0], abs=1e-12)


def test_a_share_of_independent_rows_has_wilsons_interval():
    for hits, rows in ((0, 20), (7, 31), (20, 20)):
        expected = binomtest(hits, rows).proportion_ci(method="wilson")
        found = proportion(np.arange(rows) < hits, np.arange(rows).astype(str))
        assert found.n == rows
        if 0 < hits < rows:  # the design effect of independent rows is n / (n - 1)
            assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.005)
        else:
            assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert np.isnan(proportion(np.zeros(0, bool), np.zeros(0, str)).value)


def test_rows_of_a_patient_that_go_together_are_worth_one():
    rng = np.random.default_rng(5)
    hit = rng.random(40) < 0.7
    patient = np.arange(40).astype(str)
    once, fivefold = proportion(hit, patient), proportion(np.repeat(hit, 5), np.repeat(patient, 5))
    assert (fivefold.low, fivefold.high) == pytest.approx((once.low, once.high), abs=1e-9)
    assert proportion(np.ones(100, bool), np.repeat(patient[:20], 5)).low == pytest.approx(
        binomtest(20, 20).proportion_ci(method="wilson").low
    )


def test_two_shares_are_compared_as_by_the_chi_square_test_and_newcombes_interval():
    patient = np.arange(120).astype(str)
    first, second = proportion(np.arange(70) < 56, patient[:70]), proportion(np.arange(80) < 48, patient[:80])
    plain = [
        type(s)(s.value, *binomtest(round(s.value * s.n), s.n).proportion_ci(method="wilson"), s.n, float(s.n)) for s in (first, second)
    ]
    found = difference(*plain)
    assert found.p == pytest.approx(chi2_contingency([[56, 14], [48, 32]], correction=False).pvalue)
    # Newcombe, 1998, table II, method 10, of 56/70 and 48/80.
    assert (round(found.value, 4), round(found.low, 4), round(found.high, 4)) == (0.2, 0.0524, 0.3339)
    assert difference(plain[0], plain[0]).p == 1


def test_operating_points_reach_on_validation_what_was_asked_for_at_the_least_cost():
    rng = np.random.default_rng(6)
    label = (rng.random(500) < 0.4).astype(np.int64)
    positive = (1 / (1 + np.exp(-rng.normal(2 * label - 1, 1.2)))).round(2)
    points = choose_points(positive, label, (0.9, 1.0), (0.95, 1.0))
    every = np.concatenate([[-1.0], np.unique(positive), [2.0]]) + 1e-9
    sensitivity = np.array([(positive[label == 1] >= t).mean() for t in every])
    specificity = np.array([(positive[label == 0] < t).mean() for t in every])
    for point in points:
        reached, cost = (sensitivity, specificity) if point["rule"] == "sensitivity" else (specificity, sensitivity)
        best = cost[reached >= point["target"] - 1e-12].max()
        other = "specificity" if point["rule"] == "sensitivity" else "sensitivity"
        assert point["validation"][point["rule"]] >= point["target"]
        assert point["validation"][other] == pytest.approx(best)
        assert point["threshold"] not in positive
    assert choose_points(positive, np.ones(500, np.int64), (0.9,), (0.9,)) == []
    applied = apply_points(points, positive, label, np.arange(500).astype(str))
    assert [p["sensitivity"] for p in applied] == [p["validation"]["sensitivity"] for p in points]
    assert applied[1]["sensitivity"] == 1 and applied[1]["sensitivity_ci"][0] < 0.99


def test_what_validation_chose_is_applied_to_test_and_to_other_cohorts_unchanged(tmp_path):
    label, probability = overconfident(400, 7)
    val, test = binary_table(label[:200], probability[:200]), binary_table(label[200:], probability[200:], 2)
    chosen = choose("classification", val, ("normal", "ill"), EvaluationSpec())
    assert chosen.calibration["n"] == 200
    assert [(p["rule"], p["target"]) for p in chosen.points] == [(r, t) for r in ("sensitivity", "specificity") for t in (0.9, 0.95)]
    block = further("classification", test, 0.5, ("normal", "ill"), 60, 0, chosen, {})
    scaled = apply_temperature(probability[200:], chosen.calibration["temperature"], multilabel=False)
    assert block["calibrated"]["log_loss"] == pytest.approx(log_loss(label[200:], scaled))
    low, high = block["calibrated"]["brier_ci"]
    assert low < block["calibrated"]["brier"] < high
    called = probability[200:, 1] >= chosen.points[0]["threshold"]
    assert block["operating_points"][0]["sensitivity"] == called[label[200:] == 1].mean()
    train = dict.fromkeys(("epochs", "samples", "workers"), 1)
    write_result(tmp_path, task="classification", split={"test": block}, train=train, cohort_sha256="0", seed=0, **chosen.facts())
    again = Chosen.of(json.loads((tmp_path / "result.json").read_text()))
    assert further("classification", test, 0.5, ("normal", "ill"), 60, 0, again, {}) == block
    assert decisions_of(tmp_path) == (0.5, chosen.calibration["temperature"])
    assert decisions_of(tmp_path / "not evaluated") == (0.5, 1.0)
    nothing = choose("classification", None, ("normal", "ill"), EvaluationSpec())
    assert further("classification", test, 0.5, ("normal", "ill"), 60, 0, nothing, {}) == {}
