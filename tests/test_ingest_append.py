"""Adding to a cohort: what is there stays to the byte, who is there stays in the split, and what is new is fitted or told of."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from canaries import Canaries, listening, search
from cryptography.exceptions import InvalidTag
from PIL import Image
from salts import SALT
from test_ingest_restart import kill_when, start

from hepdist.errors import IngestError, RecipeError
from hepdist.ingest import ingest
from hepdist.ingest.check import check_cohort
from hepdist.ingest.likeness import likeness_of
from hepdist.ingest.people import read_people
from hepdist.ingest.pseudonym import Pseudonyms
from hepdist.ingest.stage import content_of
from hepdist.inspect.facts import gather
from hepdist.inspect.sections import counts
from hepdist.shards.manifest import SPLITS, Manifest

APPEND = "append=true"
NAMES = Pseudonyms(SALT.encode())


pytestmark = pytest.mark.usefixtures("salt")


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
    split = {row["patient"]: row["split"] for row in rows.values()}
    where = {n: split[NAMES.of("patient", f"p{n}")] for n in names}
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


@pytest.mark.parametrize("rounds", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_an_append_killed_at_random_moments_leaves_the_old_cohort_and_ends_with_the_same_bytes(tmp_path, rounds):
    ingest(str(pictures(tmp_path / "a", range(40), side=64)), str(tmp_path / "cohort"), [PATIENT])
    old = contents(tmp_path / "cohort")
    source = pictures(tmp_path / "b", range(40, 240), side=64)
    shutil.copytree(tmp_path / "cohort", tmp_path / "undisturbed/cohort")
    ingest(str(source), str(tmp_path / "undisturbed/cohort"), [PATIENT, APPEND])
    expected = contents(tmp_path / "undisturbed/cohort")
    draw, killed = random.Random(rounds), 0
    for number in range(rounds):
        cohort = tmp_path / f"{number}/cohort"
        shutil.copytree(tmp_path / "cohort", cohort)
        units = draw.randrange(68)
        killed += kill_when(start(source, cohort, PATIENT, APPEND), cohort.with_name("cohort.part"), units, draw.random() * 0.05)
        there = cohort if cohort.exists() else cohort.with_name(".cohort.replaced")
        assert contents(there) in (old, expected)
        ingest(str(source), str(cohort), [PATIENT, APPEND])
        assert contents(cohort) == expected
        assert [p.name for p in cohort.parent.iterdir()] == ["cohort"]
    assert killed


@pytest.mark.parametrize("done", ["the old cohort is aside", "the new one is in its place"])
def test_a_kill_between_the_renames_of_the_last_step_loses_nothing(tmp_path, done):
    ingest(str(pictures(tmp_path / "a", range(20))), str(tmp_path / "cohort"), [PATIENT])
    shutil.copytree(tmp_path / "cohort", tmp_path / ".cohort.replaced")
    source = pictures(tmp_path / "b", range(20, 30))
    ingest(str(source), str(tmp_path / "cohort"), [PATIENT, APPEND])
    expected = contents(tmp_path / "cohort")
    assert not (tmp_path / ".cohort.replaced").exists()
    shutil.copytree(tmp_path / "cohort", tmp_path / ".cohort.replaced")
    if done == "the old cohort is aside":
        (tmp_path / "cohort").rename(tmp_path / "cohort.part")
    ingest(str(source), str(tmp_path / "cohort"), [PATIENT, APPEND])
    assert contents(tmp_path / "cohort") == expected
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "cohort"]


def test_shards_that_are_there_are_the_same_files_on_disk(tmp_path):
    first = ingest(str(pictures(tmp_path / "a", range(20))), str(tmp_path / "cohort"), [PATIENT])
    nodes = {shard.path: (tmp_path / "cohort" / shard.path).stat().st_ino for shard in first.shards}
    ingest(str(pictures(tmp_path / "b", range(20, 26))), str(tmp_path / "cohort"), [PATIENT, APPEND])
    assert {path: (tmp_path / "cohort" / path).stat().st_ino for path in nodes} == nodes
    assert {(tmp_path / "cohort" / path).stat().st_nlink for path in nodes} == {1}


def test_a_damaged_shard_is_not_carried_on(tmp_path):
    first = ingest(str(pictures(tmp_path / "a", range(20))), str(tmp_path / "cohort"), [PATIENT])
    shard = tmp_path / "cohort" / first.shards[0].path
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(
        IngestError, match=r"^cohort 'cohort': shards/train-00000.parquet is missing or damaged; hepdist inspect says more$"
    ):
        ingest(str(pictures(tmp_path / "b", range(20, 26))), str(tmp_path / "cohort"), [PATIENT, APPEND])


def test_sites_stay_whole_and_in_their_split(tmp_path):
    def batch(folder: str, numbers: range) -> str:
        lines = [f"{i}.png,{i % 2},s{i % 7}" for i in numbers]
        for i in numbers:
            picture(tmp_path / folder / f"{i}.png", i)
        (tmp_path / folder / "labels.csv").write_text("\n".join(["file,label,site", *lines]))
        return str(tmp_path / folder)

    ingest(batch("a", range(35)), str(tmp_path / "cohort"), ["split_by=site"])
    split = {i % 7: rows_of(tmp_path / "cohort")[NAMES.of("sample", f"{i}.png")]["split"] for i in range(7)}
    manifest = ingest(batch("b", range(35, 49)), str(tmp_path / "cohort"), [APPEND])
    rows = rows_of(tmp_path / "cohort")
    assert {i: rows[NAMES.of("sample", f"{i}.png")]["split"] for i in range(49)} == {i: split[i % 7] for i in range(49)}
    assert manifest.split_rule["kind"] == "site" and manifest.split_rule["sites"] == 7
    moved = {where: next(site for site in split if split[site] == where) for where in ("train", "test")}
    picture(tmp_path / "c/99.png", 99)
    pixels = np.asarray(Image.open(tmp_path / f"a/{moved['train']}.png"))
    Image.fromarray(pixels).save(tmp_path / "c/98.png", compress_level=1)  # the same image, said to be of a site in another split
    (tmp_path / "c/labels.csv").write_text(f"file,label,site\n98.png,0,s{moved['test']}\n99.png,1,s{moved['test']}")
    manifest = ingest(str(tmp_path / "c"), str(tmp_path / "cohort"), [APPEND])
    assert (manifest.counts["audit"]["straddles-splits"], sum(manifest.rows(s) for s in SPLITS)) == (1, 50)


def test_official_splits_go_on_and_a_patient_without_one_stays_out(tmp_path):
    for i in range(30):
        picture(tmp_path / f"a/{('train', 'val', 'test')[i % 3]}/{'ill' if i % 2 else 'well'}/{i}.png", i)
    ingest(str(tmp_path / "a"), str(tmp_path / "cohort"))
    for i in range(30, 36):
        picture(tmp_path / f"b/{('train', 'val', 'test')[i % 3]}/{'ill' if i % 2 else 'well'}/{i}.png", i)
    manifest = ingest(str(tmp_path / "b"), str(tmp_path / "cohort"), [APPEND])
    assert [manifest.rows(s) for s in SPLITS] == [12, 12, 12]
    for i in range(36, 40):
        picture(tmp_path / f"c/{'ill' if i % 2 else 'well'}/{i}.png", i)
    manifest = ingest(str(tmp_path / "c"), str(tmp_path / "cohort"), [APPEND])
    assert (manifest.counts["audit"]["no-split"], sum(manifest.rows(s) for s in SPLITS)) == (4, 36)


def test_people_parquet_holds_no_thumbnail_that_can_be_read_without_the_salt(tmp_path, monkeypatch):
    ingest(str(pictures(tmp_path / "a", range(20))), str(tmp_path / "cohort"), [PATIENT])
    path = tmp_path / "cohort/people.parquet"
    members = read_people(path, NAMES)
    image = np.asarray(Image.open(tmp_path / "a/ill/p0-0.png"))[None]
    member = next(m for m in members if m.sample_id == NAMES.of("sample", "ill/p0-0.png"))
    assert member.likeness == likeness_of(image) and len(member.likeness) == 8 + 256
    assert member.content == NAMES.of("content", content_of(image))
    raw = path.read_bytes()
    for one in members:
        assert one.likeness not in raw and one.likeness[8:40] not in raw
    assert content_of(image).encode() not in raw
    with pytest.raises(InvalidTag):
        read_people(path, Pseudonyms(SALT[::-1].encode()))


def test_inspect_says_how_often_a_cohort_was_added_to(tmp_path):
    ingest(str(pictures(tmp_path / "a", range(20))), str(tmp_path / "cohort"), [PATIENT])
    assert counts(gather(tmp_path / "cohort")).note == "split by a salted hash of the patient 6:2:2"
    ingest(str(pictures(tmp_path / "b", range(20, 26))), str(tmp_path / "cohort"), [PATIENT, APPEND])
    facts = gather(tmp_path / "cohort")
    assert counts(facts).note == "split by a salted hash of the patient 6:2:2; added to 1 time"
    assert facts.sound


def test_inspect_says_how_many_patients_are_counted_as_others(tmp_path):
    folder = pictures(tmp_path / "a", range(20))
    picture(folder / "ill/p50-0.png", 0)  # another patient's picture under a new name
    picture(folder / "well/p51-2.png", 2)
    ingest(str(folder), str(tmp_path / "cohort"), [PATIENT])
    facts = gather(tmp_path / "cohort")
    assert counts(facts).note.startswith(
        "split by a salted hash of the patient 6:2:2; 2 more counted as patients of others, since their images"
    )
    assert sum(len(split.patients) for split in facts.splits.values()) == 10


def test_nothing_of_the_names_in_two_batches_gets_out(tmp_path):
    canaries = Canaries()
    for part in ("a", "b"):
        for folder in (canaries.text(), canaries.text()):
            for i in range(3):
                picture(tmp_path / part / folder / f"{canaries.text()}.png", len(canaries.planted) * 10 + i)
    table = f"file,label,site,{canaries.text()}\n"
    for part in ("a", "b"):
        names = [p.relative_to(tmp_path / part).as_posix() for p in sorted((tmp_path / part).rglob("*.png"))]
        lines = [
            f"{name},{'ill' if i % 2 else canaries.text() if part == 'b' and not i else 'well'},{canaries.text()},x"
            for i, name in enumerate(names)
        ]
        (tmp_path / part / "labels.csv").write_text(table + "\n".join(lines))
    with listening() as heard:
        ingest(str(tmp_path / "a"), str(tmp_path / "out/cohort"))
        manifest = ingest(str(tmp_path / "b"), str(tmp_path / "out/cohort"), [APPEND])
    assert heard.error is None
    assert search(canaries, tmp_path / "out") == [] and canaries.leaks(heard.said) == []
    assert manifest.counts["audit"]["label-unknown"] == 1 and len(rows_of(tmp_path / "out/cohort")) == 11
