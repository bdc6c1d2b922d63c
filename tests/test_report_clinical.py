"""Decision curves, abstention, operating points and subgroups: the numbers equal plain definitions, and the page says what result.json says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from fake_runs import classification_run, segmentation_run

from cohorts import tiny_classification_cohort, tiny_segmentation_cohort
from hepdist.evaluation.curves import GRID, INNER, net_benefit, net_benefit_of_all, risk_by_coverage
from hepdist.evaluation.metrics import decide, sureness
from hepdist.evaluation.report import write_report
from hepdist.evaluation.report_subgroups import subgroup_cautions, subgroup_part
from hepdist.evaluation.wording import calibration_sentence, cautions, number, span


def scored(rows: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.random(rows) < 0.3
    return truth, 1 / (1 + np.exp(-rng.normal(2 * truth - 1, 1))), np.repeat(np.arange(rows // 2), 2).astype(str)


def test_net_benefit_is_true_positives_less_false_ones_at_the_odds_of_acting():
    truth, positive, patient = scored()
    curve = net_benefit(truth, positive, patient, 200, 0)
    for x in (0.1, 0.25, 0.5, 0.8):
        called, i = positive >= x, int(np.abs(INNER - x).argmin())
        expected = (called & truth).sum() / 120 - (called & ~truth).sum() / 120 * x / (1 - x)
        assert curve.y[i] == pytest.approx(expected)
        assert curve.low[i] <= curve.y[i] <= curve.high[i]
        everybody = truth.mean() - (1 - truth.mean()) * x / (1 - x)
        assert net_benefit_of_all(float(truth.mean()))[i] == pytest.approx(everybody)
    assert curve.y[0] <= truth.mean() + 1e-12, "no more than finding every ill one at no cost"


def test_risk_by_coverage_is_the_error_rate_of_the_surest():
    truth, positive, patient = scored(100)
    probability = np.stack([1 - positive, positive], axis=1)
    wrong, sure = decide(probability, 0.3) != truth, sureness(probability, 0.3)
    curve = risk_by_coverage(wrong, sure, patient, 100, 0)
    ranked = wrong[np.argsort(-sure)]
    np.testing.assert_allclose(curve.y, [ranked[: round(100 * x)].mean() for x in GRID[1:]])
    assert curve.y[-1] == wrong.mean()
    assert sureness(np.array([[0.7, 0.3]]), 0.3)[0] == 0, "nothing is less sure than a case on the threshold"
    assert sureness(np.array([[0.2, 0.5, 0.3]]), 0.5)[0] == 0.5


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clinical")
    tiny_classification_cohort(folder / "cohort", rows=240, emr=True)
    result = classification_run(folder / "run", folder / "cohort", resamples=60)
    return result, write_report(folder / "run", folder / "cohort").read_text()


def test_the_page_shows_operating_points_calibration_and_subgroups_as_in_result_json(run):
    result, page = run
    block = result["split"]["test"]
    assert result["calibration"]["fitted_on"] == "val"
    for point in block["operating_points"]:
        assert f"<th>{point['rule']} of {100 * point['target']:g} %</th>" in page
        assert f"{number(point['ppv'])}<small>{span(point['ppv_ci'])}</small>" in page
    assert f"after scaling by the temperature fitted on validation {number(block['calibrated']['ece'])}" in page
    assert calibration_sentence(result) in page
    assert f"by DeLong&#39;s variance {span(block['auroc_delong_ci'])}" in page
    groups = block["subgroups"]["groups"]
    assert {(entry["column"], entry["group"]) for entry in groups} >= {("sex", "female"), ("sex", "male")}
    for entry in groups:
        assert f"<th>{entry['column']} · {entry['group']}</th>" in page
        if "scores" in entry:
            score = entry["scores"]["sensitivity"]
            assert f"{number(score['value'])}<small>{span(score['ci'])}</small>" in page
        else:
            assert f"not scored: {entry['note']}" in page
    assert f"p corrected for {block['subgroups']['tests']} tests (Holm)" in page
    for title in ("Decision curve", "Abstention", "Reliability", "Operating points"):
        assert f"<h3>{title}</h3>" in page


def test_a_group_that_is_worse_is_said_at_the_top_and_one_that_is_better_is_not():
    def entry(group: str, difference: float, p: float | None) -> dict:
        score = {"value": 0.8, "ci": [0.7, 0.9], "difference": difference, "difference_ci": [-0.2, -0.05], "p": p, "p_holm": p}
        return {"column": "sex", "group": group, "n": 60, "patients": 50, "scores": {"auroc": score}}

    groups = [entry("female", -0.12, 0.01), entry("male", 0.12, 0.01), entry("other", -0.3, 0.2), entry("not known", -0.3, None)]
    block = {"auroc": 0.85, "auroc_ci": [0.8, 0.9], "subgroups": {"tests": 3, "groups": groups}}
    found = subgroup_cautions(block)
    assert found == ["AUROC of sex female is 0.800, 0.120 below that of all others, by more than chance (p = 0.01 after correction)."]
    part = subgroup_part(block)
    assert [line.cells[0][5] for line in part["lines"]] == [True, True, False, False]
    assert part["forest"].count("female") >= 1
    assert subgroup_part({}) == {} and subgroup_part({"subgroups": {"tests": 0, "groups": []}}) == {}


def test_scores_at_the_end_of_their_scale_are_cautioned_about():
    block = {
        "patients": 100,
        "unlabelled": 0,
        "resamples_skipped": {},
        "resamples": 100,
        "auroc": 0.99,
        "sensitivity": 1.0,
        "specificity": 0.9,
    }
    found = cautions(block, {"task": "classification", "split": {}}, "test", "image")
    assert found == [
        "Sensitivity is at the end of the scale, where resamples have no spread: the interval can't say how far the truth may be from it."
    ]


def test_the_page_says_why_there_is_no_temperature():
    assert "need the validation split: hepdist evaluate RUN --split val" in calibration_sentence({"calibration": None})
    reason = {"calibration": {"temperature": None, "reason": "the validation split holds one class only"}}
    assert calibration_sentence(reason) == "No temperature could be fitted: the validation split holds one class only."
    assert calibration_sentence({}) == "", "a segmenter has none"


def test_surface_dice_is_shown_with_its_tolerance(tmp_path):
    tiny_segmentation_cohort(tmp_path / "cohort", rows=20)
    result = segmentation_run(tmp_path / "run", tmp_path / "cohort", resamples=30)
    page = write_report(tmp_path / "run", tmp_path / "cohort").read_text()
    block = result["split"]["test"]
    assert f"Share of both surfaces within 1 mm of the other. Mean {number(block['nsd'])} ({span(block['nsd_ci'])})." in page
    old = pd.read_parquet(tmp_path / "run" / "predictions.parquet")
    old.drop(columns=[name for name in old if str(name).startswith("nsd")]).to_parquet(tmp_path / "run" / "predictions.parquet")
    assert "within 1 mm of the other" not in write_report(tmp_path / "run", tmp_path / "cohort").read_text(), "of runs scored before it"
