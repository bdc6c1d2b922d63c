"""Masks of DICOM images: segmentations, structure sets and folders of binary slices, placed by geometry and named by terms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
import SimpleITK
from dicom_files import image, ingested, outcomes, save, segmentation, slices, stored_values, structures, unpacked
from pydicom.dataset import FileDataset

from hepdist.ingest.dicom import DicomSource
from hepdist.ingest.dicom_structures import class_of
from hepdist.ingest.files import Files
from hepdist.ingest.vocabulary import is_anatomical


@pytest.fixture
def stored() -> np.ndarray:
    """uint16[6, 8, 10] stored values, 1024 above their HU."""
    return stored_values()


def test_segmentation_lands_on_its_slices_and_the_smaller_segment_is_on_top(tmp_path: Path, stored: np.ndarray) -> None:
    series = slices(stored)
    liver, tumour = np.zeros(stored.shape, bool), np.zeros(stored.shape, bool)
    liver[1:4, 2:7, 3:8], tumour[2:4, 3:5, 4:6] = True, True
    save(series, tmp_path)
    save(segmentation(series, {"Neoplasm": tumour[::-1], "Liver": liver[::-1]}), tmp_path, ["mask"])
    source = DicomSource(Files(tmp_path))
    assert source.mask_classes == ("background", "Liver", "Tumor")
    (sample,), findings = ingested(tmp_path)
    assert not findings
    assert sample.mask is not None
    assert np.array_equal(sample.mask[0], np.where(tumour, 2, liver.astype(np.uint8)))
    assert "mask" in sample.files


def test_segmentation_on_a_finer_grid_is_resampled_by_position(tmp_path: Path, stored: np.ndarray) -> None:
    series = slices(stored)
    fine = np.zeros((6, 16, 20), bool)
    fine[2:5, 4:12, 6:16] = True
    half = highdicom_place(series, fine)
    save(series, tmp_path)
    save(half, tmp_path)
    (sample,), findings = ingested(tmp_path)
    assert not findings
    expected = np.zeros(stored.shape, np.uint8)
    expected[1:4, 2:6, 3:8] = 1  # every second row and column of the finer grid, whose slices are in reverse order
    assert sample.mask is not None
    assert np.array_equal(sample.mask[0], expected)


def highdicom_place(series: list[Any], fine: np.ndarray) -> Any:

    return segmentation(
        series,
        {"Liver": fine},
        pixel_measures=highdicom.PixelMeasuresSequence(pixel_spacing=[0.25, 0.375], slice_thickness=2.5, spacing_between_slices=2.5),
        plane_orientation=highdicom.PlaneOrientationSequence("PATIENT", series[0].ImageOrientationPatient),
        plane_positions=[
            highdicom.PlanePositionSequence("PATIENT", [s.ImagePositionPatient[0], s.ImagePositionPatient[1], s.ImagePositionPatient[2]])
            for s in series
        ],
    )


def test_segmentation_of_an_absent_series_is_quarantined(tmp_path: Path, stored: np.ndarray) -> None:
    save(slices(stored), tmp_path)
    save(segmentation(slices(stored, series="2"), {"Liver": stored[::-1] > 1000}), tmp_path)
    (sample,), findings = ingested(tmp_path)
    assert sample.mask is None
    assert outcomes(findings) == {("quarantined", "unpaired")}


def test_real_segmentation_equals_its_nrrd(tmp_path: Path, shared_data: Path) -> None:
    folder = unpacked(shared_data / "liver_ct/dcmqi_ct_3slice.tar.xz", tmp_path)
    (sample,), findings = ingested(folder)
    reference = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(next(folder.rglob("*.nrrd"))))
    assert sample.mask is not None
    assert np.array_equal(sample.mask[0], reference)
    assert outcomes(findings) == {("quarantined", "not-dicom")}  # the nrrd


def test_one_segmentation_of_two_series_lands_on_both(tmp_path: Path, stored: np.ndarray) -> None:
    first, second = slices(stored), slices(stored[:4], series="2")
    liver = np.zeros(stored.shape, bool)
    liver[1:3, 2:5, 3:6] = True
    mask = segmentation(first, {"Liver": liver[::-1]})
    other = type(mask.ReferencedSeriesSequence[0])()
    other.SeriesInstanceUID = second[0].SeriesInstanceUID
    mask.ReferencedSeriesSequence.append(other)
    save([*first, *second, mask], tmp_path)
    samples, findings = ingested(tmp_path)
    assert not findings
    assert sorted(s.mask.shape[1] for s in samples if s.mask is not None) == [4, 6]
    for sample in samples:
        assert sample.mask is not None
        assert np.array_equal(sample.mask[0], liver[: sample.mask.shape[1]])


def test_segmentation_of_one_radiograph_lands_on_that_one_alone(tmp_path: Path) -> None:
    pixels = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    first, second = (image(pixels, "CR", name, AccessionNumber="1") for name in ("1", "2"))
    lung, nodule = np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    lung[10:40, 5:30], nodule[20:24, 10:14] = True, True
    save([first, second, segmentation([first], {"Liver": lung[None], "Neoplasm": nodule[None]})], tmp_path)
    samples, findings = ingested(tmp_path)
    assert not findings
    by_key = {s.key: s for s in samples}
    assert by_key[str(second.SOPInstanceUID)].mask is None
    mask = by_key[str(first.SOPInstanceUID)].mask
    assert mask is not None
    assert np.array_equal(mask[0], np.where(nodule, 2, lung.astype(np.uint8)))


# Folders of binary slices


def binary(stored: np.ndarray, inside: np.ndarray, name: str, **tags: Any) -> list[FileDataset]:
    """Slices 0 and 255 as CT of 8 bits, a study of their own, as 3D-IRCADb has them."""
    made = slices(np.where(inside, 255, 0).astype(np.uint8), series=name, study=f"mask {name}", RescaleIntercept=0, **tags)
    for one in made:
        one.PatientID = ""
        del one.FrameOfReferenceUID
    return made


def test_folders_of_binary_slices_are_masks_named_for_their_folder(tmp_path: Path, stored: np.ndarray) -> None:
    liver, tumour = np.zeros(stored.shape, bool), np.zeros(stored.shape, bool)
    liver[1:5, 2:7, 3:8], tumour[2:4, 3:5, 4:6] = True, True
    save(slices(stored), tmp_path / "a/images")
    save(binary(stored, tumour, "1"), tmp_path / "a/masks/livertumor1")
    save(binary(stored, liver, "2"), tmp_path / "a/masks/liver")
    (sample,), findings = ingested(tmp_path)
    assert not findings
    assert DicomSource(Files(tmp_path)).mask_classes == ("background", "liver", "livertumor1")
    assert sample.mask is not None
    assert np.array_equal(sample.mask[0], np.where(tumour, 2, liver.astype(np.uint8)))
    assert len(sample.files) == 18


def test_declared_classes_name_and_order_the_masks_and_leave_the_others_out(tmp_path: Path, stored: np.ndarray) -> None:
    inside = stored > 1000
    save(slices(stored), tmp_path / "images")
    save(binary(stored, inside, "1"), tmp_path / "masks/Doe_Jane")
    save(binary(stored, ~inside, "2"), tmp_path / "masks/liver")
    samples, findings = ingested(tmp_path, classes=("background", "artefact", "doe jane"))
    assert samples[0].mask is not None
    assert np.array_equal(samples[0].mask[0], np.where(inside, 2, 0))
    assert outcomes(findings) == {("quarantined", "class")}
    _, findings = ingested(tmp_path)
    assert {f.check for f in findings} == {"class"}
    assert not any("Doe" in f.reason for f in findings)


def test_mask_of_another_patient_or_place_is_never_joined(tmp_path: Path, stored: np.ndarray) -> None:
    inside = stored > 1000
    save(slices(stored), tmp_path / "a/images")
    save(slices(stored, study="2", patient="P2"), tmp_path / "b/images")
    save(binary(stored, inside, "1"), tmp_path / "b/masks/liver")
    save(binary(stored, inside, "2", origin=(-10.0, -20.0, 101.0)), tmp_path / "a/masks/liver")
    save(binary(stored, inside, "3"), tmp_path / "masks/liver")
    samples, findings = ingested(tmp_path)
    by_patient = {s.patient: s for s in samples}
    assert by_patient["P1"].mask is None
    assert by_patient["P2"].mask is not None
    assert np.array_equal(by_patient["P2"].mask[0], inside)
    assert {f.reason for f in findings} == {
        "a series of binary slices on the grid of no image series",
        "a series of binary slices that fits images of several studies; keep each study's masks in its folder",
    }


def test_mask_folders_can_be_declared_and_are_resampled_by_position(tmp_path: Path, stored: np.ndarray) -> None:
    fine = np.zeros((6, 16, 20), np.uint16)
    fine[1:4, 4:12, 6:16] = 1
    save(slices(stored), tmp_path / "ct")
    save(slices(fine, series="m", PixelSpacing=[0.25, 0.375], RescaleIntercept=0), tmp_path / "truth of liver")
    (sample,), findings = ingested(tmp_path, mask_folders="truth of (.*)")
    assert not findings
    expected = np.zeros(stored.shape, np.uint8)
    expected[1:4, 2:6, 3:8] = 1
    assert sample.mask is not None
    assert np.array_equal(sample.mask[0], expected)
    (tmp_path / "ct/CT9").unlink(missing_ok=True)
    save(slices(stored, series="n", RescaleIntercept=0), tmp_path / "truth of spleen")
    (sample,), findings = ingested(tmp_path, mask_folders="truth of (.*)")
    assert {f.reason for f in findings} == {"a series in a mask folder that holds more values than zero and one other"}
    assert sample.mask is not None


def test_real_masks_of_ircadb_have_their_volumes(tmp_path: Path, shared_data: Path) -> None:
    for part in ("ct", "liver_mask"):
        unpacked(shared_data / f"liver_ct/ircadb1_17_{part}.tar.xz", tmp_path)
    source = DicomSource(Files(tmp_path))
    assert source.mask_classes == ("background", "liver", "livertumor1", "livertumor2")
    (sample,), findings = ingested(tmp_path)
    assert not findings
    assert sample.image is not None
    assert sample.mask is not None
    assert sample.spacing is not None
    assert sample.image.shape == sample.mask.shape == (1, 119, 512, 512)
    assert (sample.image.min(), sample.image.max()) == (-1024, 1023)
    millilitres = np.bincount(sample.mask.ravel(), minlength=4) * np.prod(sample.spacing) / 1000
    tumours = millilitres[2:]
    assert tumours == pytest.approx([86, 79], rel=0.01)
    assert millilitres[1] + tumours.sum() == pytest.approx(1860, rel=0.01)  # the tumours lie in the liver, and on top of it


# Structure sets


def outline(level: float, points: list[tuple[float, float]]) -> np.ndarray:
    return np.array([(x, y, level) for x, y in points])


def circle(level: float, centre: tuple[float, float], radius: float) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    return outline(level, list(zip(centre[0] + radius * np.cos(angles), centre[1] + radius * np.sin(angles), strict=True)))


def test_contours_enclose_the_voxels_whose_centre_they_hold_less_the_holes(tmp_path: Path) -> None:
    series = slices(np.zeros((4, 200, 160), np.uint16))  # 0.5 x 0.75 mm from (-10, -20)
    levels = (102.5, 105.0)
    liver = [circle(z, (50, 30), 24.9) for z in levels] + [circle(z, (50, 30), 10.1) for z in levels]
    box = [outline(102.5, [(49.9, 9.9), (60.1, 9.9), (60.1, 20.1), (49.9, 20.1)])]
    save([*series, structures(series, {"Liver": liver, "CANARY": box}, CANARY="GTV")], tmp_path)
    (sample,), findings = ingested(tmp_path)
    assert not findings
    assert DicomSource(Files(tmp_path)).mask_classes == ("background", "GTV", "Liver")
    assert sample.mask is not None
    y, x = np.mgrid[:200, :160]
    y, x = -20 + 0.5 * y, -10 + 0.75 * x
    inside = (x > 49.9) & (x < 60.1) & (y > 9.9) & (y < 20.1)
    ring = np.hypot(x - 50, y - 30)
    expected = np.where(ring < 24.9, 2, 0) * (ring > 10.1)
    for level in (1, 2):
        drawn = np.where(inside, 1, expected) if level == 1 else expected
        assert (sample.mask[0, level] != drawn).sum() <= 2  # a polygon of 400 corners is no circle
    assert not sample.mask[0, [0, 3]].any()
    area = (sample.mask[0, 2] == 2).sum() * 0.5 * 0.75
    assert area == pytest.approx(np.pi * (24.9**2 - 10.1**2), rel=0.005)


def test_contours_off_the_slices_or_on_every_second_one_are_refused(tmp_path: Path, stored: np.ndarray) -> None:
    series = slices(stored)
    save([*series, structures(series, {"Liver": [circle(103.7, (-8, -18), 1.5)]})], tmp_path / "off")
    save([*series, structures(series, {"Liver": [circle(z, (-8, -18), 1.5) for z in (100, 105, 110)]})], tmp_path / "sparse")
    save([*series, structures(series, {"Jane": [circle(100, (-8, -18), 1.5)]})], tmp_path / "unnamed")
    reasons = [ingested(tmp_path / case)[1][0].reason for case in ("off", "sparse", "unnamed")]
    assert reasons == [
        "contours of a structure set that don't lie on the slices of the image",
        "contours 2 slices of the image apart, with nothing between them",
        "nothing in it has a name that is a class; name the classes with classes=background,...",
    ]


# Names


def test_only_anatomical_terms_are_told_unless_classes_are_declared() -> None:
    for name in ("liver", "Left Kidney", "portalvein", "livertumor2", "GTV 1", "Hepatic_Vein", "segment 3"):
        assert is_anatomical(name)
    for name in ("Smith", "Doe_Jane", "liver_17^patient", "liver Smith", "CANARY7f3a", "19720305", "liver 1972", "Wang", "Brown", ""):
        assert not is_anatomical(name)
    assert class_of(("Jane", "Liver"), ()) == "Liver"
    assert class_of(("Jane", "LIVER tumor"), ("background", "liver_tumor")) == "liver_tumor"
    assert class_of(("Liver",), ("background", "spleen")) is None
