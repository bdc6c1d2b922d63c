"""The files of a source by relative name, in a folder, a tar archive or alone, on this machine or at a URI; knows nothing of what they hold."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path, PurePosixPath
from typing import IO, Any

from hepdist.errors import IngestError
from hepdist.ingest.archives import Archive, Window, is_tar
from hepdist.ingest.walk import walk
from hepdist.place import Place, place_of
from hepdist.stores import is_uri

HEADER = 1 << 16
"""Bytes that `open` reads at once: the header of nearly every DICOM file, and little of its pixels."""


class NoSource(IngestError):
    """There is nothing at the path."""


class Files:
    """Relative names (posix, sorted) and their bytes. A hash is taken while a file is read, so that the audit costs no second pass.

    Pickles without names and hashes: another process opens the source for itself, once it reads from it. Names that aren't
    UTF-8 hold surrogates (os.fsdecode). A source that can't be reached raises StoreError wherever it is touched: that is no
    fault of a file, which would go to the audit.
    """

    def __init__(self, source: str | Path) -> None:
        """Raises NoSource where there is nothing, IngestError for a damaged archive."""
        self._hashes: dict[str, str] = {}
        self._names: list[str] | None = None
        self._stamps: dict[str, str] = {}
        self._skipped: list[tuple[str, str]] = []
        self._place, self._alone = _locate(source)
        packed = self._alone and is_tar(self._place, self._alone)
        self._archive = Archive(self._place, self._alone) if packed else None
        self._list()

    @property
    def name(self) -> str:
        """Of the folder, the archive or the one file."""
        return self._alone or str(self._place).rstrip("/").rpartition("/")[2]

    @property
    def names(self) -> list[str]:
        """Of all files, sorted; hidden ones too."""
        if self._names is None:
            self._list()
        assert self._names is not None
        return self._names

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """Name and reason of what the source holds beside files: links in a circle, devices, folders and members that can't be read."""
        self.names  # noqa: B018
        return self._skipped

    @property
    def root(self) -> Path | None:
        """The folder of this machine that the files lie in as they are; None in an archive or an object store."""
        return None if self._archive is not None else self._place.folder

    def read(self, name: str) -> bytes:
        """All bytes of one file. Raises OSError where it can't be read."""
        data = self._archive.read(name) if self._archive is not None else self._place.read(name)
        self._hashes[name] = hashlib.sha256(data).hexdigest()
        return data

    def open(self, name: str, buffer: int = HEADER) -> IO[bytes]:
        """One file for reading in any order, `buffer` bytes at once. Raises OSError where it can't be read."""
        if self.root is not None:
            return open(self.root / name, "rb", buffer)
        if self._archive is not None:
            return io.BufferedReader(Window(self._archive.read_at, *self._archive.members[name]), buffer)
        file = self._place.open_input(name)

        def fetch(size: int, offset: int) -> bytes:
            with self._place.reaching():
                return file.read_at(size, offset)

        return io.BufferedReader(Window(fetch, 0, file.size()), buffer)

    def head(self, name: str, size: int) -> bytes:
        """The first bytes of a file; empty where it can't be read."""
        try:
            if self._archive is not None:
                return self._archive.read(name, size)
            with self.open(name, max(size, 1)) as file:
                return file.read(size)
        except OSError:
            return b""

    def sha256(self, name: str) -> str:
        """Of the file's bytes; empty where it can't be read or isn't one of the source's files."""
        if name not in self._hashes:
            try:
                if self.root is not None:
                    self._hashes[name] = _sha256(self.root / name)
                else:
                    self.read(name)
            except (OSError, KeyError):
                self._hashes[name] = ""
        return self._hashes[name]

    def below(self, path: str) -> list[str]:
        """The names of the file at `path`, or of all files in the folder there: a name of this source, or a path or URI that leads into it."""
        inside = path.rstrip("/")
        if self._archive is None and self._place.folder is None and path.startswith(f"{self._place}/"):
            inside = path[len(str(self._place)) :].strip("/")
        elif self.root is not None and Path(path).exists():
            here, root = Path(path).resolve(), self.root.resolve()
            if not here.is_relative_to(root):
                return []
            inside = here.relative_to(root).as_posix()
        return [name for name in self.names if name == inside or inside == "." or name.startswith(f"{inside}/")]

    def stamp(self, name: str) -> str:
        """Differs once the file was written again: its size and time of change, or those of its archive and its place in it.

        Raises OSError where the file isn't there.
        """
        if self._archive is not None:
            offset, size = self._archive.members[name]
            return f"{self._archive.stamp}-{offset}-{size}"
        return self._stamps.get(name) or self._place.stamp(name)

    def stamps(self) -> dict[str, str]:
        """Of every file, without reading any; empty for one that vanished meanwhile."""
        return {name: self._stamp_or_none(name) for name in self.names}

    def bytes(self) -> int:
        """Of all files together, as they lie there; 0 for one that vanished meanwhile."""
        if self._archive is not None:
            return self._place.size(self._alone)
        return sum(self._size_or_none(name) for name in self.names)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_names": None, "_hashes": {}, "_stamps": {}, "_skipped": []}

    def _list(self) -> None:
        """Find the names. A store tells the stamps with them, so that asking for them costs nothing."""
        if self._archive is not None:
            self._names, self._skipped = list(self._archive.members), self._archive.skipped
        elif self._alone:
            self._names = [self._alone]
        elif self._place.folder is not None:
            self._names, self._skipped = walk(self._place.folder)
        else:
            self._stamps = dict(self._place.stamps())
            self._names = sorted(self._stamps)

    def _size_or_none(self, name: str) -> int:
        try:
            return self._place.size(name)
        except OSError:
            return 0

    def _stamp_or_none(self, name: str) -> str:
        try:
            return self.stamp(name)
        except OSError:
            return ""


def file_at(path: str | Path) -> tuple[Place, str]:
    """The folder and the name of one file on this machine or at a URI; neither need exist. Raises StoreError for a URI that can't work."""
    if isinstance(path, str) and is_uri(path):
        place = place_of(path)
        above, _, name = str(place).rpartition("/")
        return (place, "") if above.endswith("/") else (place_of(above), name)  # a bucket is no file
    return place_of(Path(path).parent), Path(path).name


def is_hidden(name: str) -> bool:
    """What operating systems leave beside data: .DS_Store, AppleDouble ._x, __MACOSX, Thumbs.db."""
    parts = PurePosixPath(name).parts
    return any(p.startswith(".") or p in ("__MACOSX", "Thumbs.db", "desktop.ini") for p in parts)


def _locate(source: str | Path) -> tuple[Place, str]:
    """The folder of a source, and the name of the one file that it is, or ''."""
    place = place_of(source)
    if place.folder is not None and place.folder.is_dir():
        return place, ""
    parent, name = file_at(source)
    if not name:
        return place, ""
    if parent.exists(name):
        return parent, name
    if place.folder is None and next(place.names(), None) is not None:
        return place, ""
    raise NoSource(f"source '{source}' does not exist; give a folder, a tar archive or an .npz file")


def _sha256(path: Path) -> str:
    total = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            total.update(block)
    return total.hexdigest()
