"""The DICOM source as the pipeline sees it: items that travel, a header pass that may be spread, frames on request, and safe facts."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import image, ingested, save, segmentation, slices, stored_values, uid
from salts import SALT

from hepdist.ingest.dicom import DicomSource
from hepdist.ingest.dicom_facts import read_facts
from hepdist.ingest.files import Files
from hepdist.ingest.headers import header_row
from hepdist.ingest.pseudonym import Pseudonyms


@pytest.fixture
def stored() -> np.ndarray:
    """uint16[6, 8, 10] stored values, 1024 above their HU."""
    return stored_values()


def test_sample_tells_who_where_and_when_raw_and_only_safe_facts_besides(tmp_path: Path, stored: np.ndarray) -> None:
    told = {
        "PatientAge": "045Y", "PatientSex": "F", "StudyDate": "20190304", "InstitutionName": "CANARY hospital", "KVP": "120",
        "Manufacturer": "SIEMENS Healthineers CANARY", "ManufacturerModelName": "CANARY", "MagneticFieldStrength": "15000",
    }  # fmt: skip
    save(slices(stored, **told), tmp_path)
    (sample,), _ = ingested(tmp_path)
    assert (sample.series, sample.site, sample.date) == (uid("series", "1", "1"), "CANARY hospital", date(2019, 3, 4))
    row = header_row(sample.header, Pseudonyms(SALT.encode()))
    assert (row["age_years"], row["sex"], row["manufacturer"], row["model"]) == (45.0, "F", "Siemens", "other")
    assert (row["kvp"], row["slice_thickness_mm"]) == (120.0, 2.5)
    assert "CANARY" not in str(row)


def test_site_is_the_institution_else_the_station_else_the_device() -> None:
    pixels = np.zeros((2, 2), np.uint8)
    assert read_facts(image(pixels, "CR", "1", StationName="CT1", DeviceSerialNumber="7")).site == "CT1"
    assert read_facts(image(pixels, "CR", "1", DeviceSerialNumber="7")).site == "7"


@pytest.mark.parametrize(("frames", "keys"), [("first", 1), ("all", 3)])
def test_frames_of_a_cine_are_images_where_that_is_asked_for(tmp_path: Path, frames: Any, keys: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (3, 16, 12), dtype=np.uint8)
    save(image(pixels[0], "US", "cine", NumberOfFrames=3, PixelData=pixels.tobytes()), tmp_path)
    samples, findings = ingested(tmp_path, frames=frames)
    assert not findings
    assert [s.key for s in samples] == [uid("instance", "1", "1", "cine") + end for end in ("", "#1", "#2")[:keys]]
    assert all(np.array_equal(s.image[0], p) for s, p in zip(samples, pixels, strict=False) if s.image is not None)
    samples, findings = ingested(tmp_path)
    assert not samples
    assert [f.reason for f in findings] == ["3 frames of modality US; read the first or each as an image with frames=first or frames=all"]


def test_headers_can_be_read_in_parallel_and_items_in_another_process(tmp_path: Path, stored: np.ndarray) -> None:
    series = slices(stored)
    save([*series, segmentation(series, {"Liver": stored[::-1] > 1000})], tmp_path)
    names: list[str] = []

    def spread(function: Callable[[str], Any], files: Sequence[str]) -> Iterator[Any]:
        names.extend(files)
        with ThreadPoolExecutor(1) as pool:
            yield from pool.map(pickle.loads(pickle.dumps(function, 5)) if _pickles(function) else function, files)

    source = DicomSource(Files(tmp_path), each=spread)
    assert names == Files(tmp_path).names
    (item,) = source.items
    (here,) = source.read(item)
    assert not {"items", "findings"} & set(source.__getstate__())
    other = DicomSource.__new__(DicomSource)
    other.__dict__.update(source.__getstate__())
    (there,) = other.read(pickle.loads(pickle.dumps(item)))
    assert np.array_equal(here.image, there.image)  # type: ignore[union-attr, arg-type]
    assert np.array_equal(here.mask, there.mask)  # type: ignore[union-attr, arg-type]


def _pickles(function: Any) -> bool:
    """Whether the files can travel: those of an archive that is open can't."""
    try:
        pickle.dumps(function)
    except TypeError:
        return False
    return True


def test_header_of_a_radiograph_is_small(tmp_path: Path) -> None:
    save([image(np.zeros((4, 4), np.uint8), "CR", str(n)) for n in range(20)], tmp_path)
    items = DicomSource(Files(tmp_path)).items
    assert len(pickle.dumps(items)) < 20 * 600
    first, second = items[0].header, items[1].header
    assert first.study is second.study
    assert first.facts is second.facts
    assert not hasattr(first, "__dict__")
