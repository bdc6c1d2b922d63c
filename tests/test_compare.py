"""Two runs are compared on the same cases with the patient as the unit, and what can't be compared is refused."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
from fake_runs import classification_run, segmentation_run
from scipy.stats import binomtest, ttest_rel, wilcoxon
from sklearn.metrics import roc_auc_score

from cohorts import tiny_classification_cohort, tiny_segmentation_cohort
from hepdist.cli import main
from hepdist.errors import RunError
from hepdist.evaluation.bootstrap import resampled_weights
from hepdist.evaluation.compare import compare, conclusion
from hepdist.evaluation.compare_scores import Comparison, Row, comparison_rows
from hepdist.evaluation.delong import compare_aurocs
from hepdist.evaluation.paired import bootstrap_difference, mcnemar, signed_ranks


def each(rows: int) -> np.ndarray:
    """Every row a patient of its own."""
    return np.arange(rows).astype(str)


def test_mcnemar_equals_the_binomial_test_where_few_differ_and_the_chi_square_where_many_do():
    first, second = np.zeros(200, bool), np.zeros(200, bool)
    first[:13], second[13:18] = True, True
    first[50:90] = second[50:90] = True
    found = mcnemar(first, second, each(200))
    assert (found.only_first, found.only_second, found.exact) == (13, 5, True)
    assert found.p == pytest.approx(binomtest(13, 18).pvalue)
    first[100:120], second[120:150] = True, True
    many = mcnemar(first, second, each(200))
    assert not many.exact
    # (b - c)^2 / (b + c) = (33 - 35)^2 / 68 on one degree of freedom
    assert many.p == pytest.approx(0.80837, abs=1e-5)
    assert mcnemar(first, first, each(200)).p == 1


def test_rows_of_a_patient_are_one_observation_to_mcnemar():
    first, second = np.zeros(60, bool), np.zeros(60, bool)
    first[:24], second[30:36] = True, True
    patient = each(60)
    rows = mcnemar(first, second, patient)
    tripled = mcnemar(np.repeat(first, 3), np.repeat(second, 3), np.repeat(patient, 3))
    assert (tripled.only_first, tripled.only_second) == (72, 18)
    assert tripled.p == pytest.approx(rows.p, rel=1e-12)
    one_patient = mcnemar(np.ones(30, bool), np.zeros(30, bool), np.array(["a"] * 30))
    assert one_patient.p == 1, "thirty rows of one patient prove nothing"


def test_exact_signs_of_unequal_surpluses_are_counted_out():
    # Patients' surpluses 3, 2, -1: of the eight choices of signs, sums at least as far from 0 as 4 are +-6 and +-4.
    first = np.array([1, 1, 1, 1, 1, 0], bool)
    assert mcnemar(first, ~first, np.array(list("aaabbc"))).p == pytest.approx(4 / 8)


def test_signed_ranks_equal_scipys_on_patient_means():
    rng = np.random.default_rng(0)
    difference, patient = rng.normal(0.1, 1, 90), np.repeat(np.arange(30), 3).astype(str)
    means = difference.reshape(30, 3).mean(axis=1)
    order = np.random.default_rng(1).permutation(90)
    assert signed_ranks(difference[order], patient[order]) == pytest.approx(wilcoxon(means).pvalue)
    with_gap = difference.copy()
    with_gap[0] = np.nan
    assert signed_ranks(with_gap, patient) == pytest.approx(wilcoxon(np.r_[difference[1:3].mean(), means[1:]]).pvalue)
    assert signed_ranks(np.zeros(5), each(5)) == 1


def test_paired_bootstrap_of_a_mean_is_the_paired_t_test():
    rng = np.random.default_rng(7)
    first, second = rng.normal(0.2, 1, 40), rng.normal(0, 1, 40)
    weights = list(resampled_weights(each(40), 20_000, seed=0))
    blocks = [[w @ values / w.sum(axis=1) for w in weights] for values in (first, second)]
    low, high, p = bootstrap_difference(float(first.mean() - second.mean()), *blocks, 40)
    expected = ttest_rel(first, second)
    interval = expected.confidence_interval()
    assert p == pytest.approx(expected.pvalue, rel=0.05)
    assert (low, high) == pytest.approx((interval.low, interval.high), abs=0.03)
    assert bootstrap_difference(0.0, [np.zeros(50)], [np.zeros(50)], 10)[2] == 1
    assert np.isnan(bootstrap_difference(0.1, [np.full(50, 0.1)], [np.zeros(50)], 10)[2]), "no spread says nothing"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A sharp and a blunt classifier of one cohort, and two segmenters of another."""
    folder = tmp_path_factory.mktemp("compare")
    tiny_classification_cohort(folder / "cohort", rows=400)
    tiny_segmentation_cohort(folder / "masks", rows=40)
    for name, seed, sharpness in (("sharp", 1, 2.4), ("blunt", 2, 0.7), ("alike", 3, 0.7)):
        classification_run(folder / name, folder / "cohort", seed=seed, sharpness=sharpness, resamples=400)
    for name, seed in (("unet", 1), ("vnet", 2)):
        segmentation_run(folder / name, folder / "masks", seed=seed)
    return folder


def test_a_sharper_classifier_is_found_better_in_every_paired_test(runs):
    facts = compare(runs / "sharp", runs / "blunt")
    tables = [
        pd.read_parquet(runs / name / "predictions.parquet").query("split == 'test'").sort_values("sample_id")
        for name in ("sharp", "blunt")
    ]
    truth = tables[0]["label"].to_numpy(int) == 1
    positive = [table["probability_1"].to_numpy(np.float64) for table in tables]
    patient = tables[0]["patient"].to_numpy(str)
    scores = {row["score"]: row for row in facts["scores"]}
    assert facts["primary"] == facts["scores"][0]["score"] == "auroc"
    assert [scores["auroc"][side] for side in ("first", "second")] == pytest.approx([roc_auc_score(truth, p) for p in positive])
    found = compare_aurocs(truth, *positive, patient)
    assert (scores["auroc"]["p"], scores["auroc"]["test"], scores["auroc"]["p_holm"]) == (found.p, "DeLong's test", None)
    assert scores["auroc"]["difference_ci"] == [found.low, found.high]
    right = [(p >= 0.5) == truth for p in positive]
    assert scores["sensitivity"]["p"] == mcnemar(right[0][truth], right[1][truth], patient[truth]).p
    assert scores["accuracy"]["difference"] == pytest.approx(right[0].mean() - right[1].mean())
    assert facts["agreement"] == {
        "both": int((right[0] & right[1]).sum()), "only_first": int((right[0] & ~right[1]).sum()),
        "only_second": int((right[1] & ~right[0]).sum()), "neither": int((~right[0] & ~right[1]).sum()),
    }  # fmt: skip
    assert facts["n"] == 80 and facts["patients"] == len(set(patient))
    assert "sharp is better, by more than chance explains." in facts["conclusion"]
    assert "With 40 patients, only large differences" in facts["conclusion"].replace(str(facts["patients"]), "40")
    low, high = scores["brier"]["difference_ci"]
    assert low < scores["brier"]["difference"] < high < 0, "a smaller Brier score is the better one"
    swapped = compare(runs / "blunt", runs / "sharp")
    assert swapped["scores"][0]["difference"] == pytest.approx(-scores["auroc"]["difference"])
    assert "sharp is better" in swapped["conclusion"]


def test_two_alike_are_not_said_to_differ_nor_to_be_equal(runs):
    facts = compare(runs / "blunt", runs / "alike")
    assert facts["scores"][0]["p"] > 0.05
    assert "a difference that chance explains. That is no proof that they are equal" in facts["conclusion"]
    same = compare(runs / "blunt", runs / "blunt")
    assert {row["p"] for row in same["scores"]} == {1.0}
    assert (same["first"], same["second"]) == ("blunt (first)", "blunt (second)")


def test_segmenters_are_compared_by_signed_ranks_over_patients(runs):
    facts = compare(runs / "unet", runs / "vnet")
    tables = [
        pd.read_parquet(runs / name / "predictions.parquet").query("split == 'test'").sort_values("sample_id") for name in ("unet", "vnet")
    ]
    dice = [table[["dice_anterior", "dice_posterior"]].to_numpy() for table in tables]
    first = facts["scores"][0]
    assert (first["score"], first["test"]) == ("dice", "Wilcoxon's signed-rank test")
    assert [first["first"], first["second"]] == pytest.approx([d.mean() for d in dice])
    patients = pd.Series((dice[0] - dice[1]).mean(axis=1)).groupby(tables[0]["patient"].to_numpy()).mean()
    assert first["p"] == pytest.approx(wilcoxon(patients).pvalue)
    assert {(row["score"], row["of"]) for row in facts["scores"]} >= {("hd95", ""), ("hd95", "anterior"), ("volume_error_ml", "posterior")}


def test_an_infinite_distance_counts_as_the_largest_difference_and_a_rightly_empty_class_as_perfect():
    keys = {"sample_id": list("abcdef"), "patient": list("abcdef")}
    nan, inf = np.nan, np.inf
    first = pd.DataFrame(keys | {"dice_a": [0.8, 0.7, 0.9, nan, 0.6, nan], "hd95_a": [1.0, 2, 3, 4, inf, inf]})
    second = pd.DataFrame(keys | {"dice_a": [0.7, 0.6, 0.8, 0.0, 0.5, nan], "hd95_a": [2.0, 3, 4, inf, 6, inf]})
    dice, hd95 = comparison_rows("segmentation", first, second, ("a",), (0.5, 0.5), 50, 0).rows
    assert dice.first == pytest.approx(np.mean([0.8, 0.7, 0.9, 1.0, 0.6]))
    assert dice.second == pytest.approx(np.mean([0.7, 0.6, 0.8, 0.0, 0.5]))
    assert (hd95.first, hd95.second) == (2.0, 3.0)
    assert hd95.p == pytest.approx(wilcoxon([-1.0, -1, -1, -3, 3]).pvalue)


def test_three_classes_and_several_findings_have_a_test_a_class():
    rng = np.random.default_rng(4)
    label = rng.integers(0, 3, 150)
    keys = {"sample_id": [f"{i:04}" for i in range(150)], "patient": [f"{i // 2:04}" for i in range(150)]}
    tables = []
    for sharpness in (2.0, 0.5):
        logits = rng.normal(0, 1, (150, 3)) + sharpness * np.eye(3)[label]
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        tables.append(pd.DataFrame(keys | {f"probability_{k}": p[:, k] for k in range(3)}))
    exclusive = comparison_rows("classification", *[t.assign(label=label) for t in tables], tuple("abc"), (0.5, 0.5), 60, 0, ordinal=True)
    assert [(row.score, row.of) for row in exclusive.rows if row.of] == [("auroc", "a"), ("auroc", "b"), ("auroc", "c")]
    assert {"quadratic_kappa", "mae"} <= {row.score for row in exclusive.rows}
    assert exclusive.rows[0].test == "paired bootstrap" and all(row.p_holm is not None for row in exclusive.rows[1:])
    findings = [t.assign(**{f"label_{k}": (label == k).astype(int) for k in range(3)}) for t in tables]
    several = comparison_rows("classification", *findings, tuple("abc"), (0.5, 0.5), 60, 0)
    assert several.agreement is None and len([row for row in several.rows if row.of]) == 3


def test_survival_is_compared_by_concordance_over_all_with_a_follow_up():
    rng = np.random.default_rng(5)
    days, event = rng.exponential(300, 120).clip(1), rng.random(120) < 0.7
    label = pd.array(np.where(event & (days < 365), 1, 0), dtype="Int64")
    keys = {
        "sample_id": [f"{i:04}" for i in range(120)],
        "patient": [f"{i:04}" for i in range(120)],
        "days": days,
        "event": event,
        "label": label,
    }
    risks = [1 / (1 + np.exp(days / 200 - 2 + rng.normal(0, noise, 120))) for noise in (0.1, 2.0)]
    tables = [pd.DataFrame(keys | {"probability_0": 1 - r, "probability_1": r}) for r in risks]
    found = comparison_rows("survival", *tables, ("no event", "event"), (0.5, 0.5), 60, 0)
    assert [row.score for row in found.rows[:2]] == ["concordance", "auroc"]
    assert found.rows[0].p < 0.05 < found.rows[0].first


def test_what_can_not_be_compared_is_refused_in_a_sentence(runs, tmp_path):
    with pytest.raises(RunError, match=r"'sharp' and 'unet' can't be compared: one does classification, the other segmentation"):
        compare(runs / "sharp", runs / "unet")
    tiny_classification_cohort(tmp_path / "other", rows=400, seed=1)
    classification_run(tmp_path / "elsewhere", tmp_path / "other", resamples=20)
    with pytest.raises(RunError, match=r"different cohorts; score one on the other's with: hepdist evaluate RUN --cohort COHORT"):
        compare(runs / "sharp", tmp_path / "elsewhere")
    with pytest.raises(RunError, match=r"run 'sharp' is not scored on split 'train', only on val, test; score it with: hepdist evaluate"):
        compare(runs / "sharp", runs / "blunt", "train")
    with pytest.raises(RunError, match=r"run 'nothing' has no result.json to compare"):
        compare(runs / "sharp", runs / "nothing")
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    (fewer / "result.json").write_bytes((runs / "blunt" / "result.json").read_bytes())
    table = pd.read_parquet(runs / "blunt" / "predictions.parquet")
    table.drop(table.query("split == 'test'").index[:3]).to_parquet(fewer / "predictions.parquet")
    with pytest.raises(RunError, match=r"'sharp' and 'fewer' can't be compared: 3 cases of split 'test' were scored by one of them only"):
        compare(runs / "sharp", fewer)
    table.loc[table["split"] == "test", "label"] = 0
    table.to_parquet(fewer / "predictions.parquet")
    with pytest.raises(RunError, match="their truths differ in column 'label'"):
        compare(runs / "sharp", fewer)


def test_the_verb_writes_a_page_and_json_that_say_the_same(runs, tmp_path, capsys):
    assert main(["compare", str(runs / "sharp"), str(runs / "blunt"), "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    facts = json.loads((tmp_path / "compare.json").read_text())
    page = (tmp_path / "compare.html").read_text()
    assert " ".join(facts["conclusion"].split()) in " ".join(shown.split())
    assert facts["conclusion"].replace("'", "&#39;") in page
    assert facts == compare(runs / "sharp", runs / "blunt")
    for row in facts["scores"]:
        assert f"{row['first']:.3f}" in shown and f"{row['first']:.3f}" in page
    assert "http" not in page and "<script" not in page and str(runs) not in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert main(["compare", str(runs / "unet"), str(runs / "vnet")]) == 0
    assert (runs / "unet" / "compare" / "vnet" / "compare.html").is_file()
    assert main(["compare", str(runs / "sharp"), str(runs / "unet")]) == 1
    assert capsys.readouterr().err.startswith("error: runs 'sharp' and 'unet' can't be compared")


def test_the_conclusion_names_other_scores_that_differ_and_the_direction_of_errors():
    nan = float("nan")
    main_row = Row("auroc", "", 0.9, 0.8, 0.1, 0.02, 0.18, 0.01, "DeLong's test")
    brier = Row("brier", "", 0.2, 0.1, 0.1, 0.05, 0.15, 0.001, "paired bootstrap", 0.002)
    text = conclusion(Comparison([main_row, brier], 100, 50, None), "A", "B")
    assert "AUROC is 0.900 for A and 0.800 for B, on the same 100 cases of 50 patients" in text
    assert "difference +0.100, 95 % interval +0.020 to +0.180, p = 0.010 by DeLong's test" in text
    assert text.endswith("Of the other scores these differ after correction for 1 test: Brier score (B better).")
    split_mind = Row("dice", "", 0.8, 0.7, 0.1, 0.02, 0.18, 0.06, "Wilcoxon's signed-rank test")
    assert ": undecided, since the interval leaves out 0" in conclusion(Comparison([split_mind], 60, 60, None), "A", "B")
    unlikely = Row("dice", "", 0.8, 0.7, 0.1, -0.02, 0.18, 0.04, "Wilcoxon's signed-rank test")
    assert "A is better, by more than chance explains, though the interval" in conclusion(Comparison([unlikely], 60, 60, None), "A", "B")
    unknown = Row("auroc", "", 1.0, 0.9, 0.1, nan, nan, nan, "DeLong's test")
    assert "These cases can't say whether that is chance." in conclusion(Comparison([unknown], 9, 9, None), "A", "B")
    undefined = Row("auroc", "", nan, nan, nan, nan, nan, nan, "DeLong's test")
    assert conclusion(Comparison([undefined], 9, 9, None), "A", "B").startswith("AUROC can't be told from these 9 cases of 9 patients")
