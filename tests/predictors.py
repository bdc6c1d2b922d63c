"""Runs without training for the tests of prediction: a cohort that ingest made, and a small network with chosen weights; no assertions here.

A test module takes the fixtures that it needs by name: `salt, chest = predictors.salt, predictors.chest`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from dicom_files import image, save, segmentation, slices, uid
from PIL import Image
from salts import SALT
from torch import nn

from hepdist.ingest import ingest
from hepdist.recipe import Recipe
from hepdist.shards.manifest import Manifest
from hepdist.spec import parse
from hepdist.training.saved_model import Signature, build_model, save_model

UNET = {"family": "unet", "width": 4, "depth": 2, "norm": "syncbatch"}
RESNET = {"family": "resnet", "depth": 10, "width": 8}


@pytest.fixture(scope="module", autouse=True)
def salt() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEPDIST_SALT", SALT)
        yield


@pytest.fixture(scope="module")
def chest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on radiographs, beside its cohort."""
    folder = tmp_path_factory.mktemp("chest")
    return saved_run(folder / "chest", xray_cohort(folder), "classification", RESNET)


def saved_run(folder: Path, cohort: Path, kind: str, model: dict[str, Any], seed: int = 0, **sections: dict[str, Any]) -> Path:
    """A run's folder with a model of random weights, far enough from zero that its answers differ from case to case."""
    values = {"name": folder.name, "runs": str(folder.parent), "data": {"cohort": str(cohort)}, "task": {"kind": kind}, "model": model}
    recipe: Recipe = parse(Recipe, values | sections)
    signature = Signature.of(Manifest.load(cohort))
    network = build_model(recipe, signature)
    source = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, generator=source)
    save_model(folder, dict(network.state_dict()), recipe, signature, samples=1)
    return folder


def abdomen(seed: int, shape: tuple[int, int, int] = (6, 16, 20)) -> tuple[np.ndarray, np.ndarray]:
    """Stored CT values uint16[D, H, W] and the liver in them."""
    rng = np.random.default_rng(seed)
    liver = np.zeros(shape, bool)
    liver[1 : shape[0] - 1, 4 : shape[1] - 4, 3 : shape[2] // 2] = True
    return (rng.normal(960, 30, shape) + 120 * liver).astype(np.uint16), liver


def ct_study(folder: Path, number: int, shape: tuple[int, int, int] = (6, 16, 20), **tags: Any) -> np.ndarray:
    """One CT series of one patient as files; its values."""
    values, _ = abdomen(number, shape)
    save(slices(values, study=str(number), patient=f"P{number}", **tags), folder / f"study{number}")
    return values


def ct_cohort(folder: Path, shape: tuple[int, int, int] = (6, 16, 20), **options: str) -> Path:
    """Of ten CT series with liver masks."""
    for number in range(10):
        values, liver = abdomen(number, shape)
        planes = slices(values, study=str(number), patient=f"P{number}")
        seg = segmentation(planes, {"Liver": liver[::-1]})
        seg.SOPInstanceUID = seg.file_meta.MediaStorageSOPInstanceUID = uid("seg", number)
        save([*planes, seg], folder / "ct" / f"study{number}")
    ingest(str(folder / "ct"), str(folder / "cohort"), [f"{key}={value}" for key, value in options.items()])
    return folder / "cohort"


def xray(number: int, side: int = 40, **tags: Any) -> Any:
    pixels = np.random.default_rng(number).integers(0, 256, (side, side), dtype=np.uint8)
    pixels[8:20, 8:20] //= 2 if number % 2 else 1
    return image(pixels, "CR", str(number), study=str(number), patient=f"P{number}", PixelSpacing=[0.5, 0.5], **tags)


def xray_cohort(folder: Path, **options: str) -> Path:
    """Of twenty CR images with two classes."""
    save([xray(number) for number in range(20)], folder / "cr")
    rows = [f"P{number},{'pneumonia' if number % 2 else 'normal'}" for number in range(20)]
    (folder / "labels.csv").write_text("\n".join(["patient,finding", *rows]))
    usual = {"emr": str(folder / "labels.csv"), "label": "finding", "label_names": "normal,pneumonia", "size": "32,32"}
    ingest(str(folder / "cr"), str(folder / "cohort"), [f"{key}={value}" for key, value in {**usual, **options}.items()])
    return folder / "cohort"


def picture_cohort(source: Path, cohort: Path) -> None:
    """Of ten grey pictures of 32 x 32 pixels with masks."""
    for folder in ("images", "masks"):
        (source / folder).mkdir(parents=True)
    for number in range(10):
        mask = np.zeros((32, 32), np.uint8)
        mask[8:20, 6:18] = 1
        pixels = np.random.default_rng(number).integers(0, 120, (32, 32), dtype=np.uint8) + 100 * mask
        Image.fromarray(pixels).save(source / f"images/{number}.png")
        Image.fromarray(mask).save(source / f"masks/{number}.png")
    ingest(str(source), str(cohort), ["near_identical=false"])


def nifti_cohort(folder: Path) -> Path:
    """Of ten volumes of 36 x 48 x 32 mm with a liver."""
    for number in range(10):
        rng = np.random.default_rng(number)
        voxels = rng.normal(80, 20, (36, 48, 32)).astype(np.uint8)
        mask = np.zeros(voxels.shape, np.uint8)
        mask[8:20, 10:30, 8:20] = 1
        for kind, array in (("imagesTr", voxels), ("labelsTr", mask)):
            path = folder / "nii" / kind / f"case{number}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.diag([1.0, 1, 1, 1])), path)
    (folder / "nii/dataset.json").write_text(json.dumps({"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "liver"}}))
    ingest(str(folder / "nii"), str(folder / "cohort"))
    return folder / "cohort"
