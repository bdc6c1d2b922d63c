"""NIfTI of any layout, type and orientation: the voxels and where they lie as nibabel and SimpleITK have them, or one reason why not."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hepdist.ingest.dataset_json import parse_description
from hepdist.ingest.detect import open_source
from hepdist.ingest.files import Files
from hepdist.ingest.nifti import UnreadableVolume, read_nifti
from hepdist.ingest.sample import Finding, Sample
from hepdist.ingest.spec import IngestSpec
from hepdist.ingest.volumes import class_indices


def save(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None, kind=nib.Nifti1Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(kind(voxels, np.eye(4) if affine is None else affine), path)


def volume(seed: int, shape: tuple[int, ...] = (6, 7, 5)) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)


def mask(seed: int, shape: tuple[int, ...] = (6, 7, 5)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, shape).astype(np.uint8)


def read(folder: Path, **options) -> tuple[list[Sample], list[tuple[str, str, str]]]:
    """Samples, and findings as (file, outcome, check), of a folder; every file is accounted for once."""
    files = Files(folder)
    source = open_source(files, IngestSpec(**options))
    found = [*source.findings, *(thing for item in source.items for thing in source.read(item))]
    samples = [thing for thing in found if isinstance(thing, Sample)]
    findings = [thing for thing in found if isinstance(thing, Finding)]
    told = {name for s in samples for name in s.files} | {f.file.split("#")[0] for f in findings}
    assert told >= set(files.names)
    return samples, sorted((f.file, f.outcome, f.check) for f in findings)


def test_totalsegmentator_pair_is_found_by_name_and_the_liver_has_38634_voxels(shared_data, tmp_path):
    for name in ("totalseg_example_ct_sm.nii.gz", "totalseg_example_seg.nii.gz"):
        shutil.copy(shared_data / "liver_ct" / name, tmp_path)
    samples, findings = read(tmp_path)
    assert findings == []
    (sample,) = samples
    assert int((sample.mask == 5).sum()) == 38_634
    assert sample.image.shape == sample.mask.shape == (1, 30, 101, 122)
    assert sample.spacing == pytest.approx((3, 3, 3), abs=0.01)
    import SimpleITK as sitk

    reference = sitk.ReadImage(str(tmp_path / "totalseg_example_ct_sm.nii.gz"))
    voxels = sitk.GetArrayFromImage(reference).astype(np.float64)
    for z, y, x in ((0, 0, 0), (29, 100, 121), (7, 50, 30)):  # the same value at the same place in the patient
        point = (sample.affine @ [z, y, x, 1])[:3]
        i, j, k = (round(v) for v in reference.TransformPhysicalPointToContinuousIndex(point.tolist()))
        assert sample.image[0, z, y, x] == pytest.approx(voxels[k, j, i], abs=1e-3)


@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64", ">i2", ">f4"]
)
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_every_number_type_keeps_its_values(dtype, kind):
    voxels = np.random.default_rng(0).integers(0, 100, (4, 5, 6)).astype(dtype)
    image = kind(voxels, np.diag([-1, -1, 1, 1]), dtype=np.dtype(dtype))
    found = read_nifti(image.to_bytes()).voxels
    np.testing.assert_array_equal(found[0].T, voxels)
    assert found.dtype.isnative


def test_colour_and_complex_volumes_are_refused():
    rgb = np.zeros((3, 3, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for voxels, kind in ((rgb, "colour"), (np.zeros((3, 3, 3), np.complex64), "complex64")):
        with pytest.raises(UnreadableVolume, match=f"holds voxels of type {kind}; only whole and real numbers") as refused:
            read_nifti(nib.Nifti1Image(voxels, np.eye(4)).to_bytes())
        assert refused.value.check == "unsupported"


def scaled(voxels: np.ndarray, slope: float, shift: float) -> bytes:
    data = bytearray(nib.Nifti1Image(voxels, np.diag([-1, -1, 1, 1])).to_bytes())
    data[112:120] = np.array([slope, shift], "<f4").tobytes()  # scl_slope, scl_inter
    return bytes(data)


def test_slope_and_intercept_are_applied_and_a_mere_shift_keeps_whole_numbers():
    voxels = np.random.default_rng(0).integers(0, 2000, (4, 5, 6)).astype(np.int16)
    ct = read_nifti(scaled(voxels, 1, -1024)).voxels
    assert ct.dtype == np.int16
    np.testing.assert_array_equal(ct[0].T, voxels - 1024)
    pet = read_nifti(scaled(voxels, 0.25, 3)).voxels
    assert pet.dtype == np.float32
    np.testing.assert_array_equal(pet[0].T, voxels * 0.25 + 3)
    for unset in (0.0, np.nan):  # the standard's ways to say that there is none
        np.testing.assert_array_equal(read_nifti(scaled(voxels, unset, 7)).voxels[0].T, voxels)
    with pytest.raises(UnreadableVolume, match="its intensity scale is not a number"):
        read_nifti(scaled(voxels, 2, np.inf))


def two_transforms(qform: np.ndarray, q: int, sform: np.ndarray, s: int) -> bytes:
    image = nib.Nifti1Image(volume(0), None)
    image.set_qform(qform, q)
    image.set_sform(sform, s)
    return image.to_bytes()


def test_transforms_that_disagree_are_refused_unless_one_alone_is_the_scanners():
    scanner, atlas = np.diag([2.0, 2, 3, 1]), np.diag([1.0, 1, 1, 1])
    shifted = scanner.copy()
    shifted[:3, 3] = 0.1
    assert read_nifti(two_transforms(scanner, 1, shifted, 1)).spacing == (3, 2, 2)
    assert read_nifti(two_transforms(scanner, 1, atlas, 4)).spacing == (3, 2, 2)
    assert read_nifti(two_transforms(atlas, 2, scanner, 1)).spacing == (3, 2, 2)
    with pytest.raises(UnreadableVolume, match=r"its sform and qform place a corner 8\.0 mm apart") as refused:
        read_nifti(two_transforms(scanner, 1, atlas, 1))
    assert refused.value.check == "geometry"


def test_metres_and_microns_become_millimetres():
    for unit, factor in (("mm", 1), ("meter", 1000), ("micron", 0.001)):
        image = nib.Nifti1Image(volume(0), np.diag([1.0, 2, 3, 1]) / factor)
        image.header.set_xyzt_units(unit)
        assert read_nifti(image.to_bytes()).spacing == pytest.approx((3, 2, 1), rel=1e-5)


def test_a_header_of_a_trillion_voxels_is_refused_before_any_is_read():
    for shape in ((10_000, 10_000, 10_000), (32767,) * 3):
        header = nib.Nifti1Header()
        header.set_data_shape(shape)
        header.set_data_dtype(np.float64)
        header["magic"], header["vox_offset"] = b"n+1", 352
        for data in (header.binaryblock + bytes(1000), gzip.compress(header.binaryblock + bytes(1000))):
            with pytest.raises(UnreadableVolume, match=r"promises \d+ bytes of voxels; 2 GiB are the most") as refused:
                read_nifti(data)
            assert refused.value.check == "unsupported"


def test_gzip_that_unpacks_to_far_more_than_its_header_says_is_refused():
    whole = nib.Nifti1Image(volume(0), np.eye(4)).to_bytes()
    assert read_nifti(gzip.compress(whole[:500]) + gzip.compress(whole[500:])).voxels.shape == (1, 5, 7, 6)  # two members, as pigz writes
    with pytest.raises(UnreadableVolume, match="unpacks to more than its header promises"):
        read_nifti(gzip.compress(whole + bytes(8 << 20)))


def test_header_and_image_pairs_are_one_volume_and_halves_are_told(tmp_path):
    for i in range(3):
        save(tmp_path / f"case{i}_ct.img", volume(i), kind=nib.Nifti1Pair)
        save(tmp_path / f"case{i}_seg.nii", mask(i))
    (tmp_path / "case1_ct.hdr").unlink()
    (tmp_path / "case2_ct.img").unlink()
    samples, findings = read(tmp_path)
    assert [s.files for s in samples] == [("case0_ct.img", "case0_ct.hdr", "case0_seg.nii")]
    np.testing.assert_array_equal(samples[0].image[0], volume(0)[::-1, ::-1].T)
    assert findings == [(name, "quarantined", "unpaired") for name in ("case1_ct.img", "case1_seg.nii", "case2_ct.hdr", "case2_seg.nii")]


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("case{i}_ct.nii.gz", "case{i}_seg.nii.gz"),
        ("volume-{i}.nii", "segmentation-{i}.nii"),
        ("p{i}/ct.nii.gz", "p{i}/seg.nii.gz"),
        ("images/c{i}.nii.gz", "labels/c{i}.nii.gz"),
        ("scans/c{i}.nii.gz", "masks/c{i}_mask.nii.gz"),
        ("site/imagesTr/c{i}_0000.nii.gz", "site/labelsTr/c{i}.nii.gz"),
        ("c{i}.nii", "c{i}_label.nii.gz"),
    ],
)
def test_pairs_are_found_in_the_usual_layouts(tmp_path, image, label):
    for i in (1, 10, 2):
        save(tmp_path / image.format(i=i), volume(i))
        save(tmp_path / label.format(i=i), mask(i))
    samples, findings = read(tmp_path)
    assert findings == []
    assert {s.files for s in samples} == {(image.format(i=i), label.format(i=i)) for i in (1, 10, 2)}
    assert len({s.patient for s in samples}) == 3


def test_a_pattern_finds_masks_of_any_name(tmp_path):
    for i in range(3):
        save(tmp_path / f"a{i}_t1.nii.gz", volume(i))
        save(tmp_path / f"a{i}_lesions-final.nii.gz", mask(i))
    samples, _ = read(tmp_path, mask_pattern=r"^(.*)_lesions-final\.nii")
    assert {s.files for s in samples} == {(f"a{i}_t1.nii.gz", f"a{i}_lesions-final.nii.gz") for i in range(3)}


def test_several_images_of_a_mask_are_its_channels_and_a_case_that_lacks_one_is_quarantined(tmp_path):
    for i in range(4):
        for channel in ("flair", "t1", "t2"):
            if (i, channel) != (3, "t1"):
                save(tmp_path / f"b{i}/b{i}_{channel}.nii.gz", volume(10 * i + len(channel)))
        save(tmp_path / f"b{i}/b{i}_seg.nii.gz", mask(i))
    samples, findings = read(tmp_path)
    assert [s.image.shape for s in samples] == [(3, 5, 7, 6)] * 3
    np.testing.assert_array_equal(samples[0].image[0, :, ::-1, ::-1].T, volume(5))
    assert {(outcome, check) for _, outcome, check in findings} == {("quarantined", "ambiguous")}
    assert len(findings) == 3


def test_volumes_without_masks_take_labels_and_patients_from_a_table(tmp_path):
    rows = ["file,label,patient_id,site,study_date"]
    for i in range(5):
        save(tmp_path / f"v{i}.nii.gz", volume(i))
        rows += [f"v{i}{'.nii.gz' if i % 2 else ''},{'ill' if i else ''},p{i // 2},s{i},2020-01-0{i + 1}"] if i < 4 else []
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    samples, findings = read(tmp_path)
    assert [(s.label, s.patient, s.site, s.date.day, s.mask) for s in samples] == [
        ("ill" if i else "", f"p{i // 2}", f"s{i}", i + 1, None) for i in range(4)
    ]
    assert findings == [("labels.csv", "ingested", ""), ("v4.nii.gz", "quarantined", "unknown-patient")]


def test_masks_of_another_grid_or_place_are_quarantined_with_their_images(tmp_path):
    for i in range(3):
        save(tmp_path / f"c{i}.nii.gz", volume(i))
    save(tmp_path / "c0_seg.nii.gz", mask(0))
    save(tmp_path / "c1_seg.nii.gz", mask(1, (6, 7, 4)))
    moved = np.eye(4)
    moved[0, 3] = 5
    save(tmp_path / "c2_seg.nii.gz", mask(2), moved)
    samples, findings = read(tmp_path)
    assert len(samples) == 1
    assert findings == [
        ("c1.nii.gz", "quarantined", "unpaired"),
        ("c1_seg.nii.gz", "quarantined", "geometry"),
        ("c2.nii.gz", "quarantined", "unpaired"),
        ("c2_seg.nii.gz", "quarantined", "geometry"),
    ]


def test_regions_become_classes_that_do_not_overlap_and_ignored_voxels_are_refused():
    content = {
        "labels": {"background": 0, "tumour": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4},
        "regions_class_order": [1, 2, 3],
        "channel_names": {"0": "T1", "1": "T2"},
    }
    description = parse_description(json.dumps(content).encode())
    assert description.classes == ("background", "tumour", "core", "enhancing")
    assert description.channels == ("T1", "T2")
    voxels = np.array([0, 1, 2, 3], np.int16).reshape(1, 1, 2, 2)
    np.testing.assert_array_equal(class_indices(voxels, description), voxels)
    with pytest.raises(ValueError, match=r"holds the value 4, which dataset\.json says to ignore"):
        class_indices(voxels + 1, description)


def test_both_ways_to_declare_labels_are_read_and_nonsense_is_not():
    msd = parse_description(b'{"labels": {"0": "background", "1": "liver", "7": "cancer"}, "modality": {"0": "CT"}}')
    nnunet = parse_description(b'{"labels": {"background": 0, "cancer": 7, "liver": 1}, "channel_names": {"0": "CT"}}')
    assert msd == nnunet
    assert dict(msd.values) == {0: 0, 1: 1, 7: 2}
    for bad in (b"", b"[]", b'{"labels": 3}', b'{"labels": {"a": "b"}}', b'{"labels": {"a": 999}}', b"[" * 100_000):
        with pytest.raises(ValueError, match="its labels are not"):
            parse_description(bad)
