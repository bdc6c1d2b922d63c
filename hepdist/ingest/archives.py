"""Tar archives, plain or packed, local or in an object store: where each member lies, and its bytes by offset in any process."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import PurePosixPath
from typing import IO, Any, NamedTuple

import pyarrow as pa

from hepdist.errors import IngestError
from hepdist.place import Place, place_of

ReadAt = Callable[[int, int], bytes]
"""(size, offset) to bytes; fewer at the end of the file."""
PACKED: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"\xfd7zXZ": lzma.LZMAFile,
    b"BZh": bz2.BZ2File,
}
"""How to unpack what begins like this."""
UNPACKING = (tarfile.TarError, OSError, EOFError, lzma.LZMAError, zlib.error)
DAMAGE = (*UNPACKING, ValueError)
"""What a broken archive makes Python's readers raise; ValueError comes from numbers in extended headers."""
WALKED = 1 << 20
"""Bytes of an archive that are read at once on the way from header to header."""


class Archive:
    """The members of one archive: found once by walking all headers, then read by position. Pickles with what was found."""

    def __init__(self, place: Place, name: str) -> None:
        """Raises IngestError where the archive is not whole."""
        self._place, self._name = place, name
        self.stamp = place.stamp(name)
        self.members: dict[str, tuple[int, int]] = {}
        """By name, sorted: first byte in the unpacked archive, and bytes."""
        self.skipped: list[tuple[str, str]] = []
        """Name and reason of what is no regular file, or has no name that stays in the archive."""
        try:
            self._walk()
        except DAMAGE as error:
            raise IngestError(f"source is not a whole tar archive ({type(error).__name__}); copy it again or unpack it") from None

    def read(self, name: str, size: int | None = None) -> bytes:
        """A member's bytes, or the first `size` of them. Raises OSError where the archive ends before it should, or was changed."""
        offset, there = self.members[name]
        wanted = there if size is None else min(size, there)
        data = self.read_at(wanted, offset)
        if len(data) != wanted:
            raise OSError("archive ends inside the file")
        return data

    def read_at(self, size: int, offset: int) -> bytes:
        return self._plain().read_at(size, offset)

    def _plain(self) -> Plain:
        return _opened(str(self._place), self._name, self.stamp)

    def _walk(self) -> None:
        found: dict[str, tuple[int, int]] = {}
        buffered = io.BufferedReader(Window(self.read_at, 0, self._plain().size), WALKED)
        with tarfile.open(fileobj=buffered, mode="r:") as tar:
            last = -1
            while (member := tar.next()) is not None:
                if tar.offset <= last or member.size < 0:
                    raise tarfile.ReadError("a size is negative")  # and would lead back, for ever
                last = tar.offset
                tar.members.clear()  # type: ignore[attr-defined]  # which else hold a kilobyte each
                name = str(PurePosixPath(member.name))
                if reason := _unfit(member, name):
                    self.skipped.append((name, reason))
                elif not member.isdir():
                    if name in found:
                        self.skipped.append((name, "an earlier member of the same name, which a later one replaces"))
                    found[name] = member.offset_data, member.size
            if self.read_at(tarfile.BLOCKSIZE, tar.offset).strip(b"\0"):  # tarfile takes a damaged header for the end
                raise tarfile.ReadError("a header is damaged")
        self.members = dict(sorted(found.items()))


class Plain(NamedTuple):
    """An archive without its packing."""

    read_at: ReadAt
    size: int


class Window(io.RawIOBase):
    """A part of something that is read by offset, as a file of its own."""

    def __init__(self, read_at: ReadAt, start: int, size: int) -> None:
        super().__init__()
        self._read_at, self._start, self._size, self._at = read_at, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), max(0, self._size - self._at))
        data = self._read_at(size, self._start + self._at) if size else b""
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def is_tar(place: Place, name: str) -> bool:
    """Whether a file begins with a tar header, packed or not."""
    try:
        with place.reaching(), place.open_input(name) as file, _unpacked(file) as plain:
            tarfile.TarInfo.frombuf(plain.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    except UNPACKING:  # packed, and broken in its first block
        return ".tar" in name or name.endswith((".tgz", ".txz", ".tbz2"))
    return True


def _unfit(member: tarfile.TarInfo, name: str) -> str:
    """The reason to leave a member out; empty for plain files and folders."""
    if member.isdir():
        return ""
    if name.startswith("/") or ".." in PurePosixPath(name).parts:
        return "a name that leads out of the archive"
    if member.issym() or member.islnk():
        return "a link inside an archive"
    if not member.isfile():
        return "a device, pipe or socket"
    if member.sparse is not None:  # a kilobyte can say that it is a terabyte
        return "a sparse member of an archive"
    return ""


@lru_cache(maxsize=4)
def _opened(place: str, name: str, stamp: str) -> Plain:
    """The archive's plain bytes, open for as long as the process lives.

    Members are read in any order, which a packed archive answers by unpacking from its start each time: it is unpacked once a
    process, into a file without a name, which is gone with the process however that ends. Raises OSError where the archive is
    not the one that `stamp` says.
    """
    where = place_of(place)
    if where.stamp(name) != stamp:
        raise OSError("the archive was changed while it was read")
    source = where.open_input(name)
    if source.read(max(map(len, PACKED))).startswith(tuple(PACKED)):
        scratch = tempfile.TemporaryFile()  # noqa: SIM115
        with where.reaching(), source, _unpacked(source) as plain:
            shutil.copyfileobj(plain, scratch, WALKED)
        scratch.flush()
        return Plain(_pread(scratch), scratch.tell())
    if where.folder is not None:
        return Plain(_pread(open(where.folder / name, "rb")), source.size())
    return Plain(partial(_fetch, where, source), source.size())


def _pread(file: IO[bytes]) -> ReadAt:
    """By position, so that threads share none."""

    def read_at(size: int, offset: int) -> bytes:
        data = os.pread(file.fileno(), size, offset)
        while len(data) < size and (more := os.pread(file.fileno(), size - len(data), offset + len(data))):  # 2 GiB a call at most
            data += more
        return data

    return read_at


def _fetch(place: Place, source: pa.NativeFile, size: int, offset: int) -> bytes:
    with place.reaching():
        return source.read_at(size, offset)


def _unpacked(file: Any) -> Any:
    """The stream, through whatever unpacks it."""
    file.seek(0)
    magic = file.read(max(map(len, PACKED)))
    file.seek(0)
    opener = next((opener for start, opener in PACKED.items() if magic.startswith(start)), None)
    buffered = io.BufferedReader(file, WALKED)
    return opener(buffered) if opener else buffered
