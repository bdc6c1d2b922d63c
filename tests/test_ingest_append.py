"""Adding to a cohort: what is there stays to the byte, who is there stays in the split, and what is new is fitted or told of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hepdist.errors import IngestError, RecipeError
from hepdist.ingest import ingest
from hepdist.ingest.check import check_cohort
from hepdist.ingest.pseudonym import Pseudonyms
from hepdist.shards.manifest import SPLITS, Manifest

SALT = "a salt for tests, 32 bytes long."
APPEND = "append=true"


@pytest.fixture(autouse=True)
def salt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEPDIST_SALT", SALT)


def picture(path: Path, seed: int, side: int = 24) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)).save(path)


def pictures(folder: Path, numbers: range, side: int = 24) -> Path:
    """Two classes by folder; two pictures a patient, whose number is in the name."""
    for i in numbers:
        picture(folder / ("well" if i // 2 % 3 else "ill") / f"p{i // 2}-{i}.png", i, side)
    return folder


PATIENT = r"patient_pattern=(p\d+)-"


def rows_of(cohort: Path) -> dict[str, dict]:
    """Every row of the shards without its tensors, by sample_id."""
    manifest = Manifest.load(cohort)
    names = ["sample_id", "patient", "study", "split", *(["label"] if manifest.label_names and not manifest.multilabel else [])]
    tables = [pq.read_table(cohort / shard.path, columns=names) for shard in manifest.shards]
    return {row["sample_id"]: row for table in tables for row in table.to_pylist()}


def audit_of(cohort: Path) -> list[dict]:
    return pq.read_table(cohort / "audit.parquet").to_pylist()


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def reasons(cohort: Path, outcome: str) -> set[tuple[str, str]]:
    return {(row["check"], row["reason"]) for row in audit_of(cohort) if row["outcome"] == outcome}


def test_half_and_half_hold_what_the_whole_holds_and_nobody_moves(tmp_path):
    pictures(tmp_path / "all", range(120))
    whole = ingest(str(tmp_path / "all"), str(tmp_path / "whole"), [PATIENT])
    first = ingest(str(pictures(tmp_path / "a", range(60))), str(tmp_path / "cohort"), [PATIENT])
    before, shards = rows_of(tmp_path / "cohort"), contents(tmp_path / "cohort/shards")
    second = ingest(str(pictures(tmp_path / "b", range(60, 120))), str(tmp_path / "cohort"), [PATIENT, APPEND])
    after, expected = rows_of(tmp_path / "cohort"), rows_of(tmp_path / "whole")
    assert {i: row["patient"] for i, row in after.items()} == {i: row["patient"] for i, row in expected.items()}
    assert {i: row["label"] for i, row in after.items()} == {i: row["label"] for i, row in expected.items()}
    assert {i: after[i] for i in before} == before
    assert {name: data for name, data in contents(tmp_path / "cohort/shards").items() if name in shards} == shards
    assert [second.rows(split) for split in SPLITS] == [whole.rows(split) for split in SPLITS] == [72, 24, 24]
    assert {split: second.counts[split] for split in SPLITS} == {split: whole.counts[split] for split in SPLITS}
    assert second.counts["audit"] == whole.counts["audit"]
    assert (first.generation, second.generation) == (0, 1)
    assert (second.normalisation, second.fingerprint) == (first.normalisation, first.fingerprint)
    assert [s.path for s in second.shards] == [f"shards/{split}-0000{n}.parquet" for split in SPLITS for n in (0, 1)]
    assert first.sha256() != second.sha256() == Manifest.load(tmp_path / "cohort").sha256()
    check_cohort(tmp_path / "cohort", second)


def test_appending_the_same_again_changes_no_byte(tmp_path):
    ingest(str(pictures(tmp_path / "a", range(40))), str(tmp_path / "cohort"), [PATIENT])
    ingest(str(pictures(tmp_path / "b", range(40, 60))), str(tmp_path / "cohort"), [PATIENT, APPEND])
    before = contents(tmp_path / "cohort")
    for source in ("a", "b"):
        again = ingest(str(tmp_path / source), str(tmp_path / "cohort"), [PATIENT, APPEND])
        assert again.generation == 1
        assert contents(tmp_path / "cohort") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "cohort"]


def test_of_a_folder_with_old_and_new_files_the_new_ones_are_added(tmp_path):
    ingest(str(pictures(tmp_path / "a", range(40))), str(tmp_path / "cohort"), [PATIENT])
    before = rows_of(tmp_path / "cohort")
    pictures(tmp_path / "a", range(40, 46))
    shutil.copy(tmp_path / "a/ill/p0-0.png", tmp_path / "a/ill/p99-copy.png")
    manifest = ingest(str(tmp_path / "a"), str(tmp_path / "cohort"), [PATIENT, APPEND])
    after = rows_of(tmp_path / "cohort")
    assert len(after) == 46 and {i: after[i] for i in before} == before
    assert reasons(tmp_path / "cohort", "ignored") == {("duplicate", "its bytes are in the cohort already")}
    assert manifest.counts["audit"] == {"duplicate": 1, "ignored": 1, "ingested": 46, "quarantined": 0}
    assert len(audit_of(tmp_path / "cohort")) == 47


def test_new_studies_join_the_split_of_their_patient(tmp_path):
    pictures(tmp_path / "all", range(60))
    for i in range(0, 60, 2):
        path = next((tmp_path / "all").rglob(f"p{i // 2}-{i}.png"))
        target = tmp_path / "a" / path.relative_to(tmp_path / "all")
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    ingest(str(tmp_path / "a"), str(tmp_path / "cohort"), [PATIENT])
    split = {row["patient"]: row["split"] for row in rows_of(tmp_path / "cohort").values()}
    second = ingest(str(tmp_path / "all"), str(tmp_path / "cohort"), [PATIENT, APPEND])
    assert {row["patient"]: row["split"] for row in rows_of(tmp_path / "cohort").values()} == split
    assert [second.counts[s]["patients"] for s in SPLITS] == [18, 6, 6]
    assert [second.counts[s]["rows"] for s in SPLITS] == [36, 12, 12]


def test_an_image_of_two_patients_in_two_splits_is_quarantined_and_their_others_are_not(tmp_path):
    ingest(str(pictures(tmp_path / "a", range(40))), str(tmp_path / "cohort"), [PATIENT])
    rows, names = rows_of(tmp_path / "cohort"), {}
    for i in range(0, 40, 2):  # a patient of each split, by the audit's hash of their file
        path = next((tmp_path / "a").rglob(f"p{i // 2}-{i}.png"))
        names[i // 2] = path
    pseudonyms = Pseudonyms(SALT.encode())
    split = {row["patient"]: row["split"] for row in rows.values()}
    where = {n: split[pseudonyms.of("patient", f"p{n}")] for n in names}
    one = next(n for n in where if where[n] == "train")
    other = next(n for n in where if where[n] == "test")
    for i, n in ((100, one), (101, other), (102, one)):
        picture(tmp_path / f"b/ill/p{n}-{i}.png", i)
    picture(tmp_path / "b/well/p70-107.png", 107)
    bright = np.clip(np.asarray(Image.open(names[other])).astype(float) * 0.9 + 5, 0, 255).astype(np.uint8)
    Image.fromarray(bright).save(tmp_path / f"b/ill/p{one}-103.png")  # of the patient in train, and looks like one in test
    manifest = ingest(str(tmp_path / "b"), str(tmp_path / "cohort"), [PATIENT, APPEND])
    after = rows_of(tmp_path / "cohort")
    assert len(after) == 44 and {i: after[i] for i in rows} == rows
    assert reasons(tmp_path / "cohort", "quarantined") == {
        ("straddles-splits", "with it, one patient or image would be in two splits of the cohort")
    }
    assert manifest.counts["audit"]["straddles-splits"] == 1
    check_cohort(tmp_path / "cohort", manifest)


def test_a_picture_of_the_same_name_and_other_pixels_is_quarantined(tmp_path):
    ingest(str(pictures(tmp_path / "a", range(20))), str(tmp_path / "cohort"), [PATIENT])
    shards = contents(tmp_path / "cohort/shards")
    picture(tmp_path / "b/ill/p0-0.png", 500)
    picture(tmp_path / "b/well/p50-100.png", 501)
    ingest(str(tmp_path / "b"), str(tmp_path / "cohort"), [PATIENT, APPEND])
    assert {check for check, _ in reasons(tmp_path / "cohort", "quarantined")} == {"changed"}
    assert sum(row["outcome"] == "ingested" for row in audit_of(tmp_path / "cohort")) == 21
    assert {k: v for k, v in contents(tmp_path / "cohort/shards").items() if k in shards} == shards


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([APPEND, "overwrite=true"], "ingest: append=true adds to a cohort and overwrite=true replaces it; give one of them"),
        (
            [APPEND, "size=8,8"],
            "ingest key 'size' is not what the cohort was made with; leave it out, since append=true takes the cohort's",
        ),
        (
            [APPEND, "split=8,1,1"],
            "ingest key 'split' is not what the cohort was made with; leave it out, since append=true takes the cohort's",
        ),
    ],
)
def test_other_options_than_the_cohorts_are_refused_in_one_sentence(tmp_path, options, sentence):
    ingest(str(pictures(tmp_path / "a", range(20))), str(tmp_path / "cohort"), [PATIENT])
    before = contents(tmp_path)
    with pytest.raises((RecipeError, IngestError)) as refused:
        ingest(str(tmp_path / "a"), str(tmp_path / "cohort"), [PATIENT, *options])
    assert str(refused.value) == sentence
    assert contents(tmp_path) == before


def test_another_salt_or_no_cohort_or_one_that_kept_nothing_is_refused(tmp_path, monkeypatch):
    source = str(pictures(tmp_path / "a", range(20)))
    with pytest.raises(IngestError, match=r"^there is no cohort at '.*' to add to; leave append=true out to make one$"):
        ingest(source, str(tmp_path / "cohort"), [PATIENT, APPEND])
    ingest(source, str(tmp_path / "cohort"), [PATIENT])
    people = tmp_path / "cohort/people.parquet"
    whole = people.read_bytes()
    people.write_bytes(whole[:-1] + b"x")
    with pytest.raises(
        IngestError, match=r"people.parquet is not what the manifest says, so nothing can be added; ingest all its sources anew$"
    ):
        ingest(source, str(tmp_path / "cohort"), [PATIENT, APPEND])
    people.write_bytes(whole)
    monkeypatch.setenv("HEPDIST_SALT", SALT[::-1])
    with pytest.raises(IngestError, match=r"^cohort 'cohort' was made with another salt, so its patients would not be known again"):
        ingest(source, str(tmp_path / "cohort"), [PATIENT, APPEND])
    monkeypatch.setenv("HEPDIST_SALT", SALT)
    values = json.loads((tmp_path / "cohort/manifest.json").read_text())
    del values["frozen"]
    (tmp_path / "cohort/manifest.json").write_text(json.dumps(values))
    with pytest.raises(IngestError, match=r"^cohort 'cohort' doesn't keep what is needed to add to it; ingest all its sources anew$"):
        ingest(source, str(tmp_path / "cohort"), [PATIENT, APPEND])
