"""Subgroups come from the cohort's own columns, small ones are named and not scored, and many looks are corrected for."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from cohorts import tiny_classification_cohort
from hepdist.errors import RecipeError
from hepdist.evaluation.proportions import proportion
from hepdist.evaluation.subgroup_scores import holm, subgroup_scores
from hepdist.evaluation.subgroups import UNKNOWN, band, groups_of
from hepdist.recipe import Recipe
from hepdist.shards.manifest import SPLITS, Manifest
from hepdist.shards.read import SplitReader
from hepdist.spec import parse
from hepdist.training.preflight import fits_cohort

NAMES = ("normal", "ill")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """A cohort with age and sex in its EMR, manufacturers in its headers, and two sites."""
    folder = tmp_path_factory.mktemp("subgroups") / "cohort"
    manifest = tiny_classification_cohort(folder, rows=120, emr=True)
    parts = [SplitReader(folder, manifest, split).strings(["sample_id", "study", "patient", "split"]).to_pandas() for split in SPLITS]
    rows = pd.concat(parts, ignore_index=True)
    number = np.arange(len(rows))
    headers = pd.DataFrame({"study": rows["study"], "series": number.astype(str), "manufacturer": np.where(number % 3, "Siemens", "GE")})
    headers = headers.assign(sex="F", kvp=np.where(number % 2, 80.0, 120.0), age_years=70.0)
    other = headers.iloc[[4]].assign(series="second", manufacturer="Philips")  # two scanners in one study
    pq.write_table(pa.Table.from_pandas(pd.concat([headers, other]), preserve_index=False), folder / "headers.parquet")
    people = pd.DataFrame({"sample_id": rows["sample_id"], "site": np.where(number % 4, "site a", "")})
    pq.write_table(pa.Table.from_pandas(people, preserve_index=False), folder / "people.parquet")
    return folder, manifest, rows


def test_groups_are_read_from_emr_headers_and_sites(cohort):
    folder, manifest, rows = cohort
    groups = groups_of(folder, manifest, "auto")
    assert list(groups) == ["age", "sex", "site", "manufacturer"]
    ids = rows["sample_id"].tolist()
    for i, split in enumerate(SPLITS):
        arrays = SplitReader(folder, manifest, split).arrays(np.arange(manifest.rows(split)), ("emr", "emr_missing"))
        first = ids.index(rows[rows["split"] == split]["sample_id"].iloc[0])
        for k in range(0, len(arrays["emr"]), 5 + i):
            missing = arrays["emr_missing"][k]
            sex = UNKNOWN if missing[2] else ("female", "male")[int(arrays["emr"][k, 2])]
            assert groups["sex"][ids[first + k]] == sex, "EMR comes before the header of the same name"
            assert groups["age"][ids[first + k]] == (UNKNOWN if missing[1] else "under 18")
    assert groups["manufacturer"][ids[3]] == "GE" and groups["manufacturer"][ids[5]] == "Siemens"
    assert groups["manufacturer"][ids[4]] == UNKNOWN, "series of one study disagree"
    assert groups["site"][ids[4]] == UNKNOWN and groups["site"][ids[5]] == "site a"
    assert set(groups_of(folder, manifest, ("kvp",))["kvp"].values()) == {"80", "120"}


def test_a_column_that_the_cohort_lacks_is_refused_before_training_and_auto_takes_what_there_is(cohort, tmp_path):
    folder, manifest, _ = cohort
    values = {
        "name": "x", "data": {"cohort": str(folder)}, "task": {"kind": "classification"}, "model": {"family": "resnet"},
        "evaluation": {"subgroups": ["sex", "ward"]},
    }  # fmt: skip
    with pytest.raises(RecipeError, match=r"'evaluation.subgroups' names 'ward', which cohort 'tiny-classification' lacks; it has: site, "):
        fits_cohort(parse(Recipe, values), manifest)
    plain = tiny_classification_cohort(tmp_path / "plain", rows=30)
    assert groups_of(tmp_path / "plain", Manifest.load(tmp_path / "plain"), "auto") == {} == groups_of(tmp_path / "plain", plain, ())


def test_numbers_become_bands():
    ages = pd.Series([3.0, 17.9, 18.0, 39.0, 40.0, 64.5, 65.0, np.nan])
    adult = ["under 18", "under 18", "18 to 39", "18 to 39", "40 to 64", "40 to 64", "65 and over", UNKNOWN]
    assert band(ages, "age", "years").tolist() == adult
    assert band(pd.Series([1.5, 3.0, 3.0, np.nan]), "field_strength_t").tolist() == ["1.5", "3", "3", UNKNOWN]
    thirds = band(pd.Series(np.arange(9.0)), "alt", "U/L")
    assert thirds.value_counts().to_dict() == {"below 2.67 U/L": 3, "2.67 to 5.33 U/L": 3, "5.33 U/L and over": 3}


def table(rows: int = 300, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    label = (rng.random(rows) < 0.5).astype(int)
    positive = 1 / (1 + np.exp(-rng.normal(2 * label - 1, 1.3)))
    keys = {"sample_id": [f"{i:016x}" for i in range(rows)], "patient": [f"{i // 2:016x}" for i in range(rows)], "label": label}
    return pd.DataFrame(keys | {"probability_0": 1 - positive, "probability_1": positive})


def grouped(predictions: pd.DataFrame, group: np.ndarray) -> dict[str, str]:
    return dict(zip(predictions["sample_id"], group.astype(str), strict=True))


def test_each_group_has_the_scores_of_its_own_rows():
    predictions = table()
    group = np.where(np.arange(300) < 130, "a", np.where(np.arange(300) < 260, "b", "c"))
    found = {
        entry["group"]: entry
        for entry in subgroup_scores("classification", predictions, 0.4, NAMES, {"site": grouped(predictions, group)}, 200, 0)["groups"]
    }
    for name in "abc":
        mine, rest = predictions[group == name], predictions[group != name]
        scores = found[name]["scores"]
        assert (found[name]["n"], found[name]["patients"]) == (len(mine), mine["patient"].nunique())
        assert scores["auroc"]["value"] == pytest.approx(roc_auc_score(mine["label"], mine["probability_1"]))
        apart = scores["auroc"]["value"] - roc_auc_score(rest["label"], rest["probability_1"])
        assert scores["auroc"]["difference"] == pytest.approx(apart)
        ill = mine[mine["label"] == 1]
        share = proportion((ill["probability_1"] >= 0.4).to_numpy(), ill["patient"].to_numpy(str))
        assert (scores["sensitivity"]["value"], *scores["sensitivity"]["ci"]) == (share.value, share.low, share.high)
    assert list(found) == ["a", "b", "c"]
    p = [score["p"] for entry in found.values() for score in entry["scores"].values()]
    assert len(p) == 9
    assert [score["p_holm"] for entry in found.values() for score in entry["scores"].values()] == pytest.approx(holm(p))


def test_a_group_that_a_model_fails_is_found_and_two_groups_are_one_test():
    predictions = table(400)
    group = np.where(np.arange(400) < 150, "a", "b")
    noise = np.random.default_rng(1).random(400)
    predictions["probability_1"] = np.where(group == "a", noise, predictions["probability_1"])
    predictions["probability_0"] = 1 - predictions["probability_1"]
    first, second = subgroup_scores("classification", predictions, 0.5, NAMES, {"sex": grouped(predictions, group)}, 300, 0)["groups"]
    assert first["scores"]["auroc"]["p_holm"] < 0.001
    assert first["scores"]["auroc"]["difference"] == pytest.approx(-second["scores"]["auroc"]["difference"])
    assert first["scores"]["auroc"]["p_holm"] == second["scores"]["auroc"]["p_holm"] == pytest.approx(3 * first["scores"]["auroc"]["p"])


def test_small_groups_and_groups_of_one_class_are_named_and_not_scored():
    predictions = table(120)
    group = np.array(["a"] * 50 + ["b"] * 18 + ["c"] * 52)
    predictions.loc[group == "a", "label"] = 1
    found = subgroup_scores("classification", predictions, 0.5, NAMES, {"site": grouped(predictions, group)}, 50, 0)["groups"]
    assert found[0] == {"column": "site", "group": "a", "note": "without normal"}
    assert found[1] == {"column": "site", "group": "b", "note": "fewer than 10 patients"}, "nor is it counted"
    assert found[2]["scores"]["auroc"]["p"] is not None
    assert subgroup_scores("classification", predictions, 0.5, NAMES, {"site": grouped(predictions, np.full(120, "a"))}, 50, 0) == {
        "tests": 0,
        "groups": [],
    }
    few = table(40)
    alone = subgroup_scores("classification", few, 0.5, NAMES, {"site": grouped(few, np.where(np.arange(40) < 32, "a", "b"))}, 50, 0)[
        "groups"
    ][0]
    assert alone["scores"]["auroc"]["difference"] is None, "the rest is too small to compare with"


def test_a_group_without_an_error_is_not_said_to_differ():
    predictions = table(200)
    group = np.where(np.arange(200) < 60, "a", "b")
    right = np.where(predictions["label"] == 1, 0.9, 0.1)
    predictions["probability_1"] = np.where(group == "a", right, predictions["probability_1"])
    first = subgroup_scores("classification", predictions, 0.5, NAMES, {"sex": grouped(predictions, group)}, 100, 0)["groups"][0]
    assert (first["scores"]["auroc"]["value"], first["scores"]["auroc"]["p"]) == (1, None)
    assert first["scores"]["sensitivity"]["ci"][0] < 0.95


def test_dice_and_psnr_are_compared_too():
    rng = np.random.default_rng(3)
    keys = {"sample_id": [f"{i:04x}" for i in range(60)], "patient": [f"{i:04x}" for i in range(60)]}
    group = {f"{i:04x}": "ab"[i % 2] for i in range(60)}
    dice = pd.DataFrame(keys | {"dice_liver": rng.uniform(0.7, 0.9, 60) - 0.2 * (np.arange(60) % 2)})
    low, high = subgroup_scores("segmentation", dice, 0.5, ("liver",), {"manufacturer": group}, 100, 0)["groups"]
    assert low["scores"]["dice"]["value"] == pytest.approx(dice["dice_liver"][::2].mean())
    assert high["scores"]["dice"]["p_holm"] < 0.01
    psnr = dice.rename(columns={"dice_liver": "psnr_noise"})
    assert (
        subgroup_scores("restoration", psnr, 0.5, ("noise",), {"manufacturer": group}, 100, 0)["groups"][0]["scores"]["psnr"]["difference"]
        > 0.1
    )


def test_holms_correction_is_the_published_one():
    # Holm, 1979: sorted p times n, n - 1, ..., never falling, at most 1.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []
