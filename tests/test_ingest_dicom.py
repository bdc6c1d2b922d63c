"""The DICOM source: what is found, how slices become volumes, what pixels are worth, and what is refused and why."""

from __future__ import annotations

import random
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_files import enhanced, image, save, segmentation, slices, uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from hepdist.errors import IngestError
from hepdist.ingest.dicom import DicomSource, stacked
from hepdist.ingest.dicom_refused import Refused
from hepdist.ingest.dicom_pixels import decode, display_values
from hepdist.ingest.files import Files
from hepdist.ingest.sample import Finding, Sample


def everything(source: DicomSource) -> list[Sample | Finding]:
    return [*source.findings, *(found for item in source.items for found in source.read(item))]


def ingested(folder: Path, **options: Any) -> tuple[list[Sample], list[Finding]]:
    source = DicomSource(Files(folder), **options)
    rows = everything(source)
    samples = [r for r in rows if isinstance(r, Sample)]
    findings = [r for r in rows if isinstance(r, Finding)]
    assert len(source.items) >= len(samples)
    accounted = {f.file for f in findings} | {f for s in samples for f in s.files}
    assert accounted == set(Files(folder).names)
    return samples, findings


def outcomes(findings: list[Finding]) -> set[tuple[str, str]]:
    return {(f.outcome, f.check) for f in findings}


def unpacked(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture
def stored() -> np.ndarray:
    """uint16[6, 8, 10] stored values, 1024 above their HU."""
    return np.random.default_rng(0).integers(0, 3000, (6, 8, 10), dtype=np.uint16)


# Volumes


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


def test_volume_dtype_is_the_narrowest_that_holds_its_values() -> None:
    small, large, half = np.array([[-1024, 5]]), np.array([[0, 40000]]), np.array([[0.5, 1.0]])
    shape = (2, 1, 2)
    assert stacked(iter([small, small]), shape).dtype == np.int16
    assert stacked(iter([large, large]), shape).dtype == np.uint16
    assert stacked(iter([small, large]), shape).tolist() == [[[-1024.0, 5.0]], [[0.0, 40000.0]]]
    assert stacked(iter([half, small]), shape).dtype == np.float32


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


# Masks


def test_segmentation_lands_on_its_slices_and_the_smaller_segment_is_on_top(tmp_path: Path, stored: np.ndarray) -> None:
    series = slices(stored)
    liver, tumour = np.zeros(stored.shape, bool), np.zeros(stored.shape, bool)
    liver[1:4, 2:7, 3:8], tumour[2:4, 3:5, 4:6] = True, True
    save(series, tmp_path)
    save(segmentation(series, {"Neoplasm": tumour[::-1], "Liver": liver[::-1]}), tmp_path, ["mask"])
    source = DicomSource(Files(tmp_path))
    assert source.mask_classes == ("background", "Liver", "Neoplasm")
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
    import highdicom

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


# Pixels


def test_every_decodable_zoo_file_decodes_as_pydicom_does_and_four_more(tmp_path: Path, shared_data: Path) -> None:
    files = sorted(p for p in unpacked(shared_data / "dicom_zoo/pydicom_data_dev.tar.xz", tmp_path).rglob("*.dcm"))
    decoded, refusals, by_us_alone = {}, {}, []
    for file in files:
        dataset = pydicom.dcmread(file, force=True)
        try:
            decoded[file.stem] = decode(dataset)
        except Refused as refused:
            refusals[file.stem] = refused.check
            continue
        try:
            reference = pydicom.dcmread(file, force=True).pixel_array
        except Exception:
            by_us_alone.append(file.stem)
        else:
            assert np.array_equal(decoded[file.stem], reference)
    assert (len(files), len(decoded), refusals) == (59, 58, {"emri_small_jpeg_2k_lossless_too_short": "truncated"})
    assert by_us_alone == ["OT-PAL-8-face", "liver_nonbyte_aligned_deflate", "liver_nonbyte_aligned_rle", "liver_rle"]
    assert np.array_equal(decoded["liver_rle"], decoded["liver"])
    assert np.array_equal(decoded["liver_nonbyte_aligned_rle"], decoded["liver_nonbyte_aligned_j2k"])
    assert np.array_equal(decoded["liver_nonbyte_aligned_deflate"], decoded["liver_nonbyte_aligned_j2k"])


@pytest.mark.parametrize("modality", ["CR", "US", "OT", "CT", "MR", "NM"])
def test_zoo_is_accounted_for_whatever_is_asked_of_it(shared_data: Path, modality: str) -> None:
    archive = shared_data / "dicom_zoo/pydicom_data_dev.tar.xz"
    samples, findings = ingested(archive, modality=modality, allow_burned_in=True, least_slices=1)
    assert samples
    assert all(f.reason for f in findings)


@pytest.mark.parametrize("syntax", [ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_transfer_syntax_changes_no_value(tmp_path: Path, stored: np.ndarray, syntax: UID) -> None:
    plain = image(np.tile(stored[0], (4, 4)), "CR", "1")
    expected = display_values(plain, decode(plain))
    coded = image(np.tile(stored[0], (4, 4)), "CR", "1")
    if syntax.is_compressed and syntax != DeflatedExplicitVRLittleEndian:
        coded.compress(syntax)
    else:
        if syntax == ExplicitVRBigEndian:
            coded.PixelData = coded.pixel_array.astype(">u2").tobytes()
        coded.file_meta.TransferSyntaxUID = syntax
    fresh = Dataset(coded)  # without the memory of another encoding, which pydicom refuses to change
    fresh.file_meta = coded.file_meta
    fresh.save_as(tmp_path / "coded", enforce_file_format=True)
    (sample,), _ = ingested(tmp_path)
    assert np.array_equal(sample.image[0], expected)  # type: ignore[index]


def test_radiograph_is_windowed_as_pydicom_does_and_bright_is_dense(tmp_path: Path) -> None:
    pixels = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    window = {"BitsStored": 12, "HighBit": 11, "WindowCenter": 2000, "WindowWidth": 1000}
    save(image(pixels, "CR", "1", PixelSpacing=[0.2, 0.1], **window), tmp_path)
    save(image(pixels, "DX", "2", PhotometricInterpretation="MONOCHROME1", ImagerPixelSpacing=[0.3, 0.3], **window), tmp_path)
    samples, findings = ingested(tmp_path, modality="DX")
    assert not findings
    by_key = {s.key: s for s in samples}
    two, one = by_key[uid("instance", "1", "1", "1")], by_key[uid("instance", "1", "1", "2")]
    reference = pydicom.pixels.apply_windowing(pixels, image(pixels, "CR", "1", **window)) / 4095 * 255
    assert two.image is not None
    assert one.image is not None
    assert two.image.dtype == np.uint8
    assert np.array_equal(two.image[0], np.rint(reference).astype(np.uint8))
    assert np.abs(one.image.astype(int) + two.image - 255).max() <= 1  # each is rounded
    assert (one.image[0, 0, 0], one.image[0, -1, -1]) == (255, 0)
    assert (two.spacing, one.spacing) == ((0.2, 0.1), (0.3, 0.3))
    assert two.image_unit == "display 0..255"


def test_lookup_tables_of_modality_and_voi_are_applied() -> None:
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    modality, voi = Dataset(), Dataset()
    modality.LUTDescriptor, modality.LUTData, modality.ModalityLUTType = [16, 0, 16], [100 * i for i in range(16)], "US"
    voi.LUTDescriptor, voi.LUTData = [1501, 0, 12], [min(4095, 3 * i) for i in range(1501)]
    dataset = image(pixels, "CR", "1", ModalityLUTSequence=Sequence([modality]), VOILUTSequence=Sequence([voi]))
    shown = display_values(dataset, decode(dataset), 65535)
    assert np.array_equal(shown, np.rint(np.minimum(4095, 300 * pixels.astype(int)) / 4095 * 65535).astype(np.uint16))


def test_eight_bit_images_keep_their_values_and_wider_ones_are_stretched() -> None:
    eight, wide = np.array([[10, 200]], np.uint8), np.array([[300, 800, 1300, 9999]], np.uint16)
    narrow = image(eight, "US", "1")
    assert display_values(narrow, decode(narrow)).tolist() == [[10, 200]]
    padded = image(wide, "CR", "1", PixelPaddingValue=9999)
    assert display_values(padded, decode(padded)).tolist() == [[0, 128, 255, 255]]
    flat = image(np.full((2, 2), 7, np.uint16), "CR", "1")
    assert not display_values(flat, decode(flat)).any()


def test_colour_becomes_luminance() -> None:
    pixels = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]]], np.uint8)
    colour = image(pixels, "US", "1")
    assert display_values(colour, decode(colour)).tolist() == [[76, 150, 29, 9]]
    tables = {f"{c}PaletteColorLookupTableDescriptor": [4, 0, 8] for c in ("Red", "Green", "Blue")}
    data = {f"{c}PaletteColorLookupTableData": bytes(pixels[0, :, i]) for i, c in enumerate(("Red", "Green", "Blue"))}
    palette = image(np.arange(4, dtype=np.uint8).reshape(1, 4), "US", "1", PhotometricInterpretation="PALETTE COLOR", **tables, **data)
    assert display_values(palette, decode(palette)).tolist() == [[76, 150, 29, 9]]


# What is refused


def test_bad_files_end_in_the_audit_with_their_reason_and_the_rest_is_read(tmp_path: Path) -> None:
    pixels = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    save(image(pixels, "CR", "good"), tmp_path, ["good"])
    save(image(pixels, "CR", "burned", BurnedInAnnotation="YES"), tmp_path, ["burned"])
    save(image(pixels, "OT", "capture", SOPClassUID="1.2.840.10008.5.1.4.1.1.7"), tmp_path, ["capture"])
    save(image(np.full((4, 4), np.nan, np.float32), "CR", "nan"), tmp_path, ["nan"])
    save(image(pixels, "CR", "no study", StudyInstanceUID=None), tmp_path, ["nobody"])
    save(image(pixels, "MR", "mr"), tmp_path, ["mr"])
    save(image(pixels, "CR", "cine", NumberOfFrames=2, PixelData=pixels.tobytes() * 2), tmp_path, ["cine"])
    report = image(pixels, "CR", "report", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11", Rows=None, Columns=None, PixelData=None)
    save(report, tmp_path, ["report"])
    whole = (tmp_path / "good").read_bytes()
    (tmp_path / "cut").write_bytes(whole.replace(image(pixels, "CR", "good").SOPInstanceUID.encode(), uid("cut").encode()[:64])[:-100])
    (tmp_path / "cut header").write_bytes(whole[:300])
    (tmp_path / "notes.dcm").write_text("The patient's name is CANARY.")
    (tmp_path / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (tmp_path / "empty").write_bytes(b"")
    bad = image(pixels, "CR", "unknown syntax")
    save(bad, tmp_path, ["syntax"])
    (tmp_path / "syntax").write_bytes((tmp_path / "syntax").read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.4\0"))
    samples, findings = ingested(tmp_path)
    assert [s.files for s in samples] == [("good",)]
    assert {f.file: (f.outcome, f.check) for f in findings} == {
        "burned": ("quarantined", "burned-in"),
        "capture": ("ignored", "modality"),
        "nan": ("quarantined", "nan"),
        "nobody": ("quarantined", "no-identity"),
        "mr": ("ignored", "modality"),
        "cine": ("quarantined", "unsupported"),
        "report": ("ignored", "no-image"),
        "cut": ("quarantined", "truncated"),
        "cut header": ("quarantined", "truncated"),
        "notes.dcm": ("quarantined", "not-dicom"),
        ".DS_Store": ("ignored", "hidden-file"),
        "empty": ("quarantined", "empty"),
        "syntax": ("quarantined", "decode"),
    }
    assert "8092 bytes of pixel data where 8192 are declared" in {f.reason for f in findings}
    samples, _ = ingested(tmp_path, allow_burned_in=True)
    assert {s.files for s in samples} == {("good",), ("burned",)}


def test_one_damaged_slice_takes_its_series_along_and_both_are_named(tmp_path: Path, stored: np.ndarray) -> None:
    names = [f"slice{i}" for i in range(6)]
    save(slices(stored), tmp_path, names)
    (tmp_path / "slice3").write_bytes((tmp_path / "slice3").read_bytes()[:-10])
    samples, findings = ingested(tmp_path)
    assert not samples
    assert {f.file: f.check for f in findings} == {n: "truncated" if n == "slice3" else "incomplete" for n in names}


def test_copies_count_once_and_differing_files_of_one_uid_not_at_all(tmp_path: Path) -> None:
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    save(image(pixels, "CR", "1"), tmp_path, ["a"])
    (tmp_path / "b").write_bytes((tmp_path / "a").read_bytes())
    save([image(pixels, "CR", "2"), image(pixels + 1, "CR", "2")], tmp_path, ["c", "d"])
    samples, findings = ingested(tmp_path)
    assert [s.files for s in samples] == [("a",)]
    assert {f.file: (f.outcome, f.check) for f in findings} == {
        "b": ("ignored", "duplicate"),
        "c": ("quarantined", "duplicate"),
        "d": ("quarantined", "duplicate"),
    }


def test_series_of_two_patients_is_refused(tmp_path: Path, stored: np.ndarray) -> None:
    series = slices(stored)
    series[0].PatientID = "P2"
    save(series, tmp_path)
    samples, findings = ingested(tmp_path)
    assert not samples
    assert outcomes(findings) == {("quarantined", "identity")}


def test_commonest_modality_by_studies_is_kept_unless_one_is_asked_for(tmp_path: Path, stored: np.ndarray) -> None:
    save(slices(stored), tmp_path)
    save([image(stored[0], "CR", "1", study="2"), image(stored[0], "DX", "2", study="3")], tmp_path)
    assert DicomSource(Files(tmp_path)).modality == "CR"
    assert len(DicomSource(Files(tmp_path), modality="ct").items) == 1
    with pytest.raises(IngestError, match="ingest key 'modality' is 'MR', which no DICOM image of the source has; it has CR, CT"):
        DicomSource(Files(tmp_path), modality="MR")


def test_no_reason_quotes_a_name_or_an_identifier(tmp_path: Path, stored: np.ndarray) -> None:
    canary = {
        "patient": "CANARY1",
        "PatientName": "CANARY2",
        "Modality": "CANARY3",
        "PhotometricInterpretation": "CANARY4",
        "ImageType": ["CANARY5"],
    }
    save(image(stored[0], "CR", "1", **canary), tmp_path, ["CANARY6"])
    save(image(stored[0], "CR", "2", WindowWidth=0, WindowCenter=1, StudyDescription="CANARY7"), tmp_path, ["CANARY8"])
    save(slices(stored[[0, 1, 3]], series="CANARY9"), tmp_path)
    (tmp_path / "CANARY10.dcm").write_text("CANARY11")
    for modality in ("CR", "CT"):
        _, findings = ingested(tmp_path, modality=modality)
        assert findings
        assert not any("CANARY" in f.reason + f.check for f in findings)


def test_mutated_files_are_accounted_for_and_crash_nothing(tmp_path: Path, stored: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    one = slices(stored[:2])[0]
    one.save_as(tmp_path / "seed", enforce_file_format=True)
    seed = np.frombuffer((tmp_path / "seed").read_bytes(), np.uint8)
    for number in range(150):
        mutant = seed.copy()
        mutant[rng.integers(128, len(seed), rng.integers(1, 30))] = rng.integers(0, 256)
        (tmp_path / f"{number}").write_bytes(mutant[: rng.integers(140, len(seed) + 1) if number % 3 == 0 else None].tobytes())
    samples, findings = ingested(tmp_path, modality="CT", least_slices=1)
    assert len({f.file for f in findings} | {f for s in samples for f in s.files}) == 151
