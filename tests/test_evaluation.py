"""Scores equal scikit-learn's and torchmetrics', their intervals are those of resampled patients, and result.json is plain JSON."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from scipy.stats import sem, t
from sklearn import metrics as sk
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from hepdist.errors import RunError
from hepdist.evaluation.bootstrap import expanded_level, intervals, percentile_interval, resampled_weights
from hepdist.evaluation.metrics import (
    auroc,
    average_precision,
    choose_threshold,
    classification_scores,
    multilabel_scores,
    segmentation_scores,
)
from hepdist.evaluation.result import read_result, summarise, write_result
from hepdist.evaluation.wording import scores_of


def binary(rows: int = 624, seed: int = 0, decimals: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Labels and float[n, 2] probabilities; few decimals, so that many are tied."""
    rng = np.random.default_rng(seed)
    label = (rng.random(rows) < 0.6).astype(np.int64)
    positive = (1 / (1 + np.exp(-rng.normal(1.5 * label - 0.7, 1.2)))).round(decimals)
    return label, np.stack([1 - positive, positive], axis=1)


def multiclass(rows: int = 300, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, rows)
    logits = rng.normal(0, 1, (rows, classes)) + 1.3 * np.eye(classes)[label]
    return label, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def integer_weights(rows: int, resamples: int = 5) -> np.ndarray:
    weight = np.random.default_rng(9).integers(0, 4, (resamples, rows)).astype(np.float64)
    return np.concatenate([np.ones((1, rows)), weight])


def predictions(label: np.ndarray, probability: np.ndarray, rows_a_patient: int = 2) -> pd.DataFrame:
    rows = len(label)
    table = {
        "sample_id": [f"{i:016x}" for i in range(rows)],
        "patient": [f"{i // rows_a_patient:016x}" for i in range(rows)],
        "split": "test",
    }
    columns = {f"probability_{k}": probability[:, k].astype(np.float32) for k in range(probability.shape[1])}
    return pd.DataFrame(table | {"label": pd.array(label, dtype="Int64")} | columns)


def test_binary_scores_equal_scikit_learn_for_any_row_weights() -> None:
    label, probability = binary()
    called = probability[:, 1] >= 0.4
    weight = integer_weights(len(label))
    scores = classification_scores(label, probability, weight, threshold=0.4)
    for r, w in enumerate(weight):
        expected = {
            "auroc": sk.roc_auc_score(label, probability[:, 1], sample_weight=w),
            "average_precision": sk.average_precision_score(label, probability[:, 1], sample_weight=w),
            "accuracy": sk.accuracy_score(label, called, sample_weight=w),
            "balanced_accuracy": sk.balanced_accuracy_score(label, called, sample_weight=w),
            "sensitivity": sk.recall_score(label, called, sample_weight=w),
            "specificity": sk.recall_score(label, called, sample_weight=w, pos_label=0),
            "ppv": sk.precision_score(label, called, sample_weight=w),
            "npv": sk.precision_score(label, called, sample_weight=w, pos_label=0),
            "f1": sk.f1_score(label, called, sample_weight=w),
            "brier": sk.brier_score_loss(label, probability[:, 1], sample_weight=w),
        }
        for name, value in expected.items():
            assert scores[name][r] == pytest.approx(value, abs=1e-12), name


def test_multiclass_scores_equal_scikit_learn_for_any_row_weights() -> None:
    label, probability = multiclass()
    weight = integer_weights(len(label))
    scores = classification_scores(label, probability, weight)
    assert "specificity" not in scores
    for r, w in enumerate(weight):
        expected = {
            "auroc": sk.roc_auc_score(label, probability, multi_class="ovr", average="macro", sample_weight=w),
            "average_precision": sk.average_precision_score(np.eye(4)[label], probability, average="macro", sample_weight=w),
            "balanced_accuracy": sk.balanced_accuracy_score(label, probability.argmax(axis=1), sample_weight=w),
            "brier": sk.brier_score_loss(label, probability, sample_weight=w),
        }
        for name, value in expected.items():
            assert scores[name][r] == pytest.approx(value, abs=1e-12), name
        recall = sk.recall_score(label, probability.argmax(axis=1), average=None, sample_weight=w)
        np.testing.assert_allclose(scores["sensitivity_per_class"][r], recall, atol=1e-12)


def test_ordinal_scores_equal_scikit_learn_for_any_row_weights() -> None:
    label, probability = multiclass()
    weight = integer_weights(len(label))
    scores = classification_scores(label, probability, weight, ordinal=True)
    decision = probability.argmax(axis=1)
    for r, w in enumerate(weight):
        kappa = sk.cohen_kappa_score(label, decision, weights="quadratic", sample_weight=w)
        assert scores["quadratic_kappa"][r] == pytest.approx(kappa, abs=1e-12)
        assert scores["mae"][r] == pytest.approx(sk.mean_absolute_error(label, decision, sample_weight=w), abs=1e-12)
    same = np.zeros(4, np.int64)
    assert np.isnan(classification_scores(same, np.eye(4)[same], np.ones((1, 4)), ordinal=True)["quadratic_kappa"]).all()


def test_multilabel_scores_equal_scikit_learn_for_any_row_weights() -> None:
    rng = np.random.default_rng(2)
    label = (rng.random((200, 3)) < [0.2, 0.5, 0.7]).astype(np.int64)
    probability = np.clip(0.3 * label + rng.random((200, 3)) * 0.7, 0, 1).round(2)
    called = probability >= 0.6
    weight = integer_weights(200)
    scores = multilabel_scores(label, probability, weight, threshold=0.6)
    for r, w in enumerate(weight):
        assert scores["auroc"][r] == pytest.approx(sk.roc_auc_score(label, probability, average="macro", sample_weight=w), abs=1e-12)
        expected = sk.average_precision_score(label, probability, average="macro", sample_weight=w)
        assert scores["average_precision"][r] == pytest.approx(expected, abs=1e-12)
        assert scores["accuracy"][r] == pytest.approx(1 - sk.hamming_loss(label, called, sample_weight=w), abs=1e-12)
        recall = sk.recall_score(label, called, average=None, sample_weight=w)
        np.testing.assert_allclose(scores["sensitivity_per_class"][r], recall, atol=1e-12)
        specificity = sk.recall_score(1 - label, ~called, average=None, sample_weight=w)
        assert scores["specificity"][r] == pytest.approx(specificity.mean(), abs=1e-12)


def test_calibration_error_equals_torchmetrics() -> None:
    label, probability = binary(decimals=9)
    ours = classification_scores(label, probability, np.ones((1, len(label))))["ece"][0]
    theirs = binary_calibration_error(torch.tensor(probability[:, 1]), torch.tensor(label), n_bins=15, norm="l1")
    assert ours == pytest.approx(float(theirs), abs=1e-6)
    label, probability = multiclass()
    ours = classification_scores(label, probability, np.ones((1, len(label))))["ece"][0]
    theirs = multiclass_calibration_error(torch.tensor(probability), torch.tensor(label), num_classes=4, n_bins=15, norm="l1")
    assert ours == pytest.approx(float(theirs), abs=1e-6)


def test_a_class_that_the_split_lacks_is_left_out_of_the_macro_average() -> None:
    label, probability = multiclass()
    kept = label != 3
    label, probability = label[kept], probability[kept]
    scores = classification_scores(label, probability, np.ones((1, len(label))))
    expected = np.mean([sk.roc_auc_score(label == k, probability[:, k]) for k in range(3)])
    assert scores["auroc"][0] == pytest.approx(expected, abs=1e-12)
    assert np.isnan(scores["auroc_per_class"][0, 3])


def test_ranking_scores_are_undefined_where_one_class_is_missing() -> None:
    truth, score, weight = np.array([True, True]), np.array([0.2, 0.9]), np.ones((1, 2))
    assert np.isnan(auroc(truth, score, weight)[0])
    assert np.isnan(average_precision(~truth, score, weight)[0])


def test_segmentation_leaves_out_empty_pairs_and_counts_infinite_distances() -> None:
    nan, inf = np.nan, np.inf
    dice = np.array([[0.9, 0.8], [0.7, nan], [0.0, 0.6]])
    hd95 = np.array([[1.0, 2.0], [3.0, 0.0], [inf, 4.0]])
    volume, truth = np.array([[2.0, 1.0], [1.0, 0.0], [0.0, 3.0]]), np.array([[1.0, 1.0], [2.0, 0.0], [3.0, 1.0]])
    nsd = np.array([[0.9, 0.8], [0.7, nan], [0.0, 0.5]])
    scores = segmentation_scores(dice, hd95, volume, truth, np.ones((1, 3)), nsd)
    np.testing.assert_allclose(scores["dice_per_class"][0], [1.6 / 3, 0.7])
    assert scores["dice"][0] == pytest.approx((1.6 / 3 + 0.7) / 2)
    iou = [np.mean([0.9 / 1.1, 0.7 / 1.3, 0.0]), np.mean([0.8 / 1.2, 0.6 / 1.4])]
    np.testing.assert_allclose(scores["iou_per_class"][0], iou)
    assert scores["iou"][0] == pytest.approx(np.mean(iou))
    np.testing.assert_allclose(scores["nsd_per_class"][0], [1.6 / 3, 0.65])
    np.testing.assert_allclose(scores["hd95_per_class"][0], [2.0, 3.0])
    assert scores["hd95"][0] == pytest.approx(2.5)
    assert scores["hd95_infinite_share"][0] == pytest.approx(1 / 5)
    np.testing.assert_allclose(scores["volume_bias_ml_per_class"][0], [-1.0, 2 / 3])
    np.testing.assert_allclose(scores["volume_error_ml_per_class"][0], [5 / 3, 2 / 3])


def test_threshold_half_ignores_validation_and_the_other_rule_maximises_balanced_accuracy() -> None:
    label, probability = binary(rows=200, decimals=1)
    assert choose_threshold(probability[:, 1], label, "half") == 0.5
    chosen = choose_threshold(probability[:, 1], label, "validation")
    best = max(sk.balanced_accuracy_score(label, probability[:, 1] >= t) for t in np.linspace(0, 1, 201))
    assert sk.balanced_accuracy_score(label, probability[:, 1] >= chosen) == pytest.approx(best, abs=1e-12)
    assert chosen not in probability[:, 1], "lies between two probabilities, so that rounding can't flip a case"


def test_threshold_prefers_half_among_equals_and_refuses_one_class() -> None:
    assert choose_threshold(np.array([0.1, 0.9]), np.array([0, 1]), "validation") == 0.5
    with pytest.raises(RunError, match=r"needs both classes in the validation split.*set task\.threshold=half"):
        choose_threshold(np.array([0.1, 0.9]), np.array([1, 1]), "validation")


def test_resamples_draw_whole_patients_and_do_not_depend_on_row_order() -> None:
    patient = np.array(["b", "a", "c", "a", "b", "a"])
    weight = np.concatenate(list(resampled_weights(patient, 50, seed=3)))
    assert weight.shape == (50, 6)
    np.testing.assert_array_equal(weight[:, 1], weight[:, 3])
    np.testing.assert_array_equal(weight[:, [0, 1, 2]].sum(axis=1), np.full(50, 3))
    order = np.array([5, 0, 2, 4, 1, 3])
    np.testing.assert_array_equal(np.concatenate(list(resampled_weights(patient[order], 50, seed=3))), weight[:, order])


def test_resamples_do_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    patient = np.arange(40).astype(str)
    whole = np.concatenate(list(resampled_weights(patient, 30, seed=1)))
    monkeypatch.setattr("hepdist.evaluation.bootstrap.BLOCK_BYTES", 8 * 40 * 7)
    blocks = list(resampled_weights(patient, 30, seed=1))
    assert [len(b) for b in blocks] == [7, 7, 7, 7, 2]
    np.testing.assert_array_equal(np.concatenate(blocks), whole)


def test_intervals_equal_scikit_learn_run_on_every_resample() -> None:
    label, probability = binary(rows=120)
    patient = np.repeat(np.arange(60), 2).astype(str)
    bounds = intervals(lambda w: classification_scores(label, probability, w), patient, 200, seed=4)
    drawn = [
        sk.roc_auc_score(label, probability[:, 1], sample_weight=w) for w in np.concatenate(list(resampled_weights(patient, 200, seed=4)))
    ]
    outside = (1 - expanded_level(60)) / 2
    assert (bounds["auroc"].low, bounds["auroc"].high) == pytest.approx(tuple(np.quantile(drawn, [outside, 1 - outside])), abs=1e-12)


def test_the_interval_of_a_mean_over_few_patients_is_as_wide_as_students() -> None:
    value = np.random.default_rng(3).normal(5, 2, 12)
    bound = intervals(lambda w: {"mean": w @ value / w.sum(axis=1)}, np.arange(12).astype(str), 40_000, seed=0)["mean"]
    low, high = t.interval(0.95, 11, value.mean(), sem(value))
    assert float(bound.high - bound.low) == pytest.approx(high - low, rel=0.04)
    plain = 2 * 1.96 * value.std() / np.sqrt(12)  # what percentiles as they are would give
    assert plain < 0.87 * (high - low)
    assert expanded_level(10**6) == pytest.approx(0.95, abs=1e-5)
    assert expanded_level(1) == 0.95


def test_one_patient_has_no_interval():
    bound = intervals(lambda w: {"mean": w @ np.arange(6.0) / w.sum(axis=1)}, np.array(["p"] * 6), 50, seed=0)["mean"]
    assert np.isnan(bound.low) and np.isnan(bound.high) and bound.skipped == 50


def test_resamples_with_one_class_are_skipped_and_counted() -> None:
    label, score, patient = np.array([0, 0, 0, 1]), np.array([0.1, 0.6, 0.3, 0.5]), np.array(list("abcd"))
    weights = np.concatenate(list(resampled_weights(patient, 500, seed=0)))
    one_class = int(((weights[:, 3] == 0) | (weights[:, 3] == 4)).sum())
    bounds = intervals(lambda w: {"auroc": auroc(label == 1, score, w)}, patient, 500, seed=0)
    assert bounds["auroc"].skipped == one_class > 0
    assert 0 <= bounds["auroc"].low < bounds["auroc"].high <= 1


def test_interval_of_a_score_without_any_value_is_nan() -> None:
    drawn = np.array([[0.1, np.nan], [0.3, np.nan]])
    bound = percentile_interval(drawn)
    assert bound.low[0] == pytest.approx(0.105)
    assert np.isnan(bound.high[1])
    assert bound.skipped == 2
    assert np.isnan(percentile_interval(drawn[:, 1]).low)


@pytest.mark.slow
def test_intervals_hold_the_true_value_about_95_times_in_100_although_rows_of_a_patient_are_alike() -> None:
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(60), 4).astype(str)
    held = {"patients": 0, "rows": 0}
    for trial in range(300):
        value = (np.repeat(rng.normal(0, 1, 60), 4) + rng.normal(0, 0.3, 240))[:, None]
        for unit, owner in (("patients", patient), ("rows", np.arange(240).astype(str))):
            bound = intervals(lambda w, v=value: {"mean": (w @ v)[:, 0] / w.sum(axis=1)}, owner, 300, seed=trial)["mean"]
            held[unit] += bool(bound.low <= 0 <= bound.high)
    assert 0.91 <= held["patients"] / 300 <= 0.98
    assert held["rows"] / 300 < 0.75, "resampling rows would claim too much"


def test_summary_of_a_classifier_has_each_score_with_its_interval_and_is_deterministic() -> None:
    label, probability = binary(rows=200)
    table = predictions(label, probability)
    block = summarise("classification", table, 0.5, ("normal", "pneumonia"), bootstrap=100, seed=0)
    assert (block["n"], block["patients"], block["unlabelled"]) == (200, 100, 0)
    assert block["classes"] == {"normal": int((label == 0).sum()), "pneumonia": int((label == 1).sum())}
    for name in ("auroc", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "average_precision", "ece", "brier"):
        low, high = block[f"{name}_ci"]
        assert low <= block[name] <= high or name == "ece", name  # ECE is biased upward in resamples
    assert summarise("classification", pa.Table.from_pandas(table), 0.5, ("normal", "pneumonia"), bootstrap=100, seed=0) == block
    assert summarise("classification", table.sample(frac=1, random_state=1), 0.5, ("normal", "pneumonia"), 100, 0) == block, "row order"


def test_summary_of_ordered_classes_has_their_scores_and_others_do_not() -> None:
    label, probability = multiclass(rows=120)
    grades = ("none", "mild", "moderate", "severe")
    block = summarise("classification", predictions(label, probability), 0.5, grades, 50, 0, ordinal=True)
    for name in ("quadratic_kappa", "mae"):
        low, high = block[f"{name}_ci"]
        assert low <= block[name] <= high
    assert {s.title for s in scores_of(block)} >= {"Quadratic kappa", "Mean absolute error"}
    assert "mae" not in summarise("classification", predictions(label, probability), 0.5, grades, 50, 0)


def test_unlabelled_rows_are_counted_and_not_scored() -> None:
    label, probability = binary(rows=60)
    table = predictions(label, probability)
    table.loc[:9, "label"] = pd.NA
    block = summarise("classification", table, 0.5, ("normal", "pneumonia"), 20, 0)
    assert (block["n"], block["unlabelled"]) == (50, 10)
    assert block["accuracy"] == sk.accuracy_score(label[10:], probability[10:, 1].astype(np.float32) >= 0.5)
    table["label"] = pd.NA
    with pytest.raises(RunError, match="none of the rows to score has a label"):
        summarise("classification", table, 0.5, ("normal", "pneumonia"), 20, 0)


def test_summary_of_a_segmenter_names_its_classes() -> None:
    rng = np.random.default_rng(0)
    dice = {"dice_anterior": rng.random(6), "dice_posterior": rng.random(6)}
    table = pd.DataFrame({"sample_id": list("uvwxyz"), "patient": list("aabbcc"), **dice, "hd95_anterior": 1.0, "hd95_posterior": 2.0})
    block = summarise("segmentation", table, 0.5, ("anterior", "posterior"), 50, 0)
    assert block["dice_per_class"]["anterior"] == pytest.approx(table["dice_anterior"].mean())
    assert block["dice"] == pytest.approx(np.mean(list(block["dice_per_class"].values())))
    assert set(block["dice_per_class_ci"]) == {"anterior", "posterior"}
    assert len(block["dice_per_class_ci"]["posterior"]) == 2
    assert block["hd95"] == pytest.approx(1.5)
    assert block["hd95_infinite_share"] == 0
    assert "volume_bias_ml_per_class" not in block


def test_result_json_is_valid_json_without_nan(tmp_path) -> None:
    label, probability = binary(rows=20)
    block = summarise("classification", predictions(np.ones_like(label), probability), 0.5, ("normal", "pneumonia"), 20, 0)
    train = {
        "epochs": 2,
        "samples": np.int64(40),
        "samples_per_s": math.inf,
        "data_wait_share": np.float32(0.5),
        "workers": 2,
        "wall_s": 1.5,
    }
    path = write_result(
        tmp_path,
        task="classification",
        split={"test": block},
        train=train,
        cohort_sha256="ab" * 32,
        seed=0,
        threshold={"value": 0.5, "rule": "half"},
    )
    assert path == tmp_path / "result.json"
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    result = json.loads(path.read_text(), parse_constant=refuse)
    assert read_result(tmp_path) == result
    assert list(result) == ["task", "split", "train", "cohort_sha256", "seed", "versions", "threshold"]
    assert result["versions"]["torch"] == torch.__version__
    assert result["split"]["test"]["auroc"] is None
    assert result["split"]["test"]["auroc_ci"] == [None, None]
    assert result["train"] == {"epochs": 2, "samples": 40, "samples_per_s": None, "data_wait_share": 0.5, "workers": 2, "wall_s": 1.5}


def test_run_without_scores_says_how_to_get_them(tmp_path) -> None:
    with pytest.raises(RunError, match=r"has no result\.json yet; evaluate it with: hepdist evaluate"):
        read_result(tmp_path)
