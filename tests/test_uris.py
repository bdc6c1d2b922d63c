"""Cohorts and sources in an object store are read and written as those on disk are; tested against an S3 server on this machine."""

from __future__ import annotations

import dataclasses
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from salts import SALT

from cohorts import tiny_classification_cohort, tiny_segmentation_cohort
from hepdist.errors import CohortError, IngestError, StoreError
from hepdist.evaluation.cohort_flow import cohort_flow
from hepdist.ingest import ingest
from hepdist.ingest.check import check_cohort
from hepdist.ingest.files import Files
from hepdist.inspect import gather, write_page
from hepdist.place import Place, absolute, place_of
from hepdist.shards import fetch
from hepdist.shards.manifest import SPLITS, Manifest
from hepdist.shards.read import SplitReader, open_split
from object_stores import S3, refusing_server

pytest.importorskip("moto", reason="moto is not installed (pip install 'hepdist[dev]')")


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return place_of(tmp_path / "place" if request.param == "local" else f"{request.getfixturevalue('bucket')}/a/place")


def copy_up(folder: Path, uri: str) -> Place:
    """A local folder in the store, too."""
    there = place_of(uri)
    for name in place_of(folder).names():
        there.upload(name, folder / name)
    return there


def test_a_place_keeps_files_on_disk_and_in_a_bucket_alike(place: Place, tmp_path: Path):
    big = tmp_path / "big"
    big.write_bytes(np.random.default_rng(0).bytes(12 << 20))  # more than one part of an upload
    place.write("manifest.json", b"{}")
    place.write("shards/one", b"1")
    place.upload("shards/deep/big", big)
    place.write("shards/one", b"one")
    assert sorted(place.names()) == ["manifest.json", "shards/deep/big", "shards/one"]
    assert sorted(place.names("shards")) == ["shards/deep/big", "shards/one"]
    assert list(place.names("nowhere")) == []
    assert dict(place.stamps()) == {name: place.stamp(name) for name in place.names()}
    assert (place.read("shards/one"), place.size("shards/one"), place.size("shards/deep/big")) == (b"one", 3, 12 << 20)
    assert place.sha256("shards/one") == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    with place.open_input("shards/deep/big") as file:
        assert file.read_at(1000, 7 << 20) == big.read_bytes()[7 << 20 :][:1000]
    assert big.exists()
    assert (place.exists("shards"), place.exists("shards/one"), place.exists("shards/two")) == (False, True, False)
    for ask in (place.read, place.size, place.stamp, place.open_input):
        with pytest.raises(FileNotFoundError):
            ask("shards/two")
    place.remove("manifest.json")
    place.remove("manifest.json")
    place.remove_tree("shards/deep")
    place.remove_tree("nowhere")
    assert list(place.names()) == ["shards/one"]
    place.remove_tree()
    assert list(place.names()) == []


def test_a_file_is_seen_whole_or_not_at_all(place: Place):
    place.write("x", b"old")
    with place.writing("x") as path:
        path.write_bytes(b"ne")
        assert place.read("x") == b"old"
        with path.open("ab") as file:
            file.write(b"w")
    assert place.read("x") == b"new"

    def fail() -> None:
        with place.writing("y") as path:
            path.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(place.names()) == ["x"]


def test_an_upload_that_is_killed_leaves_nothing_to_see(bucket: str):
    place = place_of(bucket)
    stream = place._store.open_output_stream(place._path("shard"))
    stream.write(b"x" * (11 << 20))
    assert not place.exists("shard")  # nor would it be if the process ended here
    stream.close()
    assert place.exists("shard")


def test_a_file_that_fails_while_it_is_uploaded_leaves_no_part_of_it(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    place, path = place_of(bucket), tmp_path / "shard"
    path.write_bytes(b"x" * 100)
    monkeypatch.setattr(os.path, "getsize", lambda _: 200)  # as if the other half could not be read
    place.upload("shard", path)
    assert not place.exists("shard")


def test_a_place_travels_to_other_processes_as_its_uri(place: Place):
    place.write("x", b"1")
    data = pickle.dumps(place)
    again = pickle.loads(data)
    assert (str(again), again.read("x")) == (str(place), b"1")
    assert len(data) < 300
    assert absolute("s3://bucket/c") == "s3://bucket/c"
    assert absolute("c") == str(Path("c").resolve())


@pytest.mark.parametrize(
    "make", [lambda f: tiny_classification_cohort(f, 60, emr=True, unlabelled=2), lambda f: tiny_segmentation_cohort(f)]
)
def test_a_cohort_in_a_bucket_gives_the_rows_of_the_same_cohort_on_disk(make, bucket: str, tmp_path: Path):
    manifest = make(tmp_path / "c")
    uri = f"{bucket}/cohorts/c"
    copy_up(tmp_path / "c", uri)
    assert Manifest.load(uri).sha256() == manifest.sha256()
    check_cohort(uri, manifest)
    columns = [*manifest.fields, "label"] if manifest.label_names else list(manifest.fields)
    for split in SPLITS:
        here, there = SplitReader(tmp_path / "c", manifest, split), open_split(uri, split)
        rows = np.random.default_rng(0).permutation(len(here)).repeat(2)
        one, other = here.arrays(rows, columns), there.arrays(rows, columns)
        assert all(np.array_equal(one[name], other[name]) for name in columns)
        assert here.strings(["sample_id", "patient"]).equals(there.strings(["sample_id", "patient"]))


def test_a_row_group_costs_one_request_and_its_next_batch_none(server: S3, bucket: str, tmp_path: Path):
    manifest = tiny_classification_cohort(tmp_path / "c", 100, emr=True)
    copy_up(tmp_path / "c", f"{bucket}/c")
    reader = open_split(f"{bucket}/c", "train")
    columns = ("image", "emr", "emr_missing", "label")
    first = len(manifest.of("train")[0].row_groups)
    reader.arrays(np.array([0]), columns)  # opens the shard
    server.requests.clear()
    reader.arrays(np.arange(1, sum(manifest.of("train")[0].row_groups)), columns)
    assert [method for method, _ in server.requests] == ["GET"] * (first - 1)
    server.requests.clear()
    reader.arrays(np.arange(20), columns)
    assert server.requests == []


def test_row_groups_are_forgotten_once_they_take_too_much_memory(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    manifest = tiny_segmentation_cohort(tmp_path / "c")
    copy_up(tmp_path / "c", f"{bucket}/c")
    monkeypatch.setattr(fetch, "RECENT", fetch.Recent(40_000))
    reader = SplitReader(f"{bucket}/c", manifest, "train")
    reader.arrays(np.arange(len(reader)), ["image"])
    assert sum(part.nbytes for part in fetch.RECENT._parts.values()) <= 40_000 < len(reader) * manifest.fields["image"].nbytes
    assert len(fetch.RECENT._parts) > 0


def test_shards_that_are_not_the_manifests_are_named(bucket: str, tmp_path: Path):
    manifest = tiny_classification_cohort(tmp_path / "c", 30)
    place = copy_up(tmp_path / "c", f"{bucket}/c")
    bad, gone = (shard.path for shard in manifest.of("train"))
    whole = place.read(bad)
    place.write(bad, whole[:-1])
    place.remove(gone)
    assert dict(gather(f"{bucket}/c").damaged) == {bad: f"{len(whole) - 1} bytes instead of {len(whole)}", gone: "missing"}
    for shard, sentence in ((bad, "has .* bytes instead of"), (gone, "is missing; ingest the cohort again")):
        row = 0 if shard == bad else len(SplitReader(place, manifest, "train")) - 1
        with pytest.raises(CohortError, match=f"shard '{shard}' {sentence}"):
            SplitReader(place, manifest, "train").arrays(np.array([row]), ["image"])
    with pytest.raises(CohortError, match=f"{bad} is missing or damaged; ingest it again"):
        check_cohort(f"{bucket}/c", manifest)
    place.write(bad, whole[:-9] + bytes(9))
    assert dict(gather(f"{bucket}/c").damaged)[bad] == "sha256 differs"


def test_inspect_and_the_report_say_the_same_of_a_cohort_in_a_bucket(bucket: str, tmp_path: Path):
    manifest = tiny_classification_cohort(tmp_path / "c", 30, emr=True)
    place = copy_up(tmp_path / "c", f"{bucket}/c")
    here, there = gather(tmp_path / "c"), gather(f"{bucket}/c")
    assert (there.sound, there.outcomes, there.left_out, there.straddlers) == (True, here.outcomes, here.left_out, 0)
    assert [dataclasses.replace(s, missing=None) for s in there.splits.values()] == [
        dataclasses.replace(s, missing=None) for s in here.splits.values()
    ]
    assert there.missing_shares == here.missing_shares
    write_page(tmp_path / "c", here)
    assert write_page(f"{bucket}/c", there) == f"{bucket}/c/inspect.html"
    assert place.read("inspect.html") == (tmp_path / "c/inspect.html").read_bytes()
    assert cohort_flow(f"{bucket}/c", manifest) == cohort_flow(tmp_path / "c", manifest)


def test_what_is_wrong_with_a_store_is_one_sentence_without_names_of_objects(
    server: S3, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(
        CohortError, match=rf"^no cohort at '{bucket}/c' \(no manifest.json\); make one with: hepdist ingest SOURCE {bucket}/c$"
    ):
        Manifest.load(f"{bucket}/c")
    with pytest.raises(IngestError, match=r"does not exist; give a folder, a tar archive or an .npz file$"):
        Files(f"{bucket}/nothing")
    for ask in (Manifest.load, Files, lambda uri: place_of(uri).write("Jane", b""), lambda uri: list(place_of(uri).names())):
        with pytest.raises(StoreError, match=r"^'s3://no-such-bucket' does not exist; make it first, or correct its name$"):
            ask("s3://no-such-bucket/Jane")
    with refusing_server() as endpoint, monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        sentence = (
            r"^'s3://b' refuses access: credentials are missing, expired or lack the right; set AWS_ACCESS_KEY_ID and .* of the instance$"
        )
        for ask in (Manifest.load, Files, lambda uri: place_of(uri).write("x", b""), lambda uri: list(place_of(uri).names())):
            with pytest.raises(StoreError, match=sentence):
                ask("s3://b/Jane")
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        with pytest.raises(StoreError, match=r"^'s3://b' can't be reached over the network; check the connection"):
            Manifest.load("s3://b/Jane")


def test_uris_that_can_not_work_are_refused_before_any_request(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    for uri, sentence in {
        "ftp://host/c": r"^'ftp://' is no place that hepdist can read; use a local path, s3://, gs:// or abfs://$",
        "s3://key:secret@bucket/c": r"^a s3:// URI holds credentials or options; leave them out and set AWS_ACCESS_KEY_ID",
        "s3://bucket/c?endpoint_override=x": r"^a s3:// URI holds credentials or options",
        "abfs://container/c": r"^an abfs:// URI names no storage account; write abfs://CONTAINER@ACCOUNT",
    }.items():
        with pytest.raises(StoreError, match=sentence) as refused:
            place_of(uri)
        assert "secret@" not in str(refused.value)
    import pyarrow.fs

    monkeypatch.delattr(pyarrow.fs, "AzureFileSystem", raising=False)
    with pytest.raises(StoreError, match=r"run: pip install adlfs$"):
        place_of("abfs://container@another.dfs.core.windows.net/c")


def test_google_and_azure_uris_lead_to_their_file_systems():
    google, azure = place_of("gs://bucket/cohorts/c"), place_of("abfs://container@account.dfs.core.windows.net/cohorts/c")
    assert (google._store.type_name, google._root) == ("gcs", "bucket/cohorts/c")
    assert azure._root == "container/cohorts/c"
    assert str(pickle.loads(pickle.dumps(azure))) == str(azure)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for label in ("normal", "sick"):
        (tmp_path / f"source/{label}").mkdir(parents=True)
        for i in range(8):
            Image.fromarray(rng.integers(0, 256, (20, 16), dtype=np.uint8)).save(tmp_path / f"source/{label}/p{label}{i}_x.png")
    return tmp_path / "source"


@pytest.mark.parametrize("kind", ["folder", "tar", "tar.gz", "tar.xz"])
def test_a_source_in_a_bucket_is_read_as_the_folder_it_was_made_of(kind: str, server: S3, bucket: str, pictures: Path):
    uri = f"{bucket}/in/source"
    if kind == "folder":
        copy_up(pictures, uri)
    else:
        archive = pictures.with_name(f"source.{kind}")
        with tarfile.open(archive, f"w:{kind[4:]}") as tar:
            tar.add(pictures, ".")
        uri += f".{kind}"
        place_of(f"{bucket}/in").upload(archive.name, archive)
    here, there = Files(pictures), pickle.loads(pickle.dumps(Files(uri)))
    assert there.root is None
    assert there.names == here.names
    assert [there.read(name) for name in there.names] == [here.read(name) for name in here.names]
    assert [there.sha256(name) for name in there.names] == [here.sha256(name) for name in here.names]
    assert [there.head(name, 8) for name in there.names] == [b"\x89PNG\r\n\x1a\n"] * 16
    with there.open(there.names[3]) as file:
        assert Image.open(file).getpixel((5, 5)) == Image.open(pictures / here.names[3]).getpixel((5, 5))
    stamps = there.stamps()
    assert list(stamps) == there.names
    assert all(stamps.values())
    assert stamps == pickle.loads(pickle.dumps(there)).stamps()
    if kind == "folder":
        place_of(uri).write(there.names[0], b"changed")
        assert {name for name, stamp in Files(uri).stamps().items() if stamp != stamps[name]} == {there.names[0]}


def test_a_plain_tar_in_a_bucket_is_not_read_whole_for_its_list(server: S3, bucket: str, tmp_path: Path):
    with tarfile.open(tmp_path / "big.tar", "w") as tar:
        for i in range(3):
            (tmp_path / f"{i}").write_bytes(bytes(4 << 20))
            tar.add(tmp_path / f"{i}", f"{i}")
    place_of(bucket).upload("big.tar", tmp_path / "big.tar")
    server.requests.clear()
    files = Files(f"{bucket}/big.tar")
    assert files.names == ["0", "1", "2"]
    assert len(server.requests) < 20
    server.requests.clear()
    assert files.read("1") == bytes(4 << 20)
    assert server.requests == [("GET", f"/{bucket[5:]}/big.tar")]


def test_a_single_file_in_a_bucket_is_a_source(bucket: str, tmp_path: Path):
    rng = np.random.default_rng(0)
    arrays = {
        f"{split}_images": rng.integers(0, 256, (rows, 8, 8), dtype=np.uint8) for split, rows in (("train", 9), ("val", 3), ("test", 3))
    }
    arrays |= {name.replace("images", "labels"): np.arange(len(images)) % 2 for name, images in arrays.items()}
    np.savez_compressed(tmp_path / "tiny.npz", **arrays)
    (tmp_path / "salt").write_text("0123456789abcdef" * 2)
    place_of(bucket).upload("tiny.npz", tmp_path / "tiny.npz")
    salt = [f"salt={tmp_path / 'salt'}"]
    here = ingest(str(tmp_path / "tiny.npz"), str(tmp_path / "here/c"), salt)
    there = ingest(f"{bucket}/tiny.npz", str(tmp_path / "there/c"), salt)
    assert there.sha256() == here.sha256()


def test_ingest_from_a_bucket_writes_the_cohort_that_it_writes_from_disk(bucket: str, pictures: Path, tmp_path: Path):
    (tmp_path / "salt").write_text("0123456789abcdef" * 2)
    copy_up(pictures, f"{bucket}/source")
    salt = [f"salt={tmp_path / 'salt'}"]
    here = ingest(str(pictures), str(tmp_path / "here/c"), salt)
    there = ingest(f"{bucket}/source", str(tmp_path / "there/c"), salt)
    assert there.sha256() == here.sha256()
    assert (tmp_path / "there/c/audit.parquet").read_bytes() == (tmp_path / "here/c/audit.parquet").read_bytes()


def test_a_cohort_is_made_in_a_bucket_and_replaced_there_whole(
    bucket: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HEPDIST_SALT", SALT)
    target = place_of(f"{bucket}/cohorts/cohort")
    local = ingest(str(pictures), str(tmp_path / "cohort"))
    assert ingest(str(pictures), str(target)).sha256() == local.sha256() == Manifest.load(target).sha256()
    assert sorted(target.names()) == sorted(place_of(tmp_path / "cohort").names())
    check_cohort(str(target), Manifest.load(target))
    with pytest.raises(IngestError, match="exists already; choose another folder or replace it with overwrite=true"):
        ingest(str(pictures), str(target))
    smaller = ingest(str(pictures), str(target), ["size=8,8", "overwrite=true"])
    assert Manifest.load(target).sha256() == smaller.sha256() != local.sha256()
