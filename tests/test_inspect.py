"""The promises of `hepdist inspect`: exact counts from the files themselves, damage found, a page that needs nothing else."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cohorts import tiny_classification_cohort, tiny_segmentation_cohort
from hepdist.cli import main
from hepdist.inspect import gather, sections, write_page
from hepdist.inspect.picture import COLOURS, draw
from hepdist.shards.format import decode
from hepdist.shards.manifest import Manifest, Shard
from hepdist.shards.read import SplitReader


def inspect(*arguments: str) -> int:
    return main(["inspect", *arguments])


def test_counts_come_from_the_shards_and_add_up(tmp_path: Path) -> None:
    manifest = tiny_classification_cohort(tmp_path / "c", {"train": 21, "val": 7, "test": 8}, emr=True, classes=3, unlabelled=2)
    facts = gather(tmp_path / "c")
    for split, found in facts.splits.items():
        claimed = manifest.counts[split]
        assert (found.rows, len(found.patients), found.classes) == (claimed["rows"], claimed["patients"], claimed["classes"])
        assert found.unlabelled == 2
        assert sum(found.classes.values()) + found.unlabelled == found.rows == found.studies
    assert facts.sound


def test_reasons_that_differ_in_numbers_alone_are_one_line_where_they_are_many(tmp_path: Path) -> None:
    tiny_classification_cohort(tmp_path / "c")
    columns = [("ignored", "not-a-feature", f"column {i} is not among those asked for", 1) for i in range(30)]
    rows = [("quarantined", "duplicate-row", f"differs from row {i}", 2) for i in (1, 2)]
    facts = replace(gather(tmp_path / "c"), left_out=(*columns, *rows))
    shown = next(section for section in sections(facts) if section.title == "files left out").rows
    assert shown == (
        ("ignored", "not-a-feature", "30", "column 0 is not among those asked for; 29 more like it"),
        ("quarantined", "duplicate-row", "2", "differs from row 1"),
        ("quarantined", "duplicate-row", "2", "differs from row 2"),
    )


def test_missing_shares_equal_those_of_the_mask(tmp_path: Path) -> None:
    manifest = tiny_classification_cohort(tmp_path / "c", emr=True)
    masks = [
        SplitReader(tmp_path / "c", manifest, s).arrays(np.arange(manifest.rows(s)), ["emr_missing"]) for s in ("train", "val", "test")
    ]
    expected = np.concatenate([m["emr_missing"] for m in masks]).mean(axis=0)
    np.testing.assert_allclose(gather(tmp_path / "c").missing_shares, expected)


def test_the_table_names_every_column_class_and_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = tiny_classification_cohort(tmp_path / "c", emr=True)
    assert inspect(str(tmp_path / "c")) == 0
    shown = capsys.readouterr().out
    for expected in ("hepatitis", "1 x 16 x 16", "display 0..255", "emr_missing", "alt", "U/l", manifest.sha256()):
        assert expected in shown
    assert re.search(r"quarantined +truncated +2 +the file ends inside its pixel data", shown)
    assert "44 files found: 1 ignored, 40 ingested, 3 quarantined" in shown


def test_a_damaged_and_a_missing_shard_are_named_and_fail_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = tiny_classification_cohort(tmp_path / "c")
    flipped, missing = manifest.of("train")[0], manifest.of("test")[0]
    data = bytearray((tmp_path / "c" / flipped.path).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "c" / flipped.path).write_bytes(data)
    (tmp_path / "c" / missing.path).unlink()
    assert inspect(str(tmp_path / "c"), "--html") == 1
    shown = capsys.readouterr().out
    assert re.search(rf"{flipped.path} +sha256 differs; ingest the cohort again", shown)
    assert re.search(rf"{missing.path} +missing; ingest the cohort again", shown)
    assert gather(tmp_path / "c").splits["train"].rows == manifest.rows("train") - flipped.rows


def test_a_patient_in_two_splits_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    manifest = tiny_classification_cohort(folder)
    train = manifest.of("train")[0]
    copy = Shard("shards/val-00009.parquet", "val", train.row_groups, train.bytes, train.sha256)
    shutil.copy(folder / train.path, folder / copy.path)
    replace(manifest, shards=(*manifest.shards, copy)).save(folder)
    facts = gather(folder)
    assert facts.straddlers == len(facts.splits["train"].patients & facts.splits["val"].patients) > 0
    assert not facts.sound
    assert f"{facts.straddlers} patients are in more than one split; ingest again" in str(sections(facts)[-1].rows)


def test_a_folder_without_a_cohort_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path)]) == 2
    assert (
        capsys.readouterr().err == f"error: no cohort at '{tmp_path}' (no manifest.json); make one with: hepdist ingest SOURCE {tmp_path}\n"
    )


def test_the_page_needs_nothing_but_itself_and_shows_every_class_and_split(tmp_path: Path) -> None:
    tiny_classification_cohort(tmp_path / "c", unlabelled=1)
    page = Path(write_page(tmp_path / "c", gather(tmp_path / "c"))).read_text(encoding="utf-8")
    assert set(re.findall(r'(?:src|href)="([^:"]+):', page)) == {"data"}
    for title in ("train: normal", "train: hepatitis", "train: unlabelled (1 rows)", "val: normal", "test: hepatitis"):
        assert f"<h2>{title}" in page


def test_the_page_of_a_segmentation_cohort_names_its_outlines(tmp_path: Path) -> None:
    tiny_segmentation_cohort(tmp_path / "s")
    page = Path(write_page(tmp_path / "s", gather(tmp_path / "s"))).read_text(encoding="utf-8")
    assert f'style="background:{COLOURS[1]}"></span>posterior' in page
    assert page.count("<img ") == 6 + 2 + 2  # at most six of a split


def test_an_outline_is_drawn_in_the_slice_with_the_most_mask() -> None:
    volume = np.zeros((1, 9, 32, 32), np.int16)
    mask = np.zeros((1, 9, 32, 32), np.uint8)
    mask[0, 6, 8:24, 8:24] = 1
    mask[0, 2, 8:12, 8:12] = 1
    picture, caption = draw(volume, mask, np.array([5.0, 1.0, 1.0]), "HU")
    pixels = np.asarray(picture).reshape(-1, 3)
    red = [int(COLOURS[0][i : i + 2], 16) for i in (1, 3, 5)]
    assert caption == "slice 7 of 9"
    assert {tuple(p) for p in np.unique(pixels, axis=0)} == {tuple(red), (102, 102, 102)}  # 0 HU is 40 % of the window


def test_pictures_are_true_to_millimetres() -> None:
    picture, caption = draw(np.zeros((1, 50, 100), np.uint8), spacing=np.array([3.0, 1.0]))
    assert (caption, picture.size) == ("", (123, 184))


def test_colour_images_keep_their_colours() -> None:
    image = np.zeros((3, 8, 8), np.uint8)
    image[1] = 200
    assert set(map(tuple, np.asarray(draw(image)[0]).reshape(-1, 3))) == {(0, 200, 0)}


def test_facts_of_a_multilabel_cohort_count_each_class(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from hepdist.shards.format import TensorField, encode
    from hepdist.shards.manifest import sha256_of

    labels = TensorField("label", "uint8", (3,), classes=("a", "b", "c"))
    values = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 0]], np.uint8)
    keys = {name: pa.array(["00", "01", "02"]) for name in ("sample_id", "patient", "study")}
    schema = pa.schema([pa.field(name, array.type) for name, array in keys.items()] + [labels.arrow()])
    (tmp_path / "shards").mkdir()
    file = tmp_path / "shards/train-00000.parquet"
    pq.write_table(pa.table([*keys.values(), encode(labels, values)], schema=schema), file)
    shard = Shard("shards/train-00000.parquet", "train", (3,), file.stat().st_size, sha256_of(file))
    meaning = {"dtype": "uint8", "shape": [3], "classes": ["a", "b", "c"]}
    Manifest("m", "images", {"label": meaning}, (shard,), ("a", "b", "c"), multilabel=True).save(tmp_path)
    facts = gather(tmp_path)
    assert facts.splits["train"].classes == {"a": 1, "b": 0, "c": 2}
    assert decode(labels, pq.read_table(file)["label"]).tolist() == values.tolist()
