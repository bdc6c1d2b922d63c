"""The files of a source, in a folder, a tar archive or alone, read by relative name; knows nothing of what they hold."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import shutil
import tarfile
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any

from hepdist.errors import IngestError

COMPRESSED: dict[bytes, Callable[[Path], Any]] = {b"\x1f\x8b": gzip.GzipFile, b"\xfd7zXZ": lzma.LZMAFile}


class Files:
    """Relative names (posix, sorted) and their bytes. A hash is taken while a file is read, so that the audit costs no second pass."""

    def __init__(self, source: str | Path):
        self.path = Path(source)
        self._hashes: dict[str, str] = {}
        self._tar: tarfile.TarFile | None = None
        self._members: dict[str, tarfile.TarInfo] = {}
        self._lock = threading.Lock()
        if self.path.is_dir():
            self.root: Path | None = self.path
            self.names = sorted(_walk(self.path))
        elif not self.path.is_file():
            raise IngestError(f"source '{source}' does not exist; give a folder, a tar archive or an .npz file")
        elif tarfile.is_tarfile(self.path):
            self.root = None
            self._open_tar()
            self.names = sorted(self._members)
        else:
            self.root = self.path.parent
            self.names = [self.path.name]

    def read(self, name: str) -> bytes:
        """All bytes of one file. Raises OSError where it can't be read."""
        if self._tar is None:
            assert self.root is not None
            data = (self.root / name).read_bytes()
        else:
            with self._lock:  # one file position for all members
                file = self._tar.extractfile(self._members[name])
                assert file is not None
                data = file.read()
            if len(data) != self._members[name].size:
                raise OSError("archive ends inside the file")
        self._hashes[name] = hashlib.sha256(data).hexdigest()
        return data

    def head(self, name: str, size: int) -> bytes:
        """The first bytes of a file; empty where it can't be read."""
        try:
            if self._tar is None:
                assert self.root is not None
                with open(self.root / name, "rb") as file:
                    return file.read(size)
            with self._lock:
                member = self._tar.extractfile(self._members[name])
                return member.read(size) if member else b""
        except OSError:
            return b""

    def sha256(self, name: str) -> str:
        """Of the file's bytes; empty where it can't be read or isn't one of the source's files."""
        if name not in self._hashes:
            try:
                if self._tar is None and self.root is not None:
                    self._hashes[name] = _sha256(self.root / name)
                else:
                    self.read(name)
            except (OSError, KeyError):
                self._hashes[name] = ""
        return self._hashes[name]

    def bytes(self) -> int:
        """Of all files together."""
        if self.root is None or not self.path.is_dir():
            return self.path.stat().st_size
        return sum(os.lstat(self.root / name).st_size for name in self.names)

    def stamps(self) -> str:
        """What changes when any file of the source is changed, added or removed; no file is read for it."""
        if self.root is None or not self.path.is_dir():
            facts = self.path.stat()
            return f"{self.path.name} {facts.st_size} {facts.st_mtime_ns}"
        total = hashlib.sha256()
        for name in self.names:
            facts = os.lstat(self.root / name)
            total.update(f"{name} {facts.st_size} {facts.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
        return total.hexdigest()

    def _open_tar(self) -> None:
        plain: IO[bytes]
        with open(self.path, "rb") as file:
            magic = file.read(6)
        opener = next((o for m, o in COMPRESSED.items() if magic.startswith(m)), None)
        try:  # the archive stays open for as long as this object lives
            if opener is None:
                plain = open(self.path, "rb")  # noqa: SIM115
            else:  # members are read in any order, which a compressed archive answers by unpacking from its start each time
                plain = tempfile.TemporaryFile()  # noqa: SIM115
                with opener(self.path) as packed:
                    shutil.copyfileobj(packed, plain, 1 << 20)
                plain.seek(0)
            self._tar = tarfile.open(fileobj=plain)  # noqa: SIM115
            for member in self._tar:
                if member.isfile():
                    self._members[str(PurePosixPath(member.name))] = member
        except (tarfile.TarError, OSError, EOFError, lzma.LZMAError) as error:
            raise IngestError(f"source is not a whole tar archive ({type(error).__name__}); copy it again or unpack it") from None


def is_hidden(name: str) -> bool:
    """What operating systems leave beside data: .DS_Store, AppleDouble ._x, __MACOSX, Thumbs.db."""
    parts = PurePosixPath(name).parts
    return any(p.startswith(".") or p in ("__MACOSX", "Thumbs.db", "desktop.ini") for p in parts)


def _walk(root: Path) -> list[str]:
    return [str(PurePosixPath(Path(folder, name).relative_to(root))) for folder, _, names in os.walk(root) for name in names]


def _sha256(path: Path) -> str:
    total = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            total.update(block)
    return total.hexdigest()
