"""Folders and tars of plain images: masks, label tables, class folders and names as labels; grey, whatever the file's colours are."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import hepdist
from hepdist.errors import IngestError
from hepdist.ingest import ingest
from hepdist.ingest.pictures import UnreadablePicture, class_indices, grey
from hepdist.shards.format import decode
from hepdist.shards.manifest import SPLITS, Manifest

pytestmark = pytest.mark.usefixtures("salt")


def draw(path: Path, seed: int, size: tuple[int, int] = (20, 16), mode: str = "L") -> np.ndarray:
    """A random picture of (height, width) at `path`; returns what was drawn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, *bands), dtype=np.uint8)
    Image.fromarray(pixels, mode).save(path)
    return pixels


def encoded(picture: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


def column(folder: Path, manifest: Manifest, name: str) -> np.ndarray:
    tables = [pq.read_table(folder / shard.path) for shard in manifest.shards]
    if name in manifest.fields:
        return np.concatenate([decode(manifest.fields[name], t[name]) for t in tables])
    return np.concatenate([t[name].to_numpy(zero_copy_only=False) for t in tables])


def test_real_chest_xrays_with_lung_masks_are_163_pairs(shared_data, tmp_path):
    source = shared_data / "cxr_lung_masks/cxr_lung_masks.tar"
    manifest = ingest(str(source), str(tmp_path / "cohort"), [r"label_pattern=_([01])\.png$", "label_names=normal,tb"])
    assert [manifest.rows(split) for split in SPLITS] == [98, 33, 32]
    assert manifest.fields["image"].shape == manifest.fields["mask"].shape == (1, 512, 512)
    with tarfile.open(source) as archive:
        names = [n for n in archive.getnames() if n.startswith("masks/")]
        area = sum(int((np.asarray(Image.open(archive.extractfile(n)).convert("L")) > 127).sum()) for n in names)
        tuberculous = sum(n.endswith("_1.png") for n in names)
    mask = column(tmp_path / "cohort", manifest, "mask")
    assert set(np.unique(mask)) == {0, 1}
    assert int(mask.sum(dtype=np.int64)) == area
    assert sum(manifest.counts[split]["classes"]["tb"] for split in SPLITS) == tuberculous


def test_real_covid_table_joins_its_images_and_leaves_todo_rows_unlabelled(shared_data, tmp_path):
    options = [f"labels_table={shared_data / 'covid_cxr/metadata.csv'}", "label=finding", "size=128,128"]
    manifest = ingest(str(shared_data / "covid_cxr/covid_cxr.tar"), str(tmp_path / "cohort"), options)
    assert sum(manifest.rows(split) for split in SPLITS) == 116
    assert manifest.fields["image"].shape == (1, 128, 128)
    labels = column(tmp_path / "cohort", manifest, "label")
    assert int(np.isnan(labels).sum()) == 24
    assert sum(manifest.counts[split]["classes"]["COVID-19"] for split in SPLITS) == 46
    # 66 patient ids: 285 and 339 share three files, 97 and 178 four pictures that were encoded anew
    assert sum(manifest.counts[split]["patients"] for split in SPLITS) == 64
    assert manifest.counts["audit"] == {"ignored": 49, "ingested": 113, "mask-unused": 49, "quarantined": 0}


@pytest.mark.parametrize("as_labels", [False, True], ids=["emr", "emr-and-labels"])
def test_an_emr_table_of_images_says_whose_they_are(tmp_path, as_labels):
    """Two images a patient; one that two patients share; one that no row is of. Without the column each image would be a patient."""
    rows, source = [], tmp_path / "source"
    for i in range(20):
        draw(source / f"{i}.png", i)
        rows.append((f"{i}.png", f"p{i // 2}", "ill" if i % 4 < 2 else "well", 10 + i))
    draw(source / "stray.png", 99)
    rows.append(("3.png", "p9", "ill", 13))
    table = tmp_path / "t.csv"
    table.write_text("filename,patientid,class,alt\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))
    options = [f"emr={table}", "emr_key=image", "label=class", *([f"labels_table={table}"] if as_labels else [])]
    manifest = ingest(str(source), str(tmp_path / "cohort"), options)
    assert sum(manifest.counts[split]["patients"] for split in SPLITS) == 9  # p1 and p9 share an image
    assert sum(manifest.rows(split) for split in SPLITS) == 21
    patients = {split: set() for split in SPLITS}
    for shard in manifest.shards:
        patients[shard.split] |= set(pq.read_table(tmp_path / "cohort" / shard.path)["patient"].to_pylist())
    assert not patients["train"] & (patients["val"] | patients["test"]) and not patients["val"] & patients["test"]
    assert sorted(column(tmp_path / "cohort", manifest, "emr")[:, 0].tolist()) == sorted(float(row[3]) for row in rows)
    assert not column(tmp_path / "cohort", manifest, "emr_missing").any()
    audit = pq.read_table(tmp_path / "cohort/audit.parquet").to_pylist()
    assert sum(row["check"] == "unknown-patient" for row in audit) == 1
    if not as_labels:  # only to be predicted, the image that no row is of counts, too
        alone = ingest(str(source), str(tmp_path / "predicted"), [*options, "allow_unlabelled=true"])
        assert sum(alone.rows(split) for split in SPLITS) == 22


def test_class_folders_label_images_whose_patients_an_emr_table_names(tmp_path):
    for i in range(20):
        draw(tmp_path / f"source/{'ill' if i % 4 < 2 else 'well'}/{i}.png", i)
    table = tmp_path / "t.csv"
    table.write_text("filename,patient_id,age,telephone\n" + "".join(f"{i}.png,p{i // 2},{i},555{i:04d}\n" for i in range(20)))
    manifest = ingest(str(tmp_path / "source"), str(tmp_path / "cohort"), [f"emr={table}", "emr_key=image"])
    assert sum(manifest.counts[split]["patients"] for split in SPLITS) == 10
    assert {name: sum(manifest.counts[split]["classes"][name] for split in SPLITS) for name in manifest.label_names} == {
        "ill": 10,
        "well": 10,
    }
    assert [c.name for c in manifest.emr] == ["age"]


def test_chinese_headers_of_a_label_table_are_known(tmp_path):
    for i in range(12):
        draw(tmp_path / f"source/{i}.png", i)
    rows = "".join(f"{i}.png,P{i // 2},{'肝炎' if i % 4 < 2 else '正常'}\n" for i in range(12))
    (tmp_path / "source/表.csv").write_bytes(f"文件名,患者ID,诊断\n{rows}".encode("gb18030"))
    manifest = ingest(str(tmp_path / "source"), str(tmp_path / "cohort"), [])
    assert sum(manifest.counts[split]["patients"] for split in SPLITS) == 6
    assert {name: sum(manifest.counts[split]["classes"][name] for split in SPLITS) for name in manifest.label_names} == {
        "正常": 6,
        "肝炎": 6,
    }


def test_real_covid_images_take_patients_and_labels_from_their_emr_table(shared_data, tmp_path):
    rules = Path(hepdist.__file__).parent / "recipes/labels/covid.yaml"
    options = [
        f"emr={shared_data / 'covid_cxr/metadata.csv'}",
        "emr_key=image",
        "emr_columns=age,sex",
        f"label_rules={rules}",
        "size=64,64",
    ]
    manifest = ingest(str(shared_data / "covid_cxr/covid_cxr.tar"), str(tmp_path / "cohort"), options)
    assert sum(manifest.counts[split]["patients"] for split in SPLITS) == 64
    assert [sum(manifest.counts[split]["classes"][name] for split in SPLITS) for name in ("other", "COVID-19")] == [40, 52]
    assert int(np.isnan(column(tmp_path / "cohort", manifest, "label")).sum()) == 24
    missing = column(tmp_path / "cohort", manifest, "emr_missing")
    assert {c.name: int(missing[:, i].sum()) for i, c in enumerate(manifest.emr)} == {"age": 4, "sex": 7}


def test_colour_palette_deep_and_transparent_files_become_grey():
    rgb = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    luma = np.asarray(Image.fromarray(rgb).convert("L"))
    np.testing.assert_array_equal(grey(encoded(Image.fromarray(rgb)))[0], luma)
    rgba = np.dstack([rgb, np.full((7, 9), 3, np.uint8)])
    np.testing.assert_array_equal(grey(encoded(Image.fromarray(rgba)))[0], luma)
    deep = np.random.default_rng(1).integers(0, 65536, (7, 9)).astype(np.uint16)
    read = grey(encoded(Image.fromarray(deep)))
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read[0], deep)
    assert np.abs(grey(encoded(Image.fromarray(np.full((16, 16), 90, np.uint8)), "JPEG"))[0].astype(int) - 90).max() <= 1


def test_smoothed_masks_are_cut_half_way_and_small_values_stay_classes():
    smoothed = np.array([[0, 100, 127, 128, 255]], np.uint8)
    assert class_indices(encoded(Image.fromarray(smoothed)))[0].tolist() == [[0, 0, 0, 1, 1]]
    indices = np.array([[0, 1, 2, 3, 9]], np.uint8)
    assert class_indices(encoded(Image.fromarray(indices)))[0].tolist() == [[0, 1, 2, 3, 9]]


def test_a_picture_that_ends_early_and_one_that_is_none_are_told_apart():
    whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)))
    with pytest.raises(UnreadablePicture) as truncated:
        grey(whole[: len(whole) // 2])
    assert truncated.value.check == "truncated"
    with pytest.raises(UnreadablePicture) as text:
        grey(b"hello, I am a text file")
    assert text.value.check == "not-an-image"


def test_masks_are_found_by_folder_and_by_suffix_and_the_rest_is_in_the_audit(tmp_path):
    source = tmp_path / "source"
    for i in range(6):
        draw(source / f"cxr/img{i}.png", i)
        target = source / (f"masks/img{i}.png" if i % 2 else f"masks/img{i}_mask.png")
        target.parent.mkdir(exist_ok=True)
        Image.fromarray(np.where(np.arange(320).reshape(20, 16) > 50 * i, 255, 0).astype(np.uint8)).save(target)
    draw(source / "cxr/alone.png", 50)
    Image.fromarray(np.zeros((20, 16), np.uint8)).save(source / "masks/nobody.png")
    (source / "cxr/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    Image.fromarray(np.zeros((20, 16), np.uint8)).save(source / "masks/broken.png")
    (source / "readme.txt").write_text("x")
    manifest = ingest(str(source), str(tmp_path / "cohort"))
    assert sum(manifest.rows(split) for split in SPLITS) == 6
    assert manifest.fields["mask"].classes == ("background", "foreground")
    areas = sorted(column(tmp_path / "cohort", manifest, "mask").sum(axis=(1, 2, 3)).tolist())
    assert areas == sorted(319 - 50 * i for i in range(6))
    audit = pq.read_table(tmp_path / "cohort/audit.parquet").to_pylist()
    assert sorted((r["outcome"], r["check"]) for r in audit if r["outcome"] != "ingested") == [
        ("ignored", "not-an-image"),
        ("quarantined", "not-an-image"),
        ("quarantined", "unpaired"),
        ("quarantined", "unpaired"),
        ("quarantined", "unpaired"),
    ]
    assert len(audit) == 12 + 5


def test_class_folders_within_split_folders_are_labels_and_official_splits(tmp_path):
    for split, count in (("train", 4), ("val", 2), ("test", 3)):
        for label in ("NORMAL", "PNEUMONIA"):
            for i in range(count):
                draw(tmp_path / f"source/{split}/{label}/{i}.jpeg", 100 * count + 10 * len(label) + i)
    manifest = ingest(str(tmp_path / "source"), str(tmp_path / "cohort"))
    assert manifest.label_names == ("NORMAL", "PNEUMONIA")
    assert [manifest.rows(split) for split in SPLITS] == [8, 4, 6]
    assert manifest.split_rule["kind"] == "official"
    assert manifest.counts["test"]["classes"] == {"NORMAL": 3, "PNEUMONIA": 3}


def test_an_official_split_without_validation_takes_it_from_training_by_patient(tmp_path):
    for split, count in (("train", 16), ("test", 4)):
        for label in ("a", "b"):
            for i in range(count):
                draw(tmp_path / f"source/{split}/{label}/p{i // 2}_{label}_{i}.png", 1000 * (split == "test") + 100 * (label == "a") + i)
    manifest = ingest(str(tmp_path / "source"), str(tmp_path / "cohort"), ["patient_pattern=^(.*/p[0-9]+_[ab])_"])
    assert [manifest.rows(split) for split in SPLITS] == [24, 8, 8]
    assert [manifest.counts[split]["patients"] for split in SPLITS] == [12, 4, 4]


def test_a_table_inside_the_source_labels_images_and_accounts_for_each_of_its_rows(tmp_path):
    lines = ["Filename,Patient_ID,Finding"]
    for i in range(10):
        draw(tmp_path / f"source/images/x{i}.png", i)
        lines.append(f"x{i}.png,p{i // 2},{'todo' if i == 9 else 'ill' if i % 4 > 1 else 'well'}")
    lines += ["ghost.png,p77,ill", "x1.png,p0,well"]
    (tmp_path / "source/labels.csv").write_text("\n".join(lines))
    manifest = ingest(str(tmp_path / "source"), str(tmp_path / "cohort"))
    assert manifest.label_names == ("ill", "well")
    assert [manifest.counts[split]["patients"] for split in SPLITS] == [3, 1, 1]
    assert int(np.isnan(column(tmp_path / "cohort", manifest, "label")).sum()) == 1
    assert manifest.counts["audit"] == {"duplicate-row": 1, "ignored": 0, "ingested": 11, "quarantined": 2, "unknown-image": 1}


def test_images_of_different_sizes_keep_their_aspect_and_say_how_they_were_padded(tmp_path):
    for i, size in enumerate([(60, 30), (30, 60), (40, 40), (10, 20)]):
        path = tmp_path / f"source/{'ab'[i % 2]}/{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full(size, 40 + 10 * i, np.uint8)).save(path)
    manifest = ingest(str(tmp_path / "source"), str(tmp_path / "cohort"), ["size=32,32"])
    folder = tmp_path / "cohort"
    found = {
        tuple(source.tolist()): (shape.tolist(), offset.tolist(), np.round(spacing, 3).tolist())
        for source, shape, offset, spacing in zip(
            *(column(folder, manifest, n) for n in ("source_shape", "original_shape", "offset", "spacing")), strict=True
        )
    }
    assert found == {
        (60, 30): ([32, 16], [0, -8], [1.875, 1.875]),
        (30, 60): ([16, 32], [-8, 0], [1.875, 1.875]),
        (40, 40): ([32, 32], [0, 0], [1.25, 1.25]),
        (10, 20): ([16, 32], [-8, 0], [0.625, 0.625]),
    }


def test_images_that_nothing_labels_are_refused_with_the_ways_out(tmp_path):
    draw(tmp_path / "source/a.png", 0)
    with pytest.raises(IngestError, match=r"^nothing labels the images of the source; give masks"):
        ingest(str(tmp_path / "source"), str(tmp_path / "cohort"))
