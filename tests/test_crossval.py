"""Cross-validation by patient: folds keep patients whole, statistics come from the train rows alone, and comparisons are paired."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t
from sklearn.metrics import roc_auc_score
from visits import cohort_of_visits

from hepdist.errors import RecipeError, RunError
from hepdist.evaluation.crossval import FoldScores, compare, crossval, folds_of, summary
from hepdist.recipe import Recipe
from hepdist.shards.manifest import Manifest
from hepdist.spec import parse
from hepdist.training.local import as_train_split, load_rows


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    return cohort_of_visits(tmp_path_factory.mktemp("crossval"))


def recipe(cohort: Path, **sections) -> Recipe:
    values = {
        "name": "cv", "runs": str(cohort.parent / "runs"), "data": {"cohort": str(cohort), "emr": True}, "task": {"kind": "classification"},
        "model": {"family": "rnn", "width": 8, "numbers": "quantile", "members": 2}, "optim": {"lr": 0.01, "ema": 0.9},
        "train": {"epochs": 4, "global_batch": 16}, "evaluation": {"bootstrap": 50},
    }  # fmt: skip
    return parse(Recipe, {**values, **sections})


def test_every_row_is_predicted_once_a_repeat_by_a_model_that_never_saw_its_patient(cohort):
    folder = crossval(recipe(cohort), folds=3, repeats=2)
    table, result = pd.read_parquet(folder / "predictions.parquet"), json.loads((folder / "result.json").read_text())
    rows = sum(Manifest.load(cohort).rows(split) for split in ("train", "val", "test"))
    assert table.groupby("repeat")["sample_id"].nunique().tolist() == [rows, rows] and len(table) == 2 * rows
    assert (table.groupby(["repeat", "patient"])["fold"].nunique() == 1).all()
    first, second = (table[table.repeat == n].set_index("sample_id")["fold"].sort_index() for n in (0, 1))
    assert not (first == second).all()
    labelled = table[table["label"].notna()]
    by_fold = [roc_auc_score(g["label"].astype(int), g["probability_1"]) for _, g in labelled.groupby(["repeat", "fold"])]
    assert result["auroc"] == pytest.approx(np.mean(by_fold)) and result["auroc"] > 0.9
    assert result["auroc_ci"][0] <= result["auroc"] <= result["auroc_ci"][1]
    assert result["patients"] == labelled["patient"].nunique()


def test_the_same_recipe_gives_the_same_predictions_and_survival_is_scored_alike(cohort):
    once, again = (pd.read_parquet(crossval(recipe(cohort), 2, 1) / "predictions.parquet") for _ in range(2))
    pd.testing.assert_frame_equal(once, again)
    hazards = recipe(cohort, name="hazards", task={"kind": "survival", "intervals": 4})
    assert json.loads((crossval(hazards, 2, 1) / "result.json").read_text())["auroc"] > 0.9


def test_statistics_of_a_fold_come_from_its_train_rows_alone(cohort):
    manifest = Manifest.load(cohort)
    rows = load_rows(recipe(cohort), manifest)
    chosen = np.flatnonzero(rows.arrays["label"] >= 0)[::2]
    known = as_train_split(manifest, rows, chosen)
    for i in range(2):
        values = rows.arrays["sequence"][chosen][:, :, i][rows.arrays["sequence_missing"][chosen][:, :, i] == 0]
        assert known.normalisation["sequence"]["mean"][i] == pytest.approx(values.mean(dtype=np.float64))
        ends = (np.array([values.min(), values.max()], np.float64) - values.mean(dtype=np.float64)) / values.std(dtype=np.float64)
        assert known.normalisation["sequence"]["quantiles"][i][::32] == pytest.approx(ends, abs=5.1e-4)
    labels = rows.arrays["label"][chosen]
    assert known.counts["train"]["classes"] == {"no event": (labels == 0).sum(), "event": (labels == 1).sum()}


def test_folds_keep_patients_whole_and_classes_even():
    patient = np.repeat([f"p{i}" for i in range(60)], 3)
    label = np.repeat(np.arange(60) % 4 == 0, 3).astype(np.int64)
    fold = folds_of(patient, label, 5, seed=1)
    assert all(len(set(fold[patient == p])) == 1 for p in set(patient))
    assert [label[fold == k].sum() for k in range(5)] == [9] * 5
    assert np.array_equal(fold, folds_of(patient, label, 5, seed=1)) and not np.array_equal(fold, folds_of(patient, label, 5, seed=2))
    with pytest.raises(RecipeError, match=r"^2 patients can't fill 5 folds; ask for fewer$"):
        folds_of(patient[:6], label[:6], 5, seed=1)


def test_the_corrected_t_test_widens_the_variance_by_the_test_share():
    rng = np.random.default_rng(0)
    one, other = (
        FoldScores({"auroc": rng.normal(mean, 0.02, 15)}, {"auroc": rng.normal(mean, 0.01, 500)}, 100, 100, 1 / 4) for mean in (0.9, 0.85)
    )
    found = compare(one, other)
    d = one.by_fold["auroc"] - other.by_fold["auroc"]
    statistic = d.mean() / math.sqrt((1 / 15 + 1 / 4) * d.var(ddof=1))
    assert found.mean == pytest.approx(d.mean()) and found.p == pytest.approx(2 * t.sf(statistic, 14))
    assert found.t_low < found.mean < found.t_high and found.low < found.high
    assert compare(one, one).p == 1.0


def test_resamples_and_folds_without_a_score_are_left_out():
    """Three of 40 patients are positive and all are told apart: no resample has less than the full AUROC, and some have none."""
    table = pd.DataFrame(
        [
            {"repeat": repeat, "fold": i % 3, "sample_id": f"s{i}", "patient": f"p{i}", "label": int(i < 3)}
            | {"probability_0": 1.0 - (i < 3), "probability_1": float(i < 3)}
            for repeat in range(3)
            for i in range(40)
        ]
    )
    found = FoldScores.of(table, 2, resamples=500)
    assert np.isnan(found.drawn["auroc"]).any() and np.nanmin(found.drawn["auroc"]) == 1.0
    assert summary(table, 2, 500, 0)["auroc_ci"] == [1.0, 1.0]
    lone = FoldScores({"auroc": np.array([0.9, math.nan])}, {"auroc": np.array([0.9, 0.9])}, 4, 4, 1.0)
    with pytest.raises(RunError, match="auroc is defined in 1 of the folds"):
        compare(lone, lone)
