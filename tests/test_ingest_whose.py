"""Whose images are and of which class: tables beside each other, paths as people write them, folders, and labels that say nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hepdist.errors import IngestError
from hepdist.ingest import ingest
from hepdist.ingest.class_folders import told_by_folders
from hepdist.ingest.detect import open_source
from hepdist.ingest.files import Files
from hepdist.ingest.sample import Finding, Sample
from hepdist.ingest.spec import IngestSpec
from hepdist.shards.manifest import SPLITS, Manifest

pytestmark = pytest.mark.usefixtures("salt")


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 16), dtype=np.uint8)).save(path)


def write(path: Path, header: str, rows: Sequence[Sequence[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]))
    return path


def pictures(folder: Path, count: int = 20) -> None:
    for i in range(count):
        draw(folder / f"{i}.png", i)


def read(folder: Path, **options) -> tuple[list[Sample], list[Finding]]:
    source = open_source(Files(folder), IngestSpec(**options))
    found = [*source.findings, *(thing for item in source.items for thing in source.read(item))]
    return [f for f in found if isinstance(f, Sample)], [f for f in found if isinstance(f, Finding)]


def patients(manifest: Manifest) -> int:
    return sum(manifest.counts[split]["patients"] for split in SPLITS)


def classes(manifest: Manifest) -> dict[str, int]:
    return {name: sum(manifest.counts[split]["classes"][name] for split in SPLITS) for name in manifest.label_names}


LABELS = [(f"{i}.png", "ill" if i % 4 < 2 else "well") for i in range(20)]
OWNERS = [(f"{i}.png", f"p{i // 2}", 10 + i) for i in range(20)]


@pytest.mark.parametrize("inside", [False, True], ids=["named", "in-the-source"])
def test_labels_of_one_table_and_patients_of_the_emr_table_meet_in_the_image(tmp_path, inside):
    pictures(tmp_path / "source")
    labels = write(tmp_path / ("source" if inside else ".") / "labels.csv", "filename,label", LABELS)
    emr = write(tmp_path / "emr.csv", "filename,pid,alt", OWNERS)
    options = [f"emr={emr}", "emr_key=image", "patient_key=pid", *([] if inside else [f"labels_table={labels}"])]
    manifest = ingest(str(tmp_path / "source"), str(tmp_path / "cohort"), options)
    assert patients(manifest) == 10
    assert classes(manifest) == {"ill": 10, "well": 10}
    assert [column.name for column in manifest.emr] == ["alt"]


def test_an_image_with_a_label_but_without_a_known_patient_is_quarantined(tmp_path):
    pictures(tmp_path / "source")
    labels = write(tmp_path / "labels.csv", "filename,label", LABELS)
    emr = write(tmp_path / "emr.csv", "filename,patient,alt", OWNERS[:18])
    options = {"labels_table": str(labels), "emr": str(emr), "emr_key": "image"}
    samples, findings = read(tmp_path / "source", **options)
    assert [(s.files, s.patient, s.label) for s in samples] == [
        ((name,), patient, dict(LABELS)[name]) for name, patient, _ in sorted(OWNERS[:18])
    ]
    assert sorted((f.file, f.check) for f in findings) == [("18.png", "unknown-patient"), ("19.png", "unknown-patient")]
    assert len(read(tmp_path / "source", **options, patient_pattern=r"^1?(\d)\.png$")[0]) == 20


def test_a_patient_column_that_neither_table_has_is_refused(tmp_path):
    pictures(tmp_path / "source")
    labels = write(tmp_path / "labels.csv", "filename,label", LABELS)
    emr = write(tmp_path / "emr.csv", "filename,patient,alt", OWNERS)
    with pytest.raises(IngestError, match=r"'patient_key' is 'pid', which is no column of the EMR table or the label table; name one"):
        read(tmp_path / "source", labels_table=str(labels), emr=str(emr), emr_key="image", patient_key="pid")


def test_the_key_of_the_emr_table_may_be_another_than_the_label_table_s(tmp_path):
    pictures(tmp_path / "source")
    labels = write(tmp_path / "labels.csv", "filename,patient_id,label", [(n, o[1], c) for (n, c), o in zip(LABELS, OWNERS, strict=True)])
    emr = write(tmp_path / "emr.csv", "pid,alt", [(f"p{i}", i) for i in range(10)])
    manifest = ingest(str(tmp_path / "source"), str(tmp_path / "cohort"), [f"labels_table={labels}", f"emr={emr}", "patient_key=pid"])
    assert patients(manifest) == 10
    assert manifest.emr[0].missing_share == 0


def test_patients_written_as_real_numbers_are_those_written_as_whole_ones(tmp_path):
    """pandas writes 17.0 where a column has gaps."""
    pictures(tmp_path / "source")
    labels = write(tmp_path / "labels.csv", "filename,patient_id,label", [(n, f"{i // 2}.0", c) for i, (n, c) in enumerate(LABELS)])
    for end in ("", ".0"):
        emr = write(tmp_path / f"emr{end}.csv", "patient_id,alt", [(f"{i}{end}", i) for i in range(10)])
        manifest = ingest(str(tmp_path / "source"), str(tmp_path / f"cohort{end}"), [f"labels_table={labels}", f"emr={emr}"])
        assert patients(manifest) == 10
        assert manifest.emr[0].missing_share == 0


def test_the_class_in_a_table_of_images_is_no_feature_of_them(tmp_path):
    pictures(tmp_path / "source")
    rows = [(*o, c) for (_, c), o in zip(LABELS, OWNERS, strict=True)]
    emr = write(tmp_path / "emr.csv", "filename,patient,alt,diagnosis", rows)
    manifest = ingest(str(tmp_path / "source"), str(tmp_path / "cohort"), [f"emr={emr}", "emr_key=image", "allow_unlabelled=true"])
    assert [column.name for column in manifest.emr] == ["alt"]
    audit = pq.read_table(tmp_path / "cohort/audit.parquet").to_pylist()
    assert [r["reason"] for r in sorted(audit, key=lambda r: r["reason"]) if r["check"] == "not-a-feature"] == [
        "column 2 is no feature: its header names an identifier or a date",
        "column 4 names the class of an image by its header",
    ]


@pytest.mark.parametrize(
    "written",
    ["data\\pat{p}\\{k}.png", "/mnt/export/pat{p}/{k}.png", "PAT{p}/{k}.PNG", "./pat{p}/{k}", "pat{p}/{k}.png"],
    ids=["windows", "absolute", "upper-case", "no-suffix", "as-it-is"],
)
def test_paths_in_a_label_table_are_found_by_their_end(tmp_path, written):
    rows = []
    for p in range(6):
        for k in range(3):
            draw(tmp_path / f"source/pat{p}/{k}.png", 10 * p + k)
            rows.append((written.format(p=p, k=k), f"P{p}", "ab"[p % 2]))
    table = write(tmp_path / "t.csv", "path,patient_id,label", rows)
    samples, findings = read(tmp_path / "source", labels_table=str(table))
    assert findings == []
    assert [(s.files, s.patient, s.label) for s in samples] == [
        ((f"pat{p}/{k}.png",), f"P{p}", "ab"[p % 2]) for p in range(6) for k in range(3)
    ]
    if "PAT" not in written:
        emr = write(tmp_path / "e.csv", "path,patient_id,alt", [(row[0], row[1], i) for i, row in enumerate(rows)])
        manifest = ingest(str(tmp_path / "source"), str(tmp_path / "cohort"), [f"emr={emr}", "emr_key=image", f"labels_table={table}"])
        assert manifest.emr[0].missing_share == 0
        assert patients(manifest) == 6


def test_a_label_table_that_names_none_of_the_images_says_so(tmp_path):
    pictures(tmp_path / "source")
    table = write(tmp_path / "t.csv", "filename,label", [(f"other{i}.png", "a") for i in range(20)])
    with pytest.raises(IngestError, match=r"^no row of the label table both names an image of the source and says its class; name its"):
        read(tmp_path / "source", labels_table=str(table))


def test_words_that_say_nothing_are_no_classes(tmp_path):
    words = ["nan", "N/A", "Unknown", "TODO", "null", "?", "", "Todo", "-", "NaN"]
    pictures(tmp_path / "source")
    table = write(tmp_path / "t.csv", "filename,label", [(f"{i}.png", words[i] if i < 10 else "ab"[i % 2]) for i in range(20)])
    manifest = ingest(str(tmp_path / "source"), str(tmp_path / "cohort"), [f"labels_table={table}"])
    assert classes(manifest) == {"a": 5, "b": 5}
    assert sum(manifest.rows(split) for split in SPLITS) == 20


def test_a_minus_beside_a_plus_is_a_class(tmp_path):
    pictures(tmp_path / "source")
    table = write(tmp_path / "t.csv", "filename,label", [(f"{i}.png", "+-"[i % 2]) for i in range(20)])
    manifest = ingest(str(tmp_path / "source"), str(tmp_path / "cohort"), [f"labels_table={table}", "label_names=-,+"])
    assert classes(manifest) == {"-": 10, "+": 10}


def test_codes_that_count_from_one_are_not_taken_for_places(tmp_path):
    table = write(tmp_path / "t.csv", "id,age,class", [(i, 30 + i % 7, 1 + i % 2) for i in range(20)])
    with pytest.raises(IngestError, match=r"^the labels are numbers without 0, so that no place among label_names can be meant"):
        ingest(str(table), str(tmp_path / "cohort"), ["label=class", "label_names=die,live"])
    assert classes(ingest(str(table), str(tmp_path / "cohort"), ["label=class", "label_names=2,1"])) == {"2": 10, "1": 10}
    places = write(tmp_path / "u.csv", "id,age,class", [(i, 30 + i % 7, int(i % 4 > 0)) for i in range(20)])
    assert classes(ingest(str(places), str(tmp_path / "other"), ["label=class", "label_names=die,live"])) == {"die": 5, "live": 15}


def test_folders_of_patients_within_classes_are_patients(tmp_path):
    for p in range(12):
        for k in range(3):
            draw(tmp_path / f"source/train/{('NORMAL', 'PNEUMONIA')[p % 2]}/pat{p:02d}/{k}.png", 10 * p + k)
    manifest = ingest(str(tmp_path / "source"), str(tmp_path / "cohort"))
    assert manifest.label_names == ("NORMAL", "PNEUMONIA")
    assert patients(manifest) == 12
    assert sum(manifest.rows(split) for split in SPLITS) == 36


def test_what_folders_of_several_levels_say():
    by_class = [f"x/{'ab'[p % 2]}/p{p}/{k}.png" for p in range(12) for k in range(2)]
    by_patient = [f"p{p}/{'ab'[k]}/{k}.png" for p in range(12) for k in range(2)]
    by_site = [f"s{p % 3}/{'ab'[k]}/{p}.png" for p in range(12) for k in range(2)]
    uneven = [f"{'ab'[p % 2]}/{f'p{p}/' if p > 5 else ''}{p}.png" for p in range(12)]
    assert told_by_folders(by_class).classes == {n: n[2] for n in by_class}
    assert told_by_folders(by_class).patients == {n: n.split("/")[2] for n in by_class}
    assert told_by_folders(by_patient).classes == {n: n.split("/")[1] for n in by_patient}
    assert told_by_folders(by_patient).patients == {n: n.split("/")[0] for n in by_patient}
    assert told_by_folders(by_site).classes == {n: n.split("/")[1] for n in by_site}
    assert told_by_folders(by_site).patients == {}
    assert told_by_folders(uneven).classes == {n: n[0] for n in uneven}
    assert told_by_folders(uneven).patients == {n: n.split("/")[1] for n in uneven if n.count("/") > 1}
    assert told_by_folders(["a.png", "b.png"]) == told_by_folders(["x/a.png", "x/b.png"])


def test_folders_that_leave_a_doubt_are_refused_unless_something_else_labels(tmp_path):
    for i in range(12):
        draw(tmp_path / f"source/{'ab'[i % 2]}/{('AP', 'PA')[i // 2 % 2]}/{i}.png", i)
    with pytest.raises(IngestError, match=r"^the images lie in folders of several levels, any of which could be the class; say which with"):
        read(tmp_path / "source")
    samples, _ = read(tmp_path / "source", label_pattern="^([^/]+)/")
    assert [s.label for s in samples] == ["a"] * 6 + ["b"] * 6
    assert {s.label for s in read(tmp_path / "source", allow_unlabelled=True)[0]} == {None}
