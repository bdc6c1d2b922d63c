"""The files of a source: every one is listed or accounted for, in folders and archives of any kind, and any process can read them."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hepdist.errors import IngestError
from hepdist.ingest import archives
from hepdist.ingest.files import Files
from hepdist.ingest.walk import walk


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(30):
        path = tmp_path / f"source/p{i % 7}/s{i % 3}/{i}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([i]) * (700 * i))
    return tmp_path / "source"


def packed(folder: Path, kind: str) -> Path:
    archive = folder.with_name(f"source.{kind}")
    with tarfile.open(archive, f"w:{kind.partition('.')[2]}") as tar:
        tar.add(folder, ".")
    return archive


def test_every_file_of_a_folder_is_listed_once_in_order(folder: Path):
    truth = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = Files(folder)
    assert files.names == truth
    assert files.skipped == []
    assert files.root == folder
    assert list(files.stamps()) == truth


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.xz", "tar.bz2"])
def test_an_archive_is_the_folder_it_was_made_of(folder: Path, kind: str):
    plain, files = Files(folder), Files(packed(folder, kind))
    assert files.names == plain.names
    assert files.root is None
    for one in (files, pickle.loads(pickle.dumps(files))):
        assert [one.read(name) for name in one.names] == [plain.read(name) for name in plain.names]
        assert [one.sha256(name) for name in one.names] == [
            hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in plain.names
        ]
        assert [one.head(name, 5) for name in one.names] == [plain.head(name, 5) for name in plain.names]
        with one.open("p6/s2/20.bin", 100) as file:
            file.seek(-10, io.SEEK_END)
            assert (file.tell(), file.read(), file.read()) == (13990, bytes([20]) * 10, b"")


def test_a_packed_archive_is_unpacked_once_and_leaves_nothing_behind(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    archive, scratch = packed(folder, "tar.xz"), tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    unpacked = []
    monkeypatch.setattr(archives.shutil, "copyfileobj", lambda one, other, size: unpacked.append(other.write(one.read())))
    for _ in range(3):
        files = pickle.loads(pickle.dumps(Files(archive)))
        assert files.read("p1/s1/1.bin") == b"\1" * 700
    assert len(unpacked) == 1
    assert list(scratch.iterdir()) == []


def test_threads_that_read_one_archive_get_the_bytes_they_asked_for(folder: Path):
    files = Files(packed(folder, "tar"))
    names = files.names * 20
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(files.read, names)) == [(folder / name).read_bytes() for name in names]


def test_files_travel_without_their_names_and_read_in_another_process(folder: Path, tmp_path: Path):
    for i in range(2000):
        (folder / f"{i:060}").touch()
    data = pickle.dumps(Files(folder))
    assert len(data) < 1000
    for source in (folder, packed(folder, "tar.gz")):
        (tmp_path / "files.pickle").write_bytes(pickle.dumps(Files(source)))
        code = "import pickle, sys; f = pickle.load(open(sys.argv[1], 'rb')); print(f.sha256('p1/s1/1.bin'), len(f.names))"
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "files.pickle")], capture_output=True, text=True, check=True)
        assert done.stdout.split() == [hashlib.sha256(b"\1" * 700).hexdigest(), "2030"]


def test_a_hash_is_taken_from_who_read_the_file_or_made_anew(folder: Path):
    files = Files(folder)
    files.read("p1/s1/1.bin")
    (folder / "p1/s1/1.bin").write_bytes(b"\2" * 700)
    assert files.sha256("p1/s1/1.bin") == hashlib.sha256(b"\1" * 700).hexdigest()  # of what was read
    assert pickle.loads(pickle.dumps(files)).sha256("p1/s1/1.bin") == hashlib.sha256(b"\2" * 700).hexdigest()
    assert files.sha256("nothing") == ""


def test_a_stamp_changes_with_the_file_and_only_with_it(folder: Path):
    before = Files(folder).stamps()
    (folder / "p1/s1/1.bin").write_bytes(b"\2" * 700)
    os.utime(folder / "p1/s1/1.bin", ns=(0, 1))
    after = Files(folder).stamps()
    assert {name for name in before if before[name] != after[name]} == {"p1/s1/1.bin"}
    archive = packed(folder, "tar")
    one = Files(archive)
    assert len(set(one.stamps().values())) == 30
    assert one.stamps() == Files(archive).stamps()


def test_an_archive_that_changes_while_it_is_read_is_an_error_not_other_bytes(folder: Path):
    archive = packed(folder, "tar")
    files = pickle.loads(pickle.dumps(Files(archive)))
    archives._opened.cache_clear()
    archive.write_bytes(bytes(1 << 20))
    with pytest.raises(OSError, match="changed"):
        files.read("p1/s1/1.bin")


def test_links_are_followed_but_never_in_circles_and_what_is_no_file_is_accounted_for(folder: Path, tmp_path: Path):
    (tmp_path / "elsewhere/deep").mkdir(parents=True)
    (tmp_path / "elsewhere/deep/file").write_bytes(b"elsewhere")
    os.symlink(tmp_path / "elsewhere", folder / "b-link")
    os.symlink(folder, folder / "p1/circle")
    os.symlink(folder / "p2", folder / "a-second-name")
    os.symlink("itself", folder / "itself")
    os.symlink("nowhere", folder / "dangling")
    os.symlink("p1/s1/1.bin", folder / "to-a-file")
    os.mkfifo(folder / "pipe")
    names, skipped = walk(folder)
    assert set(names) - {f"p{i % 7}/s{i % 3}/{i}.bin" for i in range(30)} == {"b-link/deep/file", "to-a-file"}
    assert len(names) == 32
    assert skipped == [
        ("a-second-name", "a link to a folder that is listed under another name"),
        ("dangling", "a link that leads nowhere"),
        ("itself", "a link that leads nowhere"),
        ("p1/circle", "a link to a folder that is listed under another name"),
        ("pipe", "a device, pipe or socket"),
    ]
    assert Files(folder).skipped == skipped
    assert Files(folder).read("b-link/deep/file") == b"elsewhere"


def test_a_folder_that_can_not_be_read_is_accounted_for_and_the_rest_is_listed(folder: Path, monkeypatch: pytest.MonkeyPatch):
    scan = os.scandir

    def denied(path: str):
        if path == str(folder / "p1"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", denied)
    files = Files(folder)
    assert files.skipped == [("p1", "a folder that can't be read")]
    assert len(files.names) == 30 - 5
    assert not any(name.startswith("p1/") for name in files.names)


def test_names_that_are_not_utf8_are_read_like_others(tmp_path: Path):
    raw = "患者".encode("gbk")
    os.makedirs(os.fsencode(tmp_path) + b"/source/" + raw)
    with open(os.fsencode(tmp_path) + b"/source/" + raw + b"/" + raw + b".dcm", "wb") as file:
        file.write(b"x")
    (tmp_path / "source/plain").write_bytes(b"y")
    name = os.fsdecode(raw + b"/" + raw + b".dcm")
    for source in (tmp_path / "source", packed(tmp_path / "source", "tar")):
        files = pickle.loads(pickle.dumps(Files(source)))
        assert set(files.names) == {name, "plain"}
        assert (files.read(name), files.sha256(name)) == (b"x", hashlib.sha256(b"x").hexdigest())
        assert all(files.stamps().values())


def test_members_that_are_no_plain_files_are_accounted_for_and_never_unpacked(tmp_path: Path):
    def member(name: str, kind: bytes = tarfile.REGTYPE, **values: object) -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.type = kind
        for key, value in values.items():
            setattr(info, key, value)
        return info

    with tarfile.open(tmp_path / "odd.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in (("./a/good", b"1"), ("/etc/passwd", b"2"), ("../../above", b"3"), ("twice", b"4"), ("twice", b"55")):
            tar.addfile(member(name, size=len(data)), io.BytesIO(data))
        tar.addfile(member("link", tarfile.SYMTYPE, linkname="/etc/passwd"))
        tar.addfile(member("hard", tarfile.LNKTYPE, linkname="twice"))
        tar.addfile(member("device", tarfile.CHRTYPE, devmajor=1, devminor=5))
        tar.addfile(member("folder", tarfile.DIRTYPE))
        header = bytearray(member("bomb", b"S").tobuf(tarfile.GNU_FORMAT))
        header[483:495] = tarfile.itn(1 << 40, 12, tarfile.GNU_FORMAT)  # a terabyte of nothing
        header[148:156] = b"%06o\0 " % tarfile.calc_chksums(header[:512])[0]
        tar.fileobj.write(header)
        tar.offset += 512
    files = Files(tmp_path / "odd.tar")
    assert files.names == ["a/good", "twice"]
    assert (files.read("a/good"), files.read("twice")) == (b"1", b"55")
    assert sorted(files.skipped) == [
        ("../../above", "a name that leads out of the archive"),
        ("/etc/passwd", "a name that leads out of the archive"),
        ("bomb", "a sparse member of an archive"),
        ("device", "a device, pipe or socket"),
        ("hard", "a link inside an archive"),
        ("link", "a link inside an archive"),
        ("twice", "an earlier member of the same name, which a later one replaces"),
    ]


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.xz", "tar.bz2"])
def test_a_damaged_archive_is_refused_wherever_the_damage_is(folder: Path, kind: str):
    archive = packed(folder, kind)
    data = archive.read_bytes()
    size = Files(archive)._archive._plain().size
    archive.write_bytes(data[: len(data) // 2])
    with pytest.raises(IngestError, match=r"^source is not a whole tar archive \(\w+\); copy it again or unpack it$"):
        Files(archive)
    if kind == "tar":
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            header = tar.getmembers()[20].offset
        assert 0 < header < size
        archive.write_bytes(data[:header] + b"?" * 512 + data[header + 512 :])  # tarfile alone would take it for the end
        with pytest.raises(IngestError, match=r"not a whole tar archive \(ReadError\)"):
            Files(archive)


def test_real_archives_are_listed_and_read_as_tarfile_does(shared_data: Path):
    for path in sorted(path for path in shared_data.rglob("*.tar*") if path.stat().st_size < 8 << 20):
        files = Files(path)
        with tarfile.open(path) as tar:
            members = {member.name: member for member in tar if member.isfile()}
            assert files.names == sorted(members), path.name
            name = files.names[len(members) // 2]
            assert files.read(name) == tar.extractfile(members[name]).read()
        assert files.skipped == []


def test_many_files_are_listed_without_being_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for i in range(20):
        (tmp_path / f"p{i:03}").mkdir()
        for k in range(100):
            os.close(os.open(tmp_path / f"p{i:03}/{k:03}.dcm", os.O_CREAT))
    monkeypatch.setattr("builtins.open", None)
    files = Files(tmp_path)
    assert (len(files.names), files.names[0], files.names[-1]) == (2_000, "p000/000.dcm", "p019/099.dcm")
