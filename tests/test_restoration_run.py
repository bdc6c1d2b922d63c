"""A restoration run end to end under Ray Train: trained against a critic, resumed exactly, scored by degradation, reported with triplets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from cohorts import tiny_classification_cohort, tiny_segmentation_cohort
from hepdist.recipe import Recipe
from hepdist.spec import parse
from hepdist.training.checkpoint import digest, newest_first
from hepdist.training.launch import train
from hepdist.training.metrics_file import read_metrics
from hepdist.training.saved_model import load_model

pytestmark = pytest.mark.usefixtures("ray_cluster")
KINDS = ("noise", "occlusion")


def recipe(folder: Path, **sections) -> Recipe:
    values = {
        "name": "restored", "runs": str(folder), "data": {"cohort": str(folder / "images")}, "task": {"kind": "restoration"},
        "model": {"family": "restorer", "width": 8, "encoder": [1], "middle": 1, "decoder": [1]},
        "degrade": {"kinds": list(KINDS)},
        "adversary": {"weight": 0.01, "width": 8, "layers": 1, "start": 0.3},
        "optim": {"lr": 3e-3, "ema": 0.9},
        "train": {"epochs": 3, "global_batch": 8, "max_failures": 0, "zero_stage": 2},
        "evaluation": {"splits": ["val", "test"], "batch": 8, "bootstrap": 50},
    }  # fmt: skip
    return parse(Recipe, values | sections)


def final_state(run: Path) -> dict[str, str]:
    newest = newest_first(run / "checkpoints")[0]
    return {path.name: digest(load_file(path)) for path in sorted(newest.glob("*.safetensors"))}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("restoration")
    tiny_classification_cohort(folder / "images", {"train": 45, "val": 11, "test": 13}, side=16, unlabelled=2)
    return train(recipe(folder))


def test_a_run_reports_both_losses_and_every_row_counts(run):
    lines = [line for line in read_metrics(run) if "loss" in line]
    assert lines[-1]["samples"] == 3 * 45, "rows without a label train too"
    assert all(np.isfinite([line["loss"], line["critic_loss"]]).all() for line in lines)
    assert {"val_psnr", "val_psnr_noise", "val_ssim_input_occlusion"} <= {key for line in read_metrics(run) for key in line}


def test_a_checkpoint_holds_both_nets_and_the_exported_model_the_restorer_alone(run):
    assert set(final_state(run)) == {f"{name}.safetensors" for name in ("model", "optimizer", "ema", "critic", "critic_optimizer")}
    model, _, _ = load_model(run)
    assert set(model.state_dict()) == set(load_file(run / "model" / "model.safetensors"))
    assert not any("critic" in path.name for path in (run / "model").iterdir())


@pytest.mark.slow
def test_a_run_that_lost_its_last_checkpoint_ends_with_the_same_two_nets(run):
    before = final_state(run)
    (newest_first(run / "checkpoints")[0] / "progress.json").write_text("{")
    train(recipe(run.parent))
    assert final_state(run) == before


def test_scores_are_those_of_the_predictions_with_the_inputs_beside_them(run):
    table = pd.read_parquet(run / "predictions.parquet")
    result = json.loads((run / "result.json").read_text())
    test = table[table["split"] == "test"]
    assert len(test) == 13
    block = result["split"]["test"]
    assert block["n"] == 13
    for name in ("psnr", "ssim", "psnr_input", "ssim_input"):
        by_kind = {kind: test[f"{name}_{kind}"].mean() for kind in KINDS}
        assert block[f"{name}_per_class"] == pytest.approx(by_kind)
        assert block[name] == pytest.approx(np.mean(list(by_kind.values())))
        assert block[f"{name}_ci"][0] <= block[name] <= block[f"{name}_ci"][1]
    assert block["psnr_gain"] == pytest.approx(block["psnr"] - block["psnr_input"])
    validation = [line for line in read_metrics(run) if "val_psnr" in line]
    best = max(validation, key=lambda line: line["val_psnr"])
    assert best["val_psnr"] == pytest.approx(result["split"]["val"]["psnr"], abs=1e-4)
    assert best["val_psnr_input"] == pytest.approx(result["split"]["val"]["psnr_input"], abs=1e-4)


def test_the_report_shows_triplets_of_each_degradation(run):
    with np.load(run / "examples.npz") as examples:
        assert {key.split("/")[1] for key in examples.files} == set(KINDS)
        assert all(examples[key].shape == (3, 1, 16, 16) for key in examples.files)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.count("<figcaption>restored</figcaption>") == 6
    assert "Mean PSNR of 13 images, degraded and restored: noise:" in page
    assert "PSNR gained" in page


def test_a_segmenter_trains_against_a_critic_by_the_same_loop(tmp_path):
    tiny_segmentation_cohort(tmp_path / "images", {"train": 9, "val": 3, "test": 3}, shape=(12, 16, 16))
    outlining = recipe(
        tmp_path, name="outlined", task={"kind": "segmentation"}, degrade={}, model={"family": "unet", "width": 8, "depth": 2, "deep_supervision": True},
        train={"epochs": 2, "global_batch": 4, "max_failures": 0, "zero_stage": 1}, evaluation={"splits": [], "batch": 4},
    )  # fmt: skip
    run = train(outlining)
    lines = [line for line in read_metrics(run) if "loss" in line]
    assert np.isfinite([line["critic_loss"] for line in lines]).all()
    assert "critic.safetensors" in final_state(run)
