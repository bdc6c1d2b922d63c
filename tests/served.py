"""Runs of untrained models whose answers depend on what they are shown, and what a server of them is sent; for the tests of hepdist serve.

A test module takes the fixtures that it needs by name: `runs, radiographs = models.runs, models.radiographs`, from `import served as models`.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dicom_files
import numpy as np
import pytest
import torch
from pydicom.dataset import FileDataset
from torch import nn

from cohorts import EMR
from hepdist.inference.predictor import Predictor
from hepdist.ingest.fit import Layout
from hepdist.recipe import Recipe
from hepdist.shards.manifest import EMRColumn
from hepdist.spec import parse
from hepdist.training.saved_model import Signature, build_model, save_model

TOKEN = "a-token-for-the-tests-of-serve"
OPENS = {"Authorization": f"Bearer {TOKEN}"}
VISITS = (EMRColumn("bilirubin", "number", unit="mg/dL", low=0.0, high=90.0), EMRColumn("ascites", "category", categories=("no", "yes")))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for them."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def radiographs(runs: Path) -> Predictor:
    return Predictor([classifier(runs / "cr")])


def classifier(folder: Path, seed: int = 1, side: int = 32, **model: Any) -> Path:
    """Of radiographs: 'normal' or 'hepatitis'."""
    layout = Layout(1, (side, side), None, "uint8", "display 0..255", resized=True)
    signature = Signature(
        {"image": _field("uint8", (1, side, side), "CHW", layout.unit)}, ("normal", "hepatitis"), False, (), (),
        {"image": {"mean": [90.0], "std": [40.0]}}, _origin("dicom", layout, modality="CR"),
    )  # fmt: skip
    return _saved(folder, seed, signature, {"kind": "classification"}, {"family": "resnet", "depth": 10, "width": 8, **model})


def emr_classifier(folder: Path, seed: int = 2) -> Path:
    """Of static values alone: 'normal' or 'hepatitis'."""
    signature = Signature(
        _values("emr", len(EMR)), ("normal", "hepatitis"), False, EMR, (), {"emr": _numbers(len(EMR))}, _origin("table", None)
    )
    return _saved(folder, seed, signature, {"kind": "classification"}, {"family": "mlp", "width": 16}, emr=True)


def visits_classifier(folder: Path, seed: int = 3) -> Path:
    """Of up to 4 visits."""
    tensors = {
        "sequence": _field("float32", (4, len(VISITS)), "TF"), "sequence_missing": _field("uint8", (4, len(VISITS)), "TF"),
        "sequence_gap": _field("float32", (4,), "T"), "sequence_length": _field("int32", (1,)),
    }  # fmt: skip
    signature = Signature(tensors, ("no", "yes"), False, (), VISITS, {"sequence": _numbers(len(VISITS))}, _origin("table", None))
    return _saved(folder, seed, signature, {"kind": "classification"}, {"family": "rnn", "width": 8}, emr=True)


def segmenter(folder: Path, seed: int = 4) -> Path:
    """Of CT: 'liver' and 'tumour'."""
    layout = Layout(1, (16, 32, 32), (2.5, 0.5, 0.75), "int16", "HU", resized=False)
    tensors = {
        "image": _field("int16", (1, 16, 32, 32), "CDHW", "HU"),
        "mask": {**_field("uint8", (1, 16, 32, 32), "CDHW"), "classes": ["background", "liver", "tumour"]},
    }
    origin = _origin("dicom", layout, modality="CT") | {"fingerprint": {"median_spacing": [2.5, 0.5, 0.75], "largest_shape": [16, 32, 32]}}
    signature = Signature(tensors, (), False, (), (), {"image": {"mean": [0.0], "std": [300.0]}}, origin)
    return _saved(folder, seed, signature, {"kind": "segmentation"}, {"family": "unet", "width": 4, "depth": 2, "stride": 2})


def radiograph(seed: int = 0, side: int = 48, patient: str = "P1", study: str = "1", **tags: Any) -> FileDataset:
    pixels = np.random.default_rng(seed).integers(0, 4096, (side, side), dtype=np.uint16)
    pixels[: side // 2] //= 1 + seed % 4
    return dicom_files.image(pixels, "CR", f"radiograph {seed}", patient=patient, study=study, BitsStored=12, HighBit=11, **tags)


def series(seed: int = 0, shape: tuple[int, int, int] = (12, 24, 28)) -> list[FileDataset]:
    """A CT whose answer is of all classes."""
    rng = np.random.default_rng(seed)
    volume = rng.integers(0, 2000, shape).astype(np.uint16)
    volume[: shape[0] // 2] += 1000
    return dicom_files.slices(volume, series=str(seed))


def as_bytes(dataset: FileDataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def form(*files: bytes, emr: str | None = None) -> dict[str, Any]:
    """What an HTTP client takes for a multipart request."""
    return {"files": [("files", (f"Doe^Jane {n}", data)) for n, data in enumerate(files)], "data": {} if emr is None else {"emr": emr}}


def zipped(*files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, data in enumerate(files):
            archive.writestr(f"Doe^Jane/{number}", data)
    return buffer.getvalue()


def _saved(folder: Path, seed: int, signature: Signature, task: dict[str, Any], model: dict[str, Any], emr: bool = False) -> Path:
    values = {"name": folder.name, "runs": str(folder.parent), "data": {"cohort": "c", "emr": emr}, "task": task, "model": model}
    recipe = parse(Recipe, values)
    network = build_model(recipe, signature)
    generator = torch.Generator().manual_seed(seed)
    for weight in network.parameters():  # an untrained head of zeros would say the same of everything
        nn.init.normal_(weight, std=0.3, generator=generator)
    save_model(folder, dict(network.state_dict()), recipe, signature, samples=1)
    return folder


def _field(dtype: str, shape: tuple[int, ...], axes: str = "", unit: str = "") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "unit": unit, "axes": axes, "classes": []}


def _values(name: str, columns: int) -> dict[str, dict[str, Any]]:
    return {name: _field("float32", (columns,)), f"{name}_missing": _field("uint8", (columns,))}


def _numbers(columns: int) -> dict[str, Any]:
    return {"mean": [1.0] * columns, "std": [10.0] * columns, "quantiles": [np.linspace(-2, 2, 33).tolist()] * columns}


def _origin(source: str, layout: Layout | None, **options: str) -> dict[str, Any]:
    return {"name": "made up", "source": source, "options": options, "layout": None if layout is None else asdict(layout)}
