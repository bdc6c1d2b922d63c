"""MedMNIST .npz files become cohorts with their official splits, streamed row by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from hepdist.errors import IngestError
from hepdist.ingest import ingest
from hepdist.ingest.check import check_cohort
from hepdist.shards.format import decode
from hepdist.shards.manifest import SPLITS, Manifest, damaged_shards

pytestmark = pytest.mark.usefixtures("salt")


def read(folder: Path, manifest: Manifest, split: str) -> dict[str, np.ndarray]:
    """All rows of a split: tensors and plain columns, by name."""
    tables = [pq.read_table(folder / shard.path) for shard in manifest.of(split)]
    columns = {}
    for name in tables[0].column_names:
        parts = [decode(manifest.fields[name], t[name]) if name in manifest.fields else t[name].to_numpy() for t in tables]
        columns[name] = np.concatenate(parts)
    return columns


def write_npz(path: Path, shape: tuple[int, ...], rows=(12, 4, 4), labels=None, dtype=np.uint8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    arrays = {}
    for split, count in zip(SPLITS, rows, strict=True):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, *shape)).astype(dtype)
        arrays[f"{split}_labels"] = (np.arange(count) % 2).astype(np.uint8)[:, None] if labels is None else labels(count)
    np.savez_compressed(path, **arrays)
    return arrays


@pytest.mark.parametrize(
    ("name", "rows", "classes"),
    [
        # 10 training images of PneumoniaMNIST and 1 of BreastMNIST are identical to a validation or test image (docs/format.md)
        ("pneumoniamnist", (4708 - 10, 524, 624), {"normal": 234, "pneumonia": 390}),
        ("breastmnist", (546 - 1, 78, 156), {"malignant": 42, "normal, benign": 114}),
    ],
)
def test_real_sets_keep_their_official_splits_but_for_training_images_that_are_scored(shared_data, tmp_path, name, rows, classes):
    source = shared_data / "medmnist" / f"{name}.npz"
    manifest = ingest(str(source), str(tmp_path / "cohort"), ["near_identical=false"])
    assert tuple(manifest.rows(split) for split in SPLITS) == rows
    assert manifest.counts["test"]["classes"] == classes
    assert manifest.split_rule["kind"] == "official"
    check_cohort(tmp_path / "cohort", manifest)
    assert list(damaged_shards(tmp_path / "cohort", manifest)) == []
    with np.load(source) as arrays:
        images = {split: {image.tobytes() for image in arrays[f"{split}_images"]} for split in SPLITS}
        total = sum(len(arrays[f"{split}_images"]) for split in SPLITS)
    stored = {split: {image.tobytes() for image in read(tmp_path / "cohort", manifest, split)["image"]} for split in SPLITS}
    assert stored["test"] == images["test"]
    assert stored["val"] == images["val"] - images["test"]
    assert stored["train"] == images["train"] - images["val"] - images["test"]
    audit = pq.read_table(tmp_path / "cohort/audit.parquet")
    quarantined = audit["check"].to_pylist().count("duplicate-across-splits")
    assert quarantined + sum(rows) == total


def test_ultrasounds_that_differ_in_a_grey_value_or_two_are_never_trained_on_and_scored(shared_data, tmp_path):
    manifest = ingest(str(shared_data / "medmnist/breastmnist.npz"), str(tmp_path / "cohort"))
    # 80 training images of BreastMNIST show the same frame as a validation or test image, 5 validation images that of a test image
    assert tuple(manifest.rows(split) for split in SPLITS) == (546 - 82, 78 - 5, 156)
    assert manifest.counts["audit"]["duplicate-across-splits"] == 87


@pytest.mark.slow
def test_real_volumes_are_streamed_with_their_official_splits(shared_data, tmp_path):
    manifest = ingest(str(shared_data / "medmnist/adrenalmnist3d_64.npz"), str(tmp_path / "cohort"))
    assert tuple(manifest.rows(split) for split in SPLITS) == (1188, 98, 298)
    assert manifest.fields["image"].shape == (1, 64, 64, 64)
    assert manifest.counts["train"]["classes"] == {"normal": 929, "hyperplasia": 259}


def test_statistics_of_the_train_rows_equal_numpys(tmp_path):
    arrays = write_npz(tmp_path / "tiny.npz", (9, 7, 3), dtype=np.uint8)
    manifest = ingest(str(tmp_path / "tiny.npz"), str(tmp_path / "cohort"))
    train = arrays["train_images"].astype(np.float64).reshape(-1, 3)
    np.testing.assert_allclose(manifest.normalisation["image"]["mean"], train.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(manifest.normalisation["image"]["std"], train.std(axis=0), rtol=1e-12)
    percentiles = manifest.fingerprint["train_intensity_percentiles"]
    np.testing.assert_allclose([percentiles["0.5"], percentiles["50"], percentiles["99.5"]], np.percentile(train, (0.5, 50, 99.5)))


def test_rows_are_ordered_by_sample_id_and_hold_their_own_label(tmp_path):
    arrays = write_npz(tmp_path / "tiny.npz", (8, 8), rows=(40, 4, 4))
    manifest = ingest(str(tmp_path / "tiny.npz"), str(tmp_path / "cohort"))
    rows = read(tmp_path / "cohort", manifest, "train")
    assert list(rows["sample_id"]) == sorted(rows["sample_id"])
    truth = {image.tobytes(): label for image, label in zip(arrays["train_images"], arrays["train_labels"][:, 0], strict=True)}
    assert [truth[image.tobytes()] for image in rows["image"]] == rows["label"].tolist()


def test_colour_channels_come_first_and_volumes_get_one(tmp_path):
    colour = write_npz(tmp_path / "colour.npz", (6, 5, 3))
    manifest = ingest(str(tmp_path / "colour.npz"), str(tmp_path / "a"))
    assert manifest.fields["image"].shape == (3, 6, 5)
    expected = {np.moveaxis(image, -1, 0).tobytes() for image in colour["val_images"]}
    assert {image.tobytes() for image in read(tmp_path / "a", manifest, "val")["image"]} == expected
    write_npz(tmp_path / "volumes.npz", (6, 5, 4))
    assert ingest(str(tmp_path / "volumes.npz"), str(tmp_path / "b")).fields["image"].shape == (1, 6, 5, 4)


def test_flat_labels_read_as_columns_do(tmp_path):
    write_npz(tmp_path / "column.npz", (4, 4))
    write_npz(tmp_path / "flat.npz", (4, 4), labels=lambda n: (np.arange(n) % 2).astype(np.uint8))
    one = ingest(str(tmp_path / "column.npz"), str(tmp_path / "1/cohort"))
    other = ingest(str(tmp_path / "flat.npz"), str(tmp_path / "2/cohort"))
    assert [s.sha256 for s in one.shards] == [s.sha256 for s in other.shards]


def test_several_labels_an_image_become_a_tensor(tmp_path):
    arrays = write_npz(tmp_path / "multi.npz", (4, 4), labels=lambda n: np.random.default_rng(n).integers(0, 2, (n, 5)).astype(np.uint8))
    manifest = ingest(str(tmp_path / "multi.npz"), str(tmp_path / "cohort"), ["label_names=a,b,c,d,e"])
    assert manifest.multilabel
    assert manifest.fields["label"].shape == (5,)
    rows = read(tmp_path / "cohort", manifest, "train")
    truth = {image.tobytes(): labels.tolist() for image, labels in zip(arrays["train_images"], arrays["train_labels"], strict=True)}
    assert [truth[image.tobytes()] for image in rows["image"]] == rows["label"].tolist()
    assert manifest.counts["train"]["classes"] == dict(zip("abcde", arrays["train_labels"].sum(axis=0).tolist(), strict=True))


def test_a_label_outside_the_declared_classes_is_quarantined(tmp_path):
    write_npz(tmp_path / "bad.npz", (4, 4), labels=lambda n: np.array([7] + [i % 2 for i in range(1, n)]))
    manifest = ingest(str(tmp_path / "bad.npz"), str(tmp_path / "cohort"), ["label_names=no,yes"])
    assert [manifest.rows(split) for split in SPLITS] == [11, 3, 3]
    assert manifest.counts["audit"]["label-unknown"] == 3


def test_an_image_with_nan_is_quarantined_and_the_others_are_kept(tmp_path):
    arrays = write_npz(tmp_path / "nan.npz", (4, 4), dtype=np.float32)
    arrays["train_images"][3, 1, 1] = np.nan
    arrays["test_images"][0, 0, 0] = np.inf
    np.savez_compressed(tmp_path / "nan.npz", **arrays)
    manifest = ingest(str(tmp_path / "nan.npz"), str(tmp_path / "cohort"))
    assert [manifest.rows(split) for split in SPLITS] == [11, 4, 3]
    audit = pq.read_table(tmp_path / "cohort/audit.parquet").to_pylist()
    assert sorted((r["outcome"], r["check"], r["reason"]) for r in audit if r["check"]) == [
        ("quarantined", "nan", "the image holds NaN"),
        ("quarantined", "nan", "the image holds infinite values"),
    ]


def test_the_copy_of_a_test_image_leaves_training_and_the_copies_within_training_stay_as_one_patient(tmp_path):
    arrays = write_npz(tmp_path / "twice.npz", (4, 4))
    arrays["train_images"][0] = arrays["test_images"][1]
    arrays["train_images"][5] = arrays["train_images"][6]
    np.savez_compressed(tmp_path / "twice.npz", **arrays)
    manifest = ingest(str(tmp_path / "twice.npz"), str(tmp_path / "cohort"))
    assert [manifest.rows(split) for split in SPLITS] == [11, 4, 4]
    assert manifest.counts["train"]["patients"] == 10
    audit = pq.read_table(tmp_path / "cohort/audit.parquet").to_pylist()
    assert [(r["check"], r["reason"]) for r in audit if r["outcome"] == "quarantined"] == [
        ("duplicate-across-splits", "the same patient or an identical image is in the official test split")
    ]


def test_a_file_without_the_arrays_is_refused_in_one_sentence(tmp_path):
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(IngestError, match=r"^source has no readable array 'train_labels', which a MedMNIST .npz holds; download it again$"):
        ingest(str(tmp_path / "other.npz"), str(tmp_path / "cohort"))
    assert not (tmp_path / "cohort").exists()
    assert not (tmp_path / "cohort.part").exists()
