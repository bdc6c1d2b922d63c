"""DeLong's variance equals the textbook's structural components, also on the published example, and counts rows of a patient as dependent."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from hepdist.evaluation.delong import auroc_covariance, auroc_interval, compare_aurocs
from hepdist.evaluation.result import summarise

OVARIAN = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1  3.8 5.7 5 1  3.7 6.7 6 1
3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0  2.3 4.4 6 1  4.2 7.6 4 0  4.0 6.6 6 0  3.5 5.8 6 1
3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1  3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1  4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1
3.3 6.8 6 0  1.7 4.0 7 0  3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1  2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1
3.3 5.7 6 1  3.7 6.9 5 1  3.6 6.6 5 1
"""
"""Albumin, total protein, K-G score and benefit of 43 patients: the example of DeLong et al., 1988, complete cases."""


def textbook(truth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUROCs and covariance of independent rows by every pair of a positive and a negative, as DeLong et al., 1988, write it."""
    above, below = [], []
    for score in scores:
        positive, negative = score[truth], score[~truth]
        psi = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
        above.append(psi.mean(axis=1))
        below.append(psi.mean(axis=0))
    covariance = np.atleast_2d(np.cov(above)) / truth.sum() + np.atleast_2d(np.cov(below)) / (~truth).sum()
    return np.array([v.mean() for v in above]), covariance


def clustered_textbook(truth: np.ndarray, score: np.ndarray, patient: np.ndarray) -> float:
    """The variance as Obuchowski, 1997, writes it, patient by patient."""
    positive, negative = score[truth], score[~truth]
    psi = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    area, v10, v01 = psi.mean(), np.zeros(len(truth)), np.zeros(len(truth))
    v10[truth], v01[~truth] = psi.mean(axis=1), psi.mean(axis=0)
    x, y = [], []
    for name in np.unique(patient):
        mine = patient == name
        x.append(v10[mine & truth].sum() - (mine & truth).sum() * area)
        y.append(v01[mine & ~truth].sum() - (mine & ~truth).sum() * area)
    x, y = np.array(x), np.array(y)
    m, n, i = truth.sum(), (~truth).sum(), len(x)
    i10, i01 = len(np.unique(patient[truth])), len(np.unique(patient[~truth]))
    s10, s01 = i10 / ((i10 - 1) * m) * (x**2).sum(), i01 / ((i01 - 1) * n) * (y**2).sum()
    s11 = i / (i - 1) * (x * y).sum()
    return s10 / m + s01 / n + 2 * s11 / (m * n)


def scored(rows: int, seed: int, models: int = 3, decimals: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Truth bool[rows] and correlated scores [models, rows] with many ties."""
    rng = np.random.default_rng(seed)
    truth = rng.random(rows) < 0.4
    shared = rng.normal(0, 1, rows) + 1.2 * truth
    return truth, (shared + rng.normal(0, 0.7, (models, rows))).round(decimals)


@pytest.mark.parametrize("rows", [9, 60, 400])
def test_one_row_a_patient_equals_the_structural_components_of_the_textbook(rows):
    for seed in range(5):
        truth, scores = scored(rows, seed)
        truth[:2], truth[2:4] = True, False
        area, covariance = auroc_covariance(truth, scores, np.arange(rows).astype(str))
        expected_area, expected = textbook(truth, scores)
        np.testing.assert_allclose(area, expected_area, atol=1e-12)
        np.testing.assert_allclose(covariance, expected, atol=1e-12)
        assert area[0] == pytest.approx(roc_auc_score(truth, scores[0]), abs=1e-12)


def test_several_rows_a_patient_equal_obuchowskis_formula():
    for seed in range(5):
        truth, scores = scored(90, seed)
        patient = np.random.default_rng(seed).integers(0, 40, 90).astype(str)
        covariance = auroc_covariance(truth, scores, patient)[1]
        for k in range(3):
            assert covariance[k, k] == pytest.approx(clustered_textbook(truth, scores[k], patient), abs=1e-12)


def test_the_ovarian_cancer_example_of_delong_1988_keeps_its_figures():
    table = np.array(OVARIAN.split(), float).reshape(-1, 4)
    truth, patient = table[:, 3] == 1, np.arange(43).astype(str)
    kg, albumin, protein = 10 - table[:, 2], table[:, 0], table[:, 1]
    area, covariance = auroc_covariance(truth, np.stack([kg, albumin, protein]), patient)
    np.testing.assert_allclose(covariance, textbook(truth, np.stack([kg, albumin, protein]))[1], atol=1e-12)
    assert area.round(4).tolist() == [0.7258, 0.7366, 0.6478]
    assert np.sqrt(np.diag(covariance)).round(4).tolist() == [0.1028, 0.0927, 0.1000]
    found = compare_aurocs(truth, albumin, kg, patient)
    assert (round(found.difference, 4), round(found.low, 4), round(found.high, 4), round(found.p, 4)) == (0.0108, -0.1761, 0.1976, 0.9102)
    assert round(compare_aurocs(truth, protein, kg, patient).p, 4) == 0.4561


def test_a_copy_of_every_row_adds_no_certainty_to_a_patient():
    truth, scores = scored(80, 3)
    patient = np.arange(80).astype(str)
    once = auroc_covariance(truth, scores, patient)[1]
    twice = auroc_covariance(np.tile(truth, 2), np.tile(scores, 2), np.tile(patient, 2))[1]
    np.testing.assert_allclose(twice, once, rtol=1e-12)
    as_if_independent = auroc_covariance(np.tile(truth, 2), np.tile(scores, 2), np.arange(160).astype(str))[1]
    assert (np.diag(as_if_independent) < 0.52 * np.diag(once)).all()


def test_the_interval_stays_within_0_and_1_and_is_undefined_without_an_error():
    low, high = auroc_interval(0.98, 0.02**2)
    assert 0.8 < low < 0.98 < high < 1
    assert np.isnan(auroc_interval(1.0, 0.0)).all()
    assert np.isnan(auroc_interval(0.9, float("nan"))).all()
    truth, scores = scored(30, 0)
    one_positive = np.arange(30) == 3
    assert np.isnan(auroc_covariance(one_positive, scores, np.arange(30).astype(str))[1]).all(), "one positive patient has no variance"
    assert np.isfinite(auroc_covariance(truth, scores, np.arange(30).astype(str))[1]).all()


def test_a_model_does_not_differ_from_itself():
    truth, scores = scored(50, 1)
    same = compare_aurocs(truth, scores[0], 3 * scores[0] + 1, np.arange(50).astype(str))
    assert (same.difference, same.p) == (0, 1)
    assert np.isnan(same.low)


def test_the_summary_holds_delongs_interval_beside_the_bootstraps():
    truth, scores = scored(200, 2, decimals=3)
    positive = 1 / (1 + np.exp(-scores[0]))
    patient = [f"{i // 2:016x}" for i in range(200)]
    table = pd.DataFrame({"sample_id": [f"{i:016x}" for i in range(200)], "patient": patient, "label": truth.astype(int)})
    table = table.assign(probability_0=1 - positive, probability_1=positive)
    block = summarise("classification", table, 0.5, ("normal", "ill"), 500, 0)
    assert block["auroc_delong_ci"] == pytest.approx(block["auroc_ci"], abs=0.012)
    area, covariance = auroc_covariance(truth, positive[None], np.array(patient))
    assert block["auroc_delong_ci"] == list(auroc_interval(area[0], covariance[0, 0]))
    three = table.assign(probability_2=0.0, label=np.where(np.arange(200) < 20, 2, table["label"]))
    by_class = summarise("classification", three, 0.5, ("normal", "ill", "other"), 20, 0)["auroc_per_class_delong_ci"]
    assert by_class["ill"][0] < by_class["ill"][1]
    assert by_class["other"] == [None, None], "every score is the same"
