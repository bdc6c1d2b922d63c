"""DICOM series: which slices become which volume, in which order and on which grid, and what is refused with its position."""

from __future__ import annotations

import random
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_files import enhanced, everything, ingested, outcomes, save, slices, stored_values, uid, unpacked

from hepdist.ingest.dicom import DicomSource, stacked
from hepdist.ingest.files import Files
from hepdist.ingest.sample import Sample


@pytest.fixture
def stored() -> np.ndarray:
    """uint16[6, 8, 10] stored values, 1024 above their HU."""
    return stored_values()


def test_slices_become_a_volume_in_hu_by_position_whatever_their_names(tmp_path: Path, stored: np.ndarray) -> None:
    save(slices(stored), tmp_path)
    (sample,), findings = ingested(tmp_path)
    assert not findings
    assert sample.image is not None
    assert sample.image.dtype == np.int16
    assert np.array_equal(sample.image[0], stored.astype(np.int16) - 1024)
    assert (sample.image_unit, sample.patient, sample.key) == ("HU", "P1", uid("series", "1", "1"))
    assert sample.spacing == (2.5, 0.5, 0.75)
    # LPS: the last voxel of the last slice is 5 steps up, 7 rows back, 9 columns left of the first
    assert sample.affine is not None
    assert np.allclose(sample.affine @ [5, 7, 9, 1], [-10 + 9 * 0.75, -20 + 7 * 0.5, 100 + 5 * 2.5, 1])


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1), (0.8, 0.6, 0, 0, 0, -1)])
def test_geometry_of_any_orientation_equals_simpleitk(tmp_path: Path, stored: np.ndarray, orientation: tuple[float, ...]) -> None:
    save(slices(stored, modality="MR", ImageOrientationPatient=list(orientation)), tmp_path)
    (sample,), _ = ingested(tmp_path)
    assert_equals_simpleitk(sample, tmp_path)


def assert_equals_simpleitk(sample: Sample, folder: Path) -> None:
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    reference = reader.Execute()
    assert sample.image is not None
    assert sample.affine is not None
    assert sample.spacing is not None
    assert np.array_equal(sample.image[0], SimpleITK.GetArrayFromImage(reference))
    assert np.allclose(sample.spacing, reference.GetSpacing()[::-1], atol=1e-4)
    last = [n - 1 for n in reference.GetSize()]
    for corner in ([0, 0, 0], last):
        expected = reference.TransformIndexToPhysicalPoint(corner)
        assert np.allclose((sample.affine @ [*corner[::-1], 1])[:3], expected, atol=0.01)


def test_enhanced_multiframe_gives_the_same_volume_as_its_slices(tmp_path: Path, stored: np.ndarray) -> None:
    save(slices(stored), tmp_path / "classic")
    save(enhanced(stored), tmp_path / "enhanced")
    (classic,), _ = ingested(tmp_path / "classic")
    (multiframe,), findings = ingested(tmp_path / "enhanced")
    assert not findings
    assert np.array_equal(classic.image, multiframe.image)  # type: ignore[arg-type]
    assert np.array_equal(classic.affine, multiframe.affine)  # type: ignore[arg-type]


def test_missing_slice_is_refused_with_its_position(tmp_path: Path, stored: np.ndarray) -> None:
    save([s for s in slices(stored) if s.ImagePositionPatient[2] not in (105.0, 107.5)], tmp_path)
    samples, findings = ingested(tmp_path)
    assert not samples
    assert {f.reason for f in findings} == {"gap of 2 slices after position 102.5 mm"}
    assert outcomes(findings) == {("quarantined", "geometry")}


def test_two_slices_at_one_position_are_refused(tmp_path: Path, stored: np.ndarray) -> None:
    save([*slices(stored), *slices(stored[:1], series="1", SOPInstanceUID=uid("other"))], tmp_path)
    samples, findings = ingested(tmp_path)
    assert not samples
    assert {f.reason for f in findings} == {"more than one slice at position 100.0 mm"}


def test_uneven_spacing_is_refused(tmp_path: Path, stored: np.ndarray) -> None:
    series = slices(stored)
    series[0].ImagePositionPatient = [-10, -20, 113.5]
    save(series, tmp_path)
    _, findings = ingested(tmp_path)
    assert {f.reason for f in findings} == {"slices 3.50 mm apart after position 110.0 mm, 2.50 mm elsewhere"}


def test_slice_moved_sideways_is_refused(tmp_path: Path, stored: np.ndarray) -> None:
    series = slices(stored)
    series[2].ImagePositionPatient = [-7, -20, series[2].ImagePositionPatient[2]]
    save(series, tmp_path)
    _, findings = ingested(tmp_path)
    assert {f.reason for f in findings} == {"slice off the line of the others by 3.0 mm at position 107.5 mm"}


def test_scout_in_the_series_goes_to_the_audit_and_moves_nothing(tmp_path: Path, stored: np.ndarray) -> None:
    scouts = [
        {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        {"ImageOrientationPatient": [1.0, 0, 0, 0, 0, -1.0]},
        {"PixelSpacing": [1.0, 1.0]},
        {"AcquisitionNumber": 9},
    ]
    save(slices(stored, AcquisitionNumber=1), tmp_path)
    for number, different in enumerate(scouts):
        save(
            slices(stored[:1], origin=(-10, -20, 101.0), SOPInstanceUID=uid("scout", number), **({"AcquisitionNumber": 1} | different)),
            tmp_path,
        )
    (sample,), findings = ingested(tmp_path)
    assert sample.spacing == (2.5, 0.5, 0.75)
    assert [(f.outcome, f.check) for f in findings] == [("ignored", "scout")] * 4


def test_two_phases_in_one_series_are_two_volumes(tmp_path: Path, stored: np.ndarray) -> None:
    for phase in (1, 2):
        for one in slices(stored + phase, AcquisitionNumber=phase):
            one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = uid(phase, one.SOPInstanceUID)
            save(one, tmp_path)
    samples, findings = ingested(tmp_path)
    assert not findings
    series = uid("series", "1", "1")
    assert [s.key for s in samples] == [series, f"{series}#1"]
    found = {int(s.image[0, 0, 0, 0]) for s in samples if s.image is not None}
    assert found == {int(stored[0, 0, 0]) - 1023, int(stored[0, 0, 0]) - 1022}


def test_acquisitions_of_two_echoes_each_in_one_series_are_four_volumes(tmp_path: Path, stored: np.ndarray) -> None:
    for acquisition in (1, 2):
        for echo in (1, 2):
            tags = {"AcquisitionNumber": acquisition, "EchoNumbers": echo, "modality": "MR"}
            for one in slices(stored + np.uint16(10 * acquisition + echo), **tags):
                one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = uid(acquisition, echo, one.SOPInstanceUID)
                save(one, tmp_path)
    samples, findings = ingested(tmp_path)
    assert not findings
    found = {int(s.image[0, 0, 0, 0]) - int(stored[0, 0, 0]) for s in samples if s.image is not None}
    assert found == {11, 12, 21, 22}


def test_volume_dtype_is_the_narrowest_that_holds_its_values() -> None:
    small, large, half = np.array([[-1024, 5]]), np.array([[0, 40000]]), np.array([[0.5, 1.0]])
    shape = (2, 1, 2)
    assert stacked(iter([small, small]), shape).dtype == np.int16
    assert stacked(iter([large, large]), shape).dtype == np.uint16
    assert stacked(iter([small, large]), shape).tolist() == [[[-1024.0, 5.0]], [[0.0, 40000.0]]]
    assert stacked(iter([half, small]), shape).dtype == np.float32


@pytest.mark.parametrize("multiframe", [False, True])
def test_reading_a_volume_holds_the_volume_and_a_slice_or_two(tmp_path: Path, multiframe: bool) -> None:
    values = np.random.default_rng(0).integers(0, 2000, (60, 128, 128), dtype=np.uint16)
    save(enhanced(values) if multiframe else slices(values), tmp_path)
    source = DicomSource(Files(tmp_path))
    tuple(source.read(source.items[0]))  # what is imported and cached on the way
    tracemalloc.start()
    (sample,) = source.read(source.items[0])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(sample, Sample)
    assert sample.image is not None
    one_slice = 128 * 128 * 8  # as float64, on its way through the rescale
    assert peak < sample.image.nbytes + 6 * one_slice


def test_real_mr_study_equals_simpleitk_shuffled_or_not(tmp_path: Path, shared_data: Path) -> None:
    archive = shared_data / "dicom_mr/study3.tar.xz"
    tidy = unpacked(archive, tmp_path / "tidy")
    files = sorted(p for p in tidy.rglob("*") if p.is_file())
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    random.Random(0).shuffle(files)
    folders = {str(pydicom.dcmread(f, specific_tags=["SeriesInstanceUID"]).SeriesInstanceUID): f.parent for f in files}
    for number, file in enumerate(files):
        (mixed / f"{number:x}").write_bytes(file.read_bytes())
    of_archive = everything(DicomSource(Files(archive)))
    samples, findings = ingested(mixed)
    assert not findings
    assert len(samples) == 5
    for sample, other in zip(samples, of_archive, strict=True):
        assert_equals_simpleitk(sample, folders[sample.key])
        assert isinstance(other, Sample)
        assert np.array_equal(sample.image, other.image)  # type: ignore[arg-type]
        assert (sample.key, sample.spacing) == (other.key, other.spacing)


def test_real_mr_series_without_one_slice_is_refused_with_its_position_and_a_scout_moves_nothing(tmp_path: Path, shared_data: Path) -> None:
    folder = unpacked(shared_data / "dicom_mr/study3.tar.xz", tmp_path) / "Study3"
    before = {s.series: s.spacing for s in ingested(folder)[0]}
    ordered = sorted((folder / "36468-FLAIRreg-58706").iterdir(), key=lambda f: float(pydicom.dcmread(f).ImagePositionPatient[2]))
    gone = pydicom.dcmread(ordered[7])
    ordered[7].unlink()
    scout = pydicom.dcmread(next((folder / "11-T1post-18670").iterdir()))
    scout.ImageType, scout.SOPInstanceUID = ["ORIGINAL", "PRIMARY", "LOCALIZER"], uid("scout")
    scout.ImagePositionPatient = [0, 0, 1000]
    scout.save_as(folder / "scout")
    samples, findings = ingested(folder)
    assert len(samples) == 4
    assert all(s.spacing == before[s.series] and s.series != gone.SeriesInstanceUID for s in samples)
    assert [(f.outcome, f.check) for f in findings if f.file == "scout"] == [("ignored", "scout")]
    reference = pydicom.dcmread(ordered[6])
    normal = np.cross(*np.array(reference.ImageOrientationPatient, float).reshape(2, 3))
    position = float(np.array(reference.ImagePositionPatient, float) @ normal)
    assert {f.reason for f in findings if f.file != "scout"} == {f"gap of 1 slice after position {position:.1f} mm"}


def test_real_ct_series_without_extensions_is_whole_and_in_hu(shared_data: Path) -> None:
    (sample,) = everything(DicomSource(Files(shared_data / "liver_ct/ircadb1_17_ct.tar.xz")))
    assert isinstance(sample, Sample)
    assert sample.image is not None
    assert sample.affine is not None
    assert sample.image.shape == (1, 119, 512, 512)
    assert (int(sample.image.min()), int(sample.image.max())) == (-1024, 1023)
    assert np.allclose(sample.spacing or (), (1.6, 0.743, 0.743), atol=1e-4)
    assert sample.patient == sample.study  # its PatientID is empty
    assert sample.affine[2, 0] > 0  # slices go up
    with tarfile.open(shared_data / "liver_ct/ircadb1_17_ct.tar.xz") as tar:
        members = (tar.extractfile(member) for member in tar.getmembers() if member.isfile())
        files = sorted((pydicom.dcmread(member) for member in members if member is not None), key=lambda d: d.ImagePositionPatient[2])
    assert len(files) == 119
    assert all(np.array_equal(slice_, file.pixel_array) for slice_, file in zip(sample.image[0], files, strict=True))  # rescale 1, 0
