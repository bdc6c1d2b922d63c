"""NIfTI pairs become cohorts: oriented, padded, checked; whatever has no partner or can't be believed ends in the audit."""

from __future__ import annotations

import gzip
import json
import shutil
import tarfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest

from hepdist.errors import IngestError
from hepdist.ingest import ingest
from hepdist.ingest.nifti import UnreadableVolume, read_nifti
from hepdist.shards.format import decode
from hepdist.shards.manifest import SPLITS, Manifest

pytestmark = pytest.mark.usefixtures("salt")


def save(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)


def write_cases(folder: Path, count: int = 8, seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pairs of slightly different shapes, float32 images and masks of 0, 1, 2, in (x, y, z)."""
    rng = np.random.default_rng(seed)
    cases = {}
    for i in range(count):
        shape = (9 + i % 3, 13, 7 + i % 2)
        image, mask = rng.normal(100, 20, shape).astype(np.float32), rng.integers(0, 3, shape).astype(np.uint8)
        save(folder / f"imagesTr/case_{i:03d}.nii.gz", image)
        save(folder / f"labelsTr/case_{i:03d}.nii.gz", mask)
        cases[f"case_{i:03d}"] = (image, mask)
    return cases


def rows_of(folder: Path, manifest: Manifest) -> list[dict[str, np.ndarray]]:
    rows = []
    for shard in manifest.shards:
        table = pq.read_table(folder / shard.path)
        tensors = {name: decode(field, table[name]) for name, field in manifest.fields.items()}
        rows += [{name: values[i] for name, values in tensors.items()} for i in range(len(table))]
    return rows


def restored(row: dict[str, np.ndarray], column: str) -> np.ndarray:
    """The tensor's voxels at their place in the original grid: voxel o of the grid is voxel o - offset of the tensor."""
    where = tuple(slice(-o, n - o) for o, n in zip(row["offset"], row["original_shape"], strict=True))
    return row[column][(slice(None), *where)][0]


def audit_of(folder: Path) -> list[tuple[str, str]]:
    return sorted((r["outcome"], r["check"]) for r in pq.read_table(folder / "audit.parquet").to_pylist())


def test_hippocampus_with_its_odd_files_is_220_cases_and_four_audit_rows(shared_data, tmp_path):
    source, data = tmp_path / "source", shared_data / "msd_hippocampus"
    with tarfile.open(data / "hippocampus_train.tar") as archive:
        archive.extractall(source, filter="data")
    for name, folder in (
        ("images/hippocampus_118", "imagesTr"),
        ("labels/hippocampus_010", "labelsTr"),
        ("labels/hippocampus_281", "labelsTr"),
    ):
        shutil.copy(data / f"odd/{name}.nii.gz", source / folder)
    (source / "imagesTr/.DS_Store").write_bytes(b"\0\0\0\1Bud1")
    manifest = ingest(str(source), str(tmp_path / "cohort"), ["classes=background,anterior,posterior"])
    assert [manifest.rows(split) for split in SPLITS] == [132, 44, 44]
    assert manifest.fields["image"].shape == (1, 48, 64, 48)
    assert manifest.fields["image"].dtype == "float32"
    assert manifest.counts["test"]["classes"] == {"background": 44, "anterior": 44, "posterior": 44}
    audit = audit_of(tmp_path / "cohort")
    assert audit == [("ignored", "hidden-file")] + [("ingested", "")] * 440 + [("quarantined", "unpaired")] * 3
    with_tar = ingest(str(data / "hippocampus_train.tar"), str(tmp_path / "again/cohort"), ["classes=background,anterior,posterior"])
    assert [s.sha256 for s in with_tar.shards] == [s.sha256 for s in manifest.shards]


def test_masks_and_images_are_voxel_exact_through_padding(tmp_path):
    cases = write_cases(tmp_path / "source")
    manifest = ingest(str(tmp_path / "source"), str(tmp_path / "cohort"))
    assert manifest.fields["image"].shape == (1, 8, 16, 16)
    rows = rows_of(tmp_path / "cohort", manifest)
    # the identity affine means RAS: L, P, S is x and y mirrored, axes reversed
    expected = {np.ascontiguousarray(image[::-1, ::-1].T).tobytes(): mask[::-1, ::-1].T for image, mask in cases.values()}
    assert len(rows) == len(expected)
    for row in rows:
        np.testing.assert_array_equal(restored(row, "mask"), expected[np.ascontiguousarray(restored(row, "image")).tobytes()])
        assert row["image"].min() == restored(row, "image").min()
        assert (row["mask"] > 0).sum() == (restored(row, "mask") > 0).sum()


def test_the_affine_puts_every_voxel_where_nibabel_does(tmp_path):
    affine = np.array([[0, 0, 2.5, -30], [-0.8, 0.05, 0, 40], [0, 1.2, 0, -7], [0, 0, 0, 1.0]])  # permuted, mirrored and oblique
    voxels = np.random.default_rng(1).normal(size=(5, 6, 7)).astype(np.float32)
    volume = read_nifti(nib.Nifti1Image(voxels, affine).to_bytes())
    stored = nib.Nifti1Image(voxels, affine).affine
    for index in np.ndindex(volume.voxels.shape[1:]):
        lps = volume.affine @ (*index, 1)
        i, j, k = np.rint(np.linalg.inv(stored) @ (lps * (-1, -1, 1, 1)))[:3].astype(int)
        assert volume.voxels[(0, *index)] == voxels[i, j, k]
    d, h, w = volume.affine[:3, :3].T
    assert np.argmax(np.abs(w)) == 0
    assert w[0] > 0
    assert np.argmax(np.abs(h)) == 1
    assert h[1] > 0
    assert np.argmax(np.abs(d)) == 2
    assert d[2] > 0
    np.testing.assert_allclose(volume.spacing, [np.linalg.norm(d), np.linalg.norm(h), np.linalg.norm(w)])


def test_the_tensors_affine_allows_for_padding(tmp_path):
    for i in range(3):
        voxels = np.random.default_rng(i).normal(size=(6 + i, 8, 8)).astype(np.float32)
        save(tmp_path / f"source/imagesTr/c{i}.nii", voxels, np.diag([-2.0, -2.0, 3.0, 1.0]))
        save(tmp_path / f"source/labelsTr/c{i}.nii", (voxels > 0).astype(np.uint8), np.diag([-2.0, -2.0, 3.0, 1.0]))
    manifest = ingest(str(tmp_path / "source"), str(tmp_path / "cohort"))
    for row in rows_of(tmp_path / "cohort", manifest):
        d, h, w = -row["offset"]  # the tensor's index of the source's first voxel, which lies at the origin
        np.testing.assert_allclose(row["affine"] @ (d, h, w, 1), (0, 0, 0, 1), atol=1e-9)
        assert row["spacing"].tolist() == [3, 2, 2]


def test_a_folder_and_its_tar_give_the_same_shards_twice(tmp_path):
    write_cases(tmp_path / "source/Task04")
    for name, mode in (("plain.tar", "w"), ("packed.tar.xz", "w:xz"), ("packed.tar.gz", "w:gz")):
        with tarfile.open(tmp_path / name, mode) as archive:
            archive.add(tmp_path / "source/Task04", "Task04")
    made = [
        ingest(str(tmp_path / s), str(tmp_path / s.replace(".", "-") / "cohort")) for s in ("plain.tar", "packed.tar.xz", "packed.tar.gz")
    ]
    made += [ingest(str(tmp_path / "source"), str(tmp_path / f"{n}/cohort")) for n in (1, 2)]
    assert len({manifest.sha256() for manifest in made}) == 1


def test_each_kind_of_bad_file_has_its_own_audit_row_and_spoils_nothing_else(tmp_path):
    source = tmp_path / "source"
    write_cases(source)
    whole = (source / "imagesTr/case_000.nii.gz").read_bytes()
    (source / "imagesTr/case_000.nii.gz").write_bytes(whole[: len(whole) // 2])
    (source / "imagesTr/case_001.nii.gz").write_bytes(gzip.compress(b"not a volume at all" * 40))
    spoilt = np.full((10, 13, 8), 5, np.float32)
    spoilt[2, 2, 2] = np.nan
    save(source / "imagesTr/case_002.nii.gz", spoilt)
    save(source / "labelsTr/case_002.nii.gz", np.ones(spoilt.shape, np.uint8))
    save(source / "labelsTr/case_003.nii.gz", np.ones((3, 3, 3), np.uint8))
    save(source / "imagesTr/no_label.nii.gz", spoilt)
    save(source / "labelsTr/no_image.nii.gz", np.ones((4, 4, 4), np.uint8))
    for hidden in (".DS_Store", "imagesTr/._case_004.nii.gz"):
        (source / hidden).write_bytes(b"x")
    (source / "notes.txt").write_text("hello")
    manifest = ingest(str(source), str(tmp_path / "cohort"))
    assert sum(manifest.rows(split) for split in SPLITS) == 4
    assert audit_of(tmp_path / "cohort") == sorted(
        [("ingested", "")] * 8
        + [("ignored", "hidden-file")] * 2
        + [("ignored", "not-an-image")]
        + [("quarantined", "truncated"), ("quarantined", "unpaired")]  # case 0 and its label
        + [("quarantined", "not-an-image"), ("quarantined", "unpaired")]  # case 1
        + [("quarantined", "nan")] * 2  # case 2
        + [("quarantined", "geometry"), ("quarantined", "unpaired")]  # case 3
        + [("quarantined", "unpaired")] * 2  # no_label, no_image
    )


@pytest.mark.parametrize("declared", [True, False])
def test_a_label_outside_the_classes_is_quarantined(tmp_path, declared):
    write_cases(tmp_path / "source")
    mask = np.ones((9, 13, 7), np.uint8)
    mask[4, 4, 4] = 7
    save(tmp_path / "source/labelsTr/case_000.nii.gz", mask)
    if declared:
        (tmp_path / "source/dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "head", "2": "tail"}}))
    manifest = ingest(str(tmp_path / "source"), str(tmp_path / "cohort"))
    assert sum(manifest.rows(split) for split in SPLITS) == 7
    assert manifest.fields["mask"].classes == (("background", "head", "tail") if declared else ("background", "label_1", "label_2"))
    reasons = {r["reason"] for r in pq.read_table(tmp_path / "cohort/audit.parquet").to_pylist() if r["check"] == "label-unknown"}
    assert len(reasons) == 1
    assert "holds the value 7" in reasons.pop()


def test_nnunets_names_and_gaps_between_labels_become_class_indices(tmp_path):
    for i in range(4):
        voxels = np.random.default_rng(i).normal(size=(8, 8, 8)).astype(np.float32)
        for channel in range(2):
            save(tmp_path / f"source/imagesTr/c{i}_{channel:04d}.nii.gz", voxels + 10 * channel)
        save(tmp_path / f"source/labelsTr/c{i}.nii.gz", np.where(voxels > 0, 6, 0).astype(np.int16))
    (tmp_path / "source/dataset.json").write_text(json.dumps({"labels": {"background": 0, "liver": 6}, "channel_names": {"0": "CT"}}))
    manifest = ingest(str(tmp_path / "source"), str(tmp_path / "cohort"))
    assert manifest.fields["image"].shape == (2, 8, 8, 8)
    assert manifest.fields["image"].unit == "HU"
    assert manifest.fields["mask"].classes == ("background", "liver")
    for row in rows_of(tmp_path / "cohort", manifest):
        np.testing.assert_allclose(row["image"][1], row["image"][0] + 10, rtol=1e-6)
        np.testing.assert_array_equal(row["mask"][0], row["image"][0] > 0)


def test_a_source_of_nothing_but_bad_files_is_refused_with_the_commonest_reason(tmp_path):
    save(tmp_path / "source/imagesTr/a.nii.gz", np.ones((4, 4, 4), np.uint8))
    save(tmp_path / "source/labelsTr/b.nii.gz", np.ones((4, 4, 4), np.uint8))
    save(tmp_path / "source/labelsTr/c.nii.gz", np.ones((4, 4, 4), np.uint8))
    with pytest.raises(
        IngestError, match="no image of the source could be ingested; the commonest reason is unpaired: label without an image"
    ):
        ingest(str(tmp_path / "source"), str(tmp_path / "cohort"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]


def test_a_header_that_promises_more_than_the_file_holds_is_truncated_not_read():
    data = nib.Nifti1Image(np.zeros((8, 8, 8), np.float32), np.eye(4)).to_bytes()
    with pytest.raises(UnreadableVolume, match="its header promises 2400 bytes, it holds 1400"):
        read_nifti(data[:1400])


def test_no_damage_to_a_volume_is_more_than_an_audit_row(caplog):
    rng = np.random.default_rng(0)
    voxels = rng.integers(0, 255, (9, 8, 7)).astype(np.int16)
    whole = nib.Nifti1Image(voxels, np.diag([1, 2, 3, 1])).to_bytes()
    outcomes = set()
    for i in range(400):
        damaged = bytearray(whole[: rng.integers(0, len(whole))] if i % 4 == 0 else whole)
        for _ in range(rng.integers(0, 8)):
            damaged[rng.integers(0, min(len(damaged), 352))] = rng.integers(0, 256)
        try:
            outcomes.add(read_nifti(bytes(damaged)).voxels.ndim)
        except UnreadableVolume as error:
            outcomes.add(error.check)
    assert outcomes == {4, "truncated", "not-an-image", "unsupported", "geometry"}
    assert caplog.text == ""
