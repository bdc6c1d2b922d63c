"""Bricks put together to whole volumes: blended as MONAI's sliding window does, scored once, alike on any number of workers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from dicom_files import unpacked
from salts import SALT
from torch import Tensor, nn

from hepdist.errors import RecipeError, RunError
from hepdist.evaluation.cases import load_cases
from hepdist.evaluation.evaluate import _comparable
from hepdist.evaluation.score import score_splits
from hepdist.ingest import ingest
from hepdist.recipe import Recipe
from hepdist.shards.manifest import Manifest
from hepdist.shards.plan import plan_of
from hepdist.shards.read import SplitReader, columns_of
from hepdist.spec import parse
from hepdist.tasks import build as build_task
from hepdist.tasks.surface import surface_agreement, surface_distance_95
from hepdist.tasks.volumes import predict_volumes
from hepdist.training.launch import train
from hepdist.training.metrics_file import read_metrics
from hepdist.training.preflight import fits_cohort
from hepdist.training.saved_model import load_model

BRICK = (12, 10, 8)
CLASSES = ("background", "liver", "tumour")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    """Ten volumes of different shapes in bricks, whose images are their masks times 100; a tumour lies inside the liver."""
    folder = tmp_path_factory.mktemp("volumes")
    rng = np.random.default_rng(0)
    for i in range(10):
        shape = tuple(rng.integers((14, 18, 9), (20, 26, 30)))
        d, h, w = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
        mask = (((d - 0.1) ** 2 + h**2 + (w + 0.1) ** 2) < rng.uniform(0.3, 0.6)).astype(np.uint8)
        mask[(d**2 + (h - 0.2) ** 2 + w**2) < 0.08] = 2
        for name, voxels in (("imagesTr", (mask * 100).astype(np.int16)), ("labelsTr", mask)):
            path = folder / "source" / name / f"case_{i:03d}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(voxels.T, np.diag([0.8, 0.9, 2.5, 1.0])), path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEPDIST_SALT", SALT)
        options = [f"brick={','.join(map(str, BRICK))}", f"classes={','.join(CLASSES)}"]
        manifest = ingest(str(folder / "source"), str(folder / "cohort"), options)
    assert [manifest.counts[split]["volumes"] for split in ("train", "val", "test")] == [6, 2, 2]
    return folder / "cohort"


def recipe(cohort: Path, runs: Path, **sections) -> Recipe:
    values = {
        "name": "run", "runs": str(runs), "data": {"cohort": str(cohort)}, "task": {"kind": "segmentation"},
        "model": {"family": "unet", "width": 4, "depth": 2}, "optim": {"lr": 1e-2},
        "train": {"epochs": 2, "global_batch": 8, "max_failures": 0}, "evaluation": {"batch": 4, "bootstrap": 20},
    }  # fmt: skip
    for section, changes in sections.items():
        values[section] = {**values.get(section, {}), **changes}
    return parse(Recipe, values)


def batches(cohort: Path, recipe: Recipe, split: str = "train", size: int = 5) -> Iterator[dict[str, Tensor]]:
    """All rows of a split as they are stored, in batches that begin and end anywhere in a volume."""
    manifest = Manifest.load(cohort)
    reader = SplitReader(cohort, manifest, split)
    for first in range(0, len(reader), size):
        rows = np.arange(first, min(first + size, len(reader)))
        arrays = {**reader.arrays(rows, columns_of(recipe, manifest)), "row": rows}
        yield {name: torch.from_numpy(values.copy()) for name, values in arrays.items()}


def whole_cases(cohort: Path, split: str) -> list[dict[str, np.ndarray]]:
    """Images and masks of the volumes of a split, in the order of rows."""
    manifest = Manifest.load(cohort)
    ids = SplitReader(cohort, manifest, split).strings(["sample_id"])["sample_id"].to_pylist()
    return [case for _, case in load_cases(cohort, manifest, ids, ("image", "mask", "spacing"))]


class Knowing(nn.Module):
    """Reads the class off the image."""

    inputs = ("image",)

    def forward(self, image: Tensor) -> Tensor:
        classes = torch.arange(3).reshape(1, 3, 1, 1, 1)
        return -((image.float() / 100 - classes) ** 2) * 50


class Random(nn.Module):
    """A convolution that sees across the borders of bricks, so that bricks disagree where they overlap."""

    inputs = ("image",)

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv3d(1, classes, 5, padding=2)

    def forward(self, image: Tensor) -> Tensor:
        return self.conv(image.float() / 100) * 8


def test_a_model_that_knows_the_mask_has_dice_1_and_the_exact_volume_of_each_volume(cohort, tmp_path):
    plan = recipe(cohort, tmp_path)
    task = build_task(plan, Manifest.load(cohort))
    found = list(predict_volumes(task, Knowing(), batches(cohort, plan), ("hd95", "nsd", "mask")))
    cases = whole_cases(cohort, "train")
    assert len(found) == len(cases) == 6
    for rows, case in zip(found, cases, strict=True):
        assert rows["dice"].tolist() == [[1.0, 1.0]]
        assert rows["hd95"].tolist() == [[0.0, 0.0]]
        assert rows["nsd"].tolist() == [[1.0, 1.0]]
        np.testing.assert_array_equal(rows["mask"], case["mask"])
        ml = [np.count_nonzero(case["mask"] == k) * 0.8 * 0.9 * 2.5 / 1000 for k in (1, 2)]
        np.testing.assert_allclose(rows["volume_ml"], [ml], rtol=1e-6)
        np.testing.assert_allclose(rows["true_volume_ml"], [ml], rtol=1e-6)
    assert [int(rows["row"][0]) for rows in found] == Manifest.load(cohort).cases("train")[:-1].tolist()


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_bricks_are_blended_as_monais_sliding_window_blends_them(cohort, tmp_path, activation):
    from monai.inferers.utils import sliding_window_inference

    plan = recipe(cohort, tmp_path, task={"activation": activation})
    task, model = build_task(plan, Manifest.load(cohort)), Random()
    found = list(predict_volumes(task, model, batches(cohort, plan), ("hd95", "nsd", "mask")))

    def predictor(image: Tensor) -> Tensor:
        return model(image).sigmoid() if activation == "sigmoid" else model(image).softmax(1)

    for rows, case in zip(found, whole_cases(cohort, "train"), strict=True):
        image = torch.from_numpy(case["image"][None].astype(np.float32))
        with torch.no_grad():
            whole = sliding_window_inference(image, BRICK, 1, predictor, overlap=0.25, mode="gaussian")[0].numpy()
        decided = whole[1:] > 0.5 if activation == "sigmoid" else np.stack([whole.argmax(0) == k for k in (1, 2)])
        expected = np.where(decided[1], 2, decided[0].astype(np.uint8))
        assert (rows["mask"][0] != expected).mean() < 1e-4  # sums in another order may tip a voxel that lies on the edge
        for k, region in enumerate(decided):
            truth = case["mask"][0] == k + 1
            dice = 2 * (region & truth).sum() / (region.sum() + truth.sum())
            np.testing.assert_allclose(rows["dice"][0, k], dice, atol=2e-3)
            np.testing.assert_allclose(rows["volume_ml"][0, k], region.sum() * np.prod(case["spacing"]) / 1000, rtol=2e-3)
            hd95, nsd = surface_agreement(region, truth, case["spacing"], plan.evaluation.tolerance_mm)
            np.testing.assert_allclose(rows["hd95"][0, k], hd95, rtol=0.05)
            np.testing.assert_allclose(rows["nsd"][0, k], nsd, atol=5e-3)


class Oracle(nn.Module):
    """Answers with the mask itself."""

    inputs = ("mask",)

    def forward(self, mask: Tensor) -> Tensor:
        return nn.functional.one_hot(mask[:, 0].long(), 4).movedim(-1, 1).float() * 20


def test_a_real_ct_in_bricks_is_scored_with_the_volumes_of_its_liver_and_tumours(shared_data, tmp_path, monkeypatch):
    """3D-IRCADb-01 patient 17: 119 slices of 512 x 512, liver 1.86 l with two tumours of 86 and 79 ml."""
    monkeypatch.setenv("HEPDIST_SALT", SALT)
    for part in ("ct", "liver_mask"):
        unpacked(shared_data / f"liver_ct/ircadb1_17_{part}.tar.xz", tmp_path / "source")
    manifest = ingest(str(tmp_path / "source"), str(tmp_path / "cohort"), ["brick=64,192,192", "overlap=0.25", "workers=1"])
    assert manifest.counts["train"]["rows"] == 3 * 4 * 4
    assert manifest.counts["train"]["volumes"] == 1
    assert manifest.fields["mask"].classes == ("background", "liver", "livertumor1", "livertumor2")
    plan = recipe(tmp_path / "cohort", tmp_path)
    [rows] = predict_volumes(build_task(plan, manifest), Oracle(), batches(tmp_path / "cohort", plan, size=2), ("mask",))
    assert rows["mask"].shape == (1, 119, 512, 512)
    assert rows["dice"].tolist() == [[1.0, 1.0, 1.0]]
    assert rows["volume_ml"].tolist() == rows["true_volume_ml"].tolist()
    assert rows["volume_ml"][0, 1:] == pytest.approx([86, 79], rel=0.01)
    assert rows["volume_ml"].sum() == pytest.approx(1860, rel=0.01)


def test_scores_do_not_depend_on_how_bricks_fall_into_batches(cohort, tmp_path):
    plan = recipe(cohort, tmp_path, task={"select": "loss"})
    task, model = build_task(plan, Manifest.load(cohort)), Random()
    one, many = (list(predict_volumes(task, model, batches(cohort, plan, size=size))) for size in (1, 64))
    for a, b in zip(one, many, strict=True):
        np.testing.assert_array_equal(a["dice"], b["dice"])
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-5)
    scores = task.score({name: np.concatenate([rows[name] for rows in one]) for name in one[0]})
    assert scores["dice"] == pytest.approx(np.mean([scores["dice_liver"], scores["dice_tumour"]]))


def test_the_loss_of_a_volume_is_the_mean_over_its_bricks(cohort, tmp_path):
    plan = recipe(cohort, tmp_path, task={"select": "loss"})
    task, model = build_task(plan, Manifest.load(cohort)), Random()
    with torch.no_grad():
        losses = np.concatenate([task.loss(model, batch).numpy() for batch in batches(cohort, plan)])
    expected = [losses[first:last].mean() for first, last in pairwise(Manifest.load(cohort).cases("train"))]
    found = [float(rows["loss"][0]) for rows in predict_volumes(task, model, batches(cohort, plan))]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_validation_gives_each_worker_whole_volumes(cohort, tmp_path, world):
    manifest = Manifest.load(cohort)
    plan = plan_of(recipe(cohort, tmp_path, evaluation={"batch": 3}), manifest)
    starts = set(manifest.cases("val").tolist())
    rows: list[int] = []
    for rank in range(world):
        low, high = plan.validation_batches(rank, world)
        assert plan.validation_cuts[low] in starts
        for first, last in zip(plan.validation_cuts[low:high], plan.validation_cuts[low + 1 : high + 1], strict=True):
            assert 0 < last - first <= 3
            assert not starts & set(range(first + 1, last))
            rows += range(first, last)
        read = [row for chunk in range(plan._validation_items(rank, world)) for row in plan.validation_rows(chunk, rank, world)]
        assert read == rows[len(rows) - len(read) :]
    assert rows == list(range(manifest.rows("val")))


def test_hd95_of_a_noisy_box_equals_monais(tmp_path):
    from monai.metrics import compute_hausdorff_distance

    rng = np.random.default_rng(0)
    pred, truth = rng.random((12, 14, 9)) < 0.3, rng.random((12, 14, 9)) < 0.2
    expected = compute_hausdorff_distance(
        torch.tensor(pred)[None, None], torch.tensor(truth)[None, None], include_background=True, percentile=95, spacing=(2.5, 0.9, 0.8)
    )
    assert surface_distance_95(pred, truth, (2.5, 0.9, 0.8)) == pytest.approx(float(expected), rel=1e-5)


def test_an_intensity_scale_of_each_brick_by_itself_is_refused(cohort, tmp_path):
    manifest = Manifest.load(cohort)
    with pytest.raises(RecipeError, match=r"data.normalise' is 'image'.*is in bricks.*use data.normalise=cohort"):
        fits_cohort(recipe(cohort, tmp_path, data={"normalise": "image"}), manifest)


def test_a_classifier_is_not_scored_on_bricks(cohort, tmp_path):
    manifest = Manifest.load(cohort)
    classify = recipe(cohort, tmp_path, task={"kind": "classification"}, model={"family": "resnet", "width": 8, "depth": 10})
    with pytest.raises(RecipeError, match=r"task.kind' is 'classification'.*is in bricks"):
        fits_cohort(classify, manifest)
    with pytest.raises(RunError, match="is in bricks, whose label is their volume's"):
        _comparable(classify, manifest, manifest, str(cohort))


@pytest.fixture(scope="module")
def run(cohort, tmp_path_factory, ray_cluster) -> Path:
    return train(recipe(cohort, tmp_path_factory.mktemp("runs"), augment={"crop": [8, 8, 8]}))


def test_a_run_is_scored_by_volume_on_any_number_of_workers(run, cohort):
    """Whole volumes in validation while training and in evaluation after it; predictions.parquet has one row each."""
    result = json.loads((run / "result.json").read_text())
    table = pd.read_parquet(run / "predictions.parquet")
    assert table.groupby("split").size().to_dict() == {"test": 2, "val": 2}
    assert table["sample_id"].is_unique
    assert result["split"]["test"]["n"] == 2
    validations = [line for line in read_metrics(run) if "val_dice" in line]
    assert [line["samples"] for line in validations] == [manifest_rows := Manifest.load(cohort).rows("train"), 2 * manifest_rows]
    assert max(line["val_dice"] for line in validations) == pytest.approx(result["split"]["val"]["dice"], abs=1e-6)

    plan = load_model(run)[1]
    scored = [
        score_splits(
            run, plan.model_copy(update={"train": plan.train.model_copy(update={"workers": workers})}), str(cohort), ["test"], "cpu"
        )
        for workers in (1, 3)
    ]
    assert scored[0]["test"]["row"].tolist() == Manifest.load(cohort).cases("test")[:-1].tolist()
    for name in scored[0]["test"]:
        np.testing.assert_array_equal(scored[0]["test"][name], scored[1]["test"][name])
    np.testing.assert_array_equal(
        scored[0]["test"]["dice"], table.query("split == 'test'")[["dice_liver", "dice_tumour"]].to_numpy(np.float32)
    )


def test_one_worker_validates_as_two_do(run, cohort, tmp_path):
    alone = train(recipe(cohort, tmp_path, augment={"crop": [8, 8, 8]}, train={"workers": 1}, evaluation={"splits": []}))
    validations = [[line["val_dice"] for line in read_metrics(folder) if "val_dice" in line] for folder in (alone, run)]
    assert validations[0]
    np.testing.assert_allclose(*validations, atol=1e-3)


def test_the_report_shows_whole_volumes_and_counts_them(run, cohort):
    table = pd.read_parquet(run / "predictions.parquet").query("split == 'test'")
    shapes = {case["mask"].shape[1:] for case in whole_cases(cohort, "test")}
    with np.load(run / "examples.npz") as masks:
        assert {key.removesuffix("/pred") for key in masks} == set(table["sample_id"])
        assert {masks[key].shape for key in masks} == shapes
    page = (run / "report.html").read_text()
    assert "data:image/png" in page
    assert "<b>10</b> <span>volumes of</span>" in page
