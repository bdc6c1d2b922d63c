"""A folder for reading and writing by relative name, the same on this machine and in an object store; what the files hold is not its matter.

A file is never seen half-written: locally it is written aside, synced and renamed; an object appears when its upload is complete.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from hepdist.errors import HepdistError
from hepdist.stores import explained, file_system, is_outage, is_uri, no_bucket

BLOCK = 8 << 20
"""Bytes of a read where a file is read through: one request to a store."""
PART = ".part"
"""How the name of a file that is being written ends; it starts with a dot."""


def place_of(path: str | Path | Place) -> Place:
    """The folder at a local path or a URI; it need not exist. Raises StoreError for a URI of no known kind."""
    if isinstance(path, Place):
        return path
    return RemotePlace(path) if isinstance(path, str) and is_uri(path) else LocalPlace(path)


def absolute(path: str) -> str:
    """A path that holds in another process's working folder; a URI as it is."""
    return path if is_uri(path) else str(Path(path).resolve())


class Place(ABC):
    """A folder. Names are relative, with '/'. What isn't there raises FileNotFoundError; a store that can't be reached, StoreError.

    Pickles as its path or URI; each process connects for itself.
    """

    folder: Path | None
    """Where it is on this machine; None in an object store."""

    @abstractmethod
    def __str__(self) -> str:
        """The path or URI, as it was given."""

    @abstractmethod
    def open_input(self, name: str) -> pa.NativeFile:
        """A file for reading in any order; `read_at(size, offset)` may be called from several threads."""

    @abstractmethod
    def size(self, name: str) -> int:
        """Bytes of a file."""

    @abstractmethod
    def stamp(self, name: str) -> str:
        """Size and time of change: differs once a file was written again."""

    @abstractmethod
    def stamps(self, prefix: str = "") -> Iterator[tuple[str, str]]:
        """Name and stamp of every file in the folder `prefix` and below, in no order; none where it isn't there."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """A file from memory, in place of what was there."""

    @abstractmethod
    def upload(self, name: str, path: str | Path) -> None:
        """A file from one of this machine, which stays."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Not an error where the file isn't there."""

    @abstractmethod
    def remove_tree(self, prefix: str = "") -> None:
        """The folder `prefix` and all in it; not an error where it isn't there."""

    def read(self, name: str) -> bytes:
        with self.reaching(), self.open_input(name) as file:
            return file.read()

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""
        try:
            self.size(name)
        except FileNotFoundError:
            return False
        return True

    def names(self, prefix: str = "") -> Iterator[str]:
        """Every file in the folder `prefix` and below, in no order."""
        return (name for name, _ in self.stamps(prefix))

    def sha256(self, name: str) -> str:
        total = hashlib.sha256()
        with self.reaching(), self.open_input(name) as file:
            while block := file.read(BLOCK):
                total.update(block)
        return total.hexdigest()

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A path on this machine to write to; the file appears under `name` when the block ends, and never if it raises."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "file"
            yield path
            self.upload(name, path)

    @contextmanager
    def reaching(self) -> Iterator[None]:
        """For work with an opened file: what fails on the way to a store is a StoreError, what fails over the contents stays what it is."""
        try:
            yield
        except Exception as error:
            if self.folder is None and not isinstance(error, HepdistError) and is_outage(error):
                raise explained(str(self), error) from None
            raise


class LocalPlace(Place):
    """A folder of this machine, or of one that is mounted."""

    def __init__(self, folder: str | Path) -> None:
        self.folder: Path = Path(folder)

    def __str__(self) -> str:
        return str(self.folder)

    def open_input(self, name: str) -> pa.NativeFile:
        return pa.OSFile(str(self.folder / name))

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def size(self, name: str) -> int:
        return self._stat(name).st_size

    def stamp(self, name: str) -> str:
        return _stamp(self._stat(name))

    def stamps(self, prefix: str = "") -> Iterator[tuple[str, str]]:
        return ((name, _stamp(entry.stat())) for name, entry in self._entries(prefix))

    def names(self, prefix: str = "") -> Iterator[str]:
        return (name for name, _ in self._entries(prefix))

    def write(self, name: str, data: bytes) -> None:
        with self.writing(name) as path:
            path.write_bytes(data)

    def upload(self, name: str, path: str | Path) -> None:
        with self.writing(name) as part:
            shutil.copyfile(path, part)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{secrets.token_hex(4)}{PART}")
        try:
            yield part
            _sync(part)
            part.replace(target)
            _sync(target.parent)  # the rename too outlives a power cut
        finally:
            part.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    def remove_tree(self, prefix: str = "") -> None:
        shutil.rmtree(self.folder / prefix, ignore_errors=True)

    def _stat(self, name: str) -> os.stat_result:
        try:
            found = os.stat(self.folder / name)
        except NotADirectoryError:
            raise FileNotFoundError(errno.ENOENT, "no folder") from None
        if not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError(errno.ENOENT, "no file")
        return found

    def _entries(self, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
        folders = [prefix.strip("/")]
        while folders:
            inside = folders.pop()
            try:
                found = os.scandir(self.folder / inside)
            except (FileNotFoundError, NotADirectoryError):
                continue
            with found:
                for entry in found:
                    name = f"{inside}/{entry.name}" if inside else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(name)
                    elif entry.is_file() and not (entry.name.startswith(".") and entry.name.endswith(PART)):  # of a writer that was killed
                        yield name, entry


class RemotePlace(Place):
    """A folder of an object store: a prefix of names."""

    folder = None

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self._store, self._root = file_system(uri)

    def __str__(self) -> str:
        return self.uri

    def __reduce__(self) -> tuple[type[RemotePlace], tuple[str]]:
        return RemotePlace, (self.uri,)

    def open_input(self, name: str) -> pa.NativeFile:
        with self._asking():
            return self._store.open_input_file(self._path(name))

    def size(self, name: str) -> int:
        return self._info(name).size

    def stamp(self, name: str) -> str:
        return _stamp_of(self._info(name))

    def stamps(self, prefix: str = "") -> Iterator[tuple[str, str]]:
        folder = self._path(prefix).rstrip("/")
        try:
            with self._asking():
                found = self._store.get_file_info(fs.FileSelector(folder, recursive=True))
        except FileNotFoundError:
            return
        for info in found:
            if info.type == fs.FileType.File:
                yield info.path[len(self._root) + 1 :], _stamp_of(info)

    def write(self, name: str, data: bytes) -> None:
        with self._asking(), self._writer(name) as out:
            out.write(data)

    def upload(self, name: str, path: str | Path) -> None:
        size, sent = os.path.getsize(path), 0
        try:
            with open(path, "rb") as file, self._asking(), self._writer(name) as out:
                while block := file.read(BLOCK):
                    out.write(block)
                    sent += len(block)
        finally:  # leaving the block completes the object, even where reading the file failed half-way
            if sent != size and self.exists(name) and self.size(name) == sent:
                self.remove(name)

    def remove(self, name: str) -> None:
        try:
            with self._asking():
                self._store.delete_file(self._path(name))
        except FileNotFoundError:
            pass

    def remove_tree(self, prefix: str = "") -> None:
        with self._asking():
            self._store.delete_dir_contents(self._path(prefix).rstrip("/"), missing_dir_ok=True)

    def _writer(self, name: str) -> pa.NativeFile:
        return self._store.open_output_stream(self._path(name), compression=None)  # by default, a file called .gz is packed once more

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _info(self, name: str) -> fs.FileInfo:
        with self._asking():
            info = self._store.get_file_info(self._path(name))
            if info.type != fs.FileType.File:
                raise FileNotFoundError(errno.ENOENT, "no object")
            return info

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """For a request of its own, which fails for no other reason than the store; S3 says of a missing bucket only that a file is missing."""
        try:
            yield
        except FileNotFoundError:
            if not self._has_bucket():
                raise no_bucket(self.uri) from None
            raise
        except HepdistError:
            raise
        except Exception as error:  # pyarrow raises OSError, adlfs whatever azure-core does
            raise explained(self.uri, error) from None

    def _has_bucket(self) -> bool:
        try:
            return self._store.get_file_info(self._root.split("/")[0]).type != fs.FileType.NotFound
        except OSError:  # who may read a folder need not have the right to ask for the bucket
            return True


def _stamp(found: os.stat_result) -> str:
    return f"{found.st_size}-{found.st_mtime_ns}"


def _stamp_of(info: fs.FileInfo) -> str:
    return f"{info.size}-{info.mtime_ns}"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
