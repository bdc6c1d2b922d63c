"""Every file of the zoo, each alone: ingested with pydicom's own values after the declared lookup tables, or quarantined with its DICOM problem."""

from __future__ import annotations

import shutil
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import ingested, unpacked
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, apply_windowing

from hepdist.ingest.dicom_pixels import decode, modality_values
from hepdist.ingest.sample import Finding, Sample

LUMINANCE = (0.299, 0.587, 0.114)


@pytest.fixture(scope="module")
def zoo(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Each file in a folder of its own."""
    folder = tmp_path_factory.mktemp("zoo")
    files = sorted(unpacked(shared_data / "dicom_zoo/pydicom_data_dev.tar.xz", folder / "all").rglob("*.dcm"))
    for file in files:
        (folder / file.stem).mkdir()
        shutil.move(file, folder / file.stem / file.name)
    return [folder / file.stem / file.name for file in files]


def frames_of(dataset: Dataset) -> np.ndarray:
    """[N, H, W] or [N, H, W, 3] as pydicom decodes them."""
    pixels = dataset.pixel_array
    return pixels if int(dataset.get("NumberOfFrames") or 1) > 1 else pixels[None]


def in_units(dataset: Dataset, frame: int, pixels: np.ndarray) -> np.ndarray:
    """A slice after its modality LUT or rescale, its own where it is one of several frames."""
    groups = dataset.get("PerFrameFunctionalGroupsSequence"), dataset.get("SharedFunctionalGroupsSequence")
    items = [groups[0][frame] if groups[0] else Dataset(), groups[1][0] if groups[1] else Dataset()]
    own = next((item.PixelValueTransformationSequence[0] for item in items if "PixelValueTransformationSequence" in item), dataset)
    return apply_modality_lut(pixels, own)


def shown(dataset: Dataset, pixels: np.ndarray) -> np.ndarray:
    """A picture as grey 0..255 after the declared tables and windows, by pydicom's functions."""
    bits = int(dataset.BitsStored)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        colour = apply_color_lut(pixels, dataset)
        return colour @ LUMINANCE / np.iinfo(colour.dtype).max * 255
    if pixels.ndim == 3:
        return pixels @ LUMINANCE / (2**bits - 1) * 255
    values = apply_modality_lut(pixels, dataset)
    if "VOILUTSequence" in dataset:
        share = apply_voi_lut(np.rint(values).astype(int), dataset) / (2 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1)
    elif dataset.get("WindowWidth"):
        low, high = apply_windowing(np.array([-np.inf, np.inf]), dataset)
        share = (apply_windowing(values, dataset) - low) / (high - low)
    elif bits <= 8:
        share = values / (2**bits - 1)
    else:
        share = (values - values.min()) / (values.max() - values.min())
    return (1 - share if dataset.PhotometricInterpretation == "MONOCHROME1" else share) * 255


def taken(file: Path) -> tuple[list[Sample], list[Finding]]:
    return ingested(file.parent, allow_burned_in=True, frames="all", least_slices=1)


def test_each_file_is_ingested_or_quarantined_with_its_problem_and_none_warns_or_prints(
    zoo: list[Path], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    told = {}
    for file in zoo:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            samples, findings = taken(file)
        assert bool(samples) != bool(findings), file.stem
        told[file.stem] = {(f.outcome, f.check, f.reason) for f in findings} or {("ingested", "", "")}
    assert (capfd.readouterr(), caplog.records) == (("", ""), [])
    assert Counter(one for (one,) in told.values()) == {
        ("ingested", "", ""): 41,
        ("quarantined", "no-identity", "the header has no Study Instance UID"): 6,
        ("quarantined", "geometry", "10 frames, of which 1 say where they lie"): 5,
        ("quarantined", "unpaired", "a segmentation of a series that is not among those read"): 7,
    }


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_ingested_pixel_is_pydicoms_own_after_the_declared_tables(zoo: list[Path]) -> None:
    compared = by_us_alone = 0
    for file in zoo:
        samples, _ = taken(file)
        dataset = pydicom.dcmread(file, force=True)
        try:
            reference = frames_of(dataset)
        except Exception:  # pydicom decodes no such file
            by_us_alone += len(samples)
            continue
        for number, sample in enumerate(samples):
            assert sample.image is not None
            if sample.image_unit == "display 0..255":
                assert np.abs(sample.image[0] - shown(dataset, reference[number])).max() <= 0.5 + 1e-6, file.stem
            else:
                values = [in_units(dataset, n, frame).astype(sample.image.dtype) for n, frame in enumerate(reference)]
                assert sorted(v.tobytes() for v in sample.image[0]) == sorted(v.tobytes() for v in values), file.stem
            compared += 1
    assert (compared, by_us_alone) == (46, 1)


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, of the truncated file
def test_stored_values_of_what_is_quarantined_for_other_reasons_are_pydicoms_too(zoo: list[Path]) -> None:
    compared = 0
    for file in zoo:
        samples, _ = taken(file)
        dataset = pydicom.dcmread(file, force=True)
        try:
            reference = frames_of(dataset) if not samples else None
        except Exception:
            continue
        if reference is not None:
            ours = decode(pydicom.dcmread(file, force=True))
            assert np.array_equal(ours.reshape(reference.shape), reference), file.stem
            for number, frame in enumerate(reference):
                if frame.ndim == 2 and dataset.get("PhotometricInterpretation") == "MONOCHROME2":
                    assert np.array_equal(modality_values(dataset, number, frame), in_units(dataset, number, frame)), file.stem
            compared += 1
    assert compared == 14
