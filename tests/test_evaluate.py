"""Evaluation of a trained run: every row once on any number of workers, the promised result.json, and external validation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cohorts import tiny_classification_cohort, tiny_segmentation_cohort
from hepdist.augment import normalise
from hepdist.errors import RunError
from hepdist.evaluation.evaluate import evaluate
from hepdist.evaluation.score import score_splits
from hepdist.recipe import Recipe
from hepdist.shards.manifest import Manifest
from hepdist.shards.read import SplitReader
from hepdist.spec import parse
from hepdist.training.launch import train
from hepdist.training.saved_model import load_model

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A fusion run on 11 test rows, trained for one epoch."""
    folder = tmp_path_factory.mktemp("evaluate")
    tiny_classification_cohort(folder / "cohort", {"train": 30, "val": 14, "test": 11}, emr=True)
    values = {
        "name": "run", "runs": str(folder / "runs"), "data": {"cohort": str(folder / "cohort"), "emr": True},
        "task": {"kind": "classification", "threshold": "validation"},
        "model": {"family": "fusion", "image": {"depth": 10, "width": 8}, "emr": {"width": 8}},
        "train": {"epochs": 1, "global_batch": 8, "max_failures": 0}, "evaluation": {"batch": 4, "bootstrap": 50},
    }  # fmt: skip
    return train(parse(Recipe, values))


def test_result_json_has_what_is_promised(run):
    result = json.loads((run / "result.json").read_text())
    assert set(result["split"]) == {"val", "test"}
    assert result["task"] == "classification"
    assert result["seed"] == 0
    assert result["cohort_sha256"] == Manifest.load(run.parents[1] / "cohort").sha256()
    assert {"epochs", "samples", "samples_per_s", "data_wait_share", "workers", "wall_s"} <= set(result["train"])
    assert result["train"]["samples"] == 30
    assert result["threshold"]["rule"] == "validation"
    for name in ("auroc", "accuracy", "balanced_accuracy", "sensitivity", "specificity"):
        low, high = result["split"]["test"][f"{name}_ci"]
        assert low <= result["split"]["test"][name] <= high
    assert (run / "report.html").stat().st_size > 10_000


def test_eleven_rows_on_three_workers_are_each_scored_once_and_alike(run):
    recipe = load_model(run)[1]
    cohort = recipe.data.cohort
    scored = {
        workers: score_splits(
            run, recipe.model_copy(update={"train": recipe.train.model_copy(update={"workers": workers})}), cohort, ["test"], "cpu"
        )
        for workers in (1, 3)
    }
    for workers in (1, 3):
        assert scored[workers]["test"]["row"].tolist() == list(range(11))
    assert np.array_equal(scored[1]["test"]["probability"], scored[3]["test"]["probability"])


def test_predictions_equal_the_saved_model_called_by_hand(run):
    model, recipe, signature = load_model(run)
    reader = SplitReader(recipe.data.cohort, Manifest.load(recipe.data.cohort), "test")
    arrays = reader.arrays(np.arange(11), ("image", "emr", "emr_missing"))
    batch = normalise(
        {name: torch.from_numpy(values.copy()) for name, values in arrays.items()}, recipe.data.normalise, signature.normalisation
    )
    with torch.no_grad():
        expected = model(*(batch[name] for name in model.inputs)).softmax(1).numpy()
    table = pd.read_parquet(run / "predictions.parquet").query("split == 'test'")
    assert np.allclose(table[["probability_0", "probability_1"]], expected, atol=1e-5)
    assert table["sample_id"].tolist() == reader.strings(("sample_id",))["sample_id"].to_pylist()
    assert "emr" not in " ".join(table.columns)


def test_a_further_split_joins_the_ones_scored_before(run):
    before = json.loads((run / "result.json").read_text())["split"]
    result = evaluate(run, split="train")
    assert set(result["split"]) == {"train", "val", "test"}
    assert {split: result["split"][split] for split in before} == before


def test_another_cohort_is_scored_whole_with_the_threshold_of_the_run(run, tmp_path):
    tiny_classification_cohort(tmp_path / "other", {"train": 9, "val": 6, "test": 7}, seed=5, emr=True)
    result = evaluate(run, cohort=str(tmp_path / "other"))
    assert result["split"]["external"]["n"] == 22
    assert result["threshold"]["value"] == json.loads((run / "result.json").read_text())["threshold"]["value"]
    name = Manifest.load(tmp_path / "other").name
    assert len(pd.read_parquet(run / "external" / name / "predictions.parquet")) == 22
    assert (run / "external" / name / "report.html").is_file()


def test_a_cohort_of_another_shape_is_refused(run, tmp_path):
    tiny_classification_cohort(tmp_path / "other", 30, side=20, emr=True)
    with pytest.raises(RunError, match=r"column 'image' is uint8 \[1, 20, 20\], the model reads uint8 \[1, 16, 16\]"):
        evaluate(run, cohort=str(tmp_path / "other"))


def test_a_damaged_model_is_named_and_not_loaded(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "model" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(RunError, match=r"'model/model.safetensors' is missing or damaged"):
        load_model(tmp_path / "run")


def test_a_segmentation_run_is_reported_with_dice_surface_and_overlays(tmp_path):
    tiny_segmentation_cohort(tmp_path / "c", {"train": 6, "val": 3, "test": 5})
    values = {
        "name": "seg", "runs": str(tmp_path), "data": {"cohort": str(tmp_path / "c"), "normalise": "image"}, "task": {"kind": "segmentation"},
        "model": {"family": "unet", "width": 4, "depth": 2}, "optim": {"lr": 1e-2},
        "train": {"epochs": 4, "global_batch": 4, "micro_batch": 1, "zero_stage": 3, "max_failures": 0},
        "evaluation": {"batch": 2, "bootstrap": 50},
    }  # fmt: skip
    folder = train(parse(Recipe, values))
    scores = json.loads((folder / "result.json").read_text())["split"]["test"]
    assert scores["n"] == 5
    assert set(scores["dice_per_class"]) == {"anterior", "posterior"}
    assert np.isclose(scores["dice"], np.mean(list(scores["dice_per_class"].values())))
    assert "hd95" in scores
    masks = np.load(folder / "examples.npz")
    assert {masks[key].shape for key in masks} == {(12, 16, 16)}
    assert "data:image/png" in (folder / "report.html").read_text()
