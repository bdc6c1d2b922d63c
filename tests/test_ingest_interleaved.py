"""Series of several acquisitions: which of them are volumes of their own, and that a damaged one takes no other with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import ingested, save, slices, stored_values, uid

from hepdist.ingest.sample import Sample

STEP = 4.0


@pytest.fixture
def stored() -> np.ndarray:
    """uint16[6, 8, 10]"""
    return stored_values()


def phase(stored: np.ndarray, number: int, start: float, folder: Path, without: tuple[int, ...] = (), **tags: Any) -> None:
    """One acquisition from `start` mm on; without: planes that are missing."""
    for d, one in enumerate(reversed(slices(stored + np.uint16(number), STEP, (-10.0, -20.0, start), **tags))):
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = uid("phase", number, d)
        if d not in without:
            save(one, folder)


def found(samples: list[Sample], stored: np.ndarray) -> dict[int, tuple[int, float]]:
    """Number of each phase: its planes and their distance."""
    first = int(stored[0, 0, 0]) - 1024
    return {int(s.image[0, 0, 0, 0]) - first: (s.image.shape[1], s.spacing[0]) for s in samples}  # type: ignore[index, union-attr]


def test_two_acquisitions_that_interleave_are_two_volumes(tmp_path: Path, stored: np.ndarray) -> None:
    phase(stored, 1, 100.0, tmp_path, AcquisitionNumber=1)
    phase(stored, 2, 102.0, tmp_path, AcquisitionNumber=2)
    samples, findings = ingested(tmp_path)
    assert not findings
    assert found(samples, stored) == {1: (6, STEP), 2: (6, STEP)}


def test_packages_of_one_volume_are_one_volume(tmp_path: Path, stored: np.ndarray) -> None:
    """Every other plane of an MR is taken first, the rest then: planes are as thick as they are apart."""
    phase(stored, 1, 100.0, tmp_path, AcquisitionNumber=1, SliceThickness=2.0)
    phase(stored, 2, 102.0, tmp_path, AcquisitionNumber=2, SliceThickness=2.0)
    samples, findings = ingested(tmp_path)
    assert not findings
    assert found(samples, stored) == {1: (12, 2.0)}


@pytest.mark.parametrize(("first", "second", "position"), [((), (3,), 112.0), ((5,), (), 118.0)])
def test_packages_with_a_missing_plane_are_refused_as_the_one_volume_that_they_are(
    tmp_path: Path, stored: np.ndarray, first: tuple[int, ...], second: tuple[int, ...], position: float
) -> None:
    """Either package alone is regular, or both are, but holds every other plane only."""
    phase(stored, 1, 100.0, tmp_path, without=first, AcquisitionNumber=1, EchoNumbers=1, SliceThickness=2.0)
    phase(stored, 2, 102.0, tmp_path, without=second, AcquisitionNumber=2, EchoNumbers=1, SliceThickness=2.0)
    samples, findings = ingested(tmp_path)
    assert not samples
    assert [(f.check, f.reason) for f in findings] == [("geometry", f"gap of 1 slice after position {position} mm")] * 11


@pytest.mark.parametrize("start", [102.0, 101.0])
def test_of_thick_acquisitions_that_interleave_the_whole_one_stays(tmp_path: Path, stored: np.ndarray, start: float) -> None:
    phase(stored, 1, 100.0, tmp_path, AcquisitionNumber=1)
    phase(stored, 2, start, tmp_path, without=(3,), AcquisitionNumber=2)
    samples, findings = ingested(tmp_path)
    assert found(samples, stored) == {1: (6, STEP)}
    assert {f.reason for f in findings} == {f"gap of 1 slice after position {start + 8} mm"}


def test_echoes_that_interleave_are_volumes_however_thick_their_planes(tmp_path: Path, stored: np.ndarray) -> None:
    phase(stored, 1, 100.0, tmp_path, EchoTime=4.6, SliceThickness=2.0)
    phase(stored, 2, 102.0, tmp_path, EchoTime=9.2, SliceThickness=2.0)
    samples, findings = ingested(tmp_path)
    assert not findings
    assert found(samples, stored) == {1: (6, STEP), 2: (6, STEP)}


def test_blocks_one_after_the_other_are_one_volume(tmp_path: Path, stored: np.ndarray) -> None:
    phase(stored, 1, 100.0, tmp_path, AcquisitionNumber=1)
    phase(stored, 2, 100.0 + 6 * STEP, tmp_path, AcquisitionNumber=2)
    samples, findings = ingested(tmp_path)
    assert not findings
    assert found(samples, stored) == {1: (12, STEP)}


def test_a_phase_with_a_gap_leaves_the_whole_one(tmp_path: Path, stored: np.ndarray) -> None:
    phase(stored, 1, 100.0, tmp_path, AcquisitionNumber=1)
    phase(stored, 2, 100.0, tmp_path, without=(3,), AcquisitionNumber=2)
    samples, findings = ingested(tmp_path)
    assert found(samples, stored) == {1: (6, STEP)}
    assert [(f.outcome, f.check, f.reason) for f in findings] == [("quarantined", "geometry", "gap of 1 slice after position 108.0 mm")] * 5


def test_of_blocks_with_a_gap_no_part_passes_for_the_whole(tmp_path: Path, stored: np.ndarray) -> None:
    """The first block alone would be half a chest."""
    phase(stored, 1, 100.0, tmp_path, AcquisitionNumber=1)
    phase(stored, 2, 100.0 + 6 * STEP, tmp_path, without=(3,), AcquisitionNumber=2)
    samples, findings = ingested(tmp_path)
    assert not samples
    assert {f.reason for f in findings} == {"gap of 1 slice after position 132.0 mm"}
    assert len(findings) == 11


def test_where_every_phase_has_a_gap_all_are_refused(tmp_path: Path, stored: np.ndarray) -> None:
    phase(stored, 1, 100.0, tmp_path, without=(2,), AcquisitionNumber=1)
    phase(stored, 2, 100.0, tmp_path, without=(3,), AcquisitionNumber=2)
    samples, findings = ingested(tmp_path)
    assert not samples
    assert len(findings) == 10
