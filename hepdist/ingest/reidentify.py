"""The way back from pseudonyms to raw keys: an encrypted file, written only where it is asked for and never inside a cohort.

Layout: MAGIC, 16 bytes of scrypt salt, then frames of a 4-byte length and AES-256-GCM ciphertext of zlib-packed JSON lines. A frame's
nonce is its number; its number and whether it is the last are authenticated, so that frames can't be cut off, swapped or repeated
(the STREAM construction: Hoang et al., CRYPTO 2015). The key is new for each file, since its salt is.
"""

from __future__ import annotations

import json
import os
import secrets
import struct
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from hepdist.errors import IngestError
from hepdist.ingest.pseudonym import Pseudonyms, read_secret

MAGIC = b"hepdist reidentification 1\n"
KINDS = ("patient", "study", "series", "sample", "file")
SCRYPT = {"n": 2**16, "r": 8, "p": 1}
"""64 MiB and a fifth of a second: a key file may hold a passphrase, which someone may try to guess."""
FRAME = 1 << 16
"""Entries a frame: some 8 MB before packing."""
LARGEST_FRAME = 1 << 28


class Entry(NamedTuple):
    kind: str
    """Of KINDS."""
    pseudonym: str
    raw: str


class MapWriter:
    """Entries to a file of mode 0600, which appears under its name when all is written, and not at all where an error leaves the block.

    with MapWriter(path, key_file, names, cohort) as entries:
        entries.add("patient", "P-0017")

    cohort: its folder; None: it is in no folder of this machine. Holds one frame in memory. Keys said again are written once a frame. Raises IngestError where the path, or the key file, is inside
    the cohort's folder, or where something that is no such map is at the path.
    """

    def __init__(self, path: str | Path, key_file: str | Path, names: Pseudonyms, cohort: str | Path | None):
        self._path, self._names = Path(path), names
        self._frame: dict[tuple[str, str], None] = {}
        self._number = 0
        secret = read_key(key_file)
        refuse_place(self._path, cohort, "reidentification_map")
        refuse_place(Path(key_file), cohort, "reidentification_key")
        salt = secrets.token_bytes(16)
        self._cipher = _cipher(secret, salt)
        self._part = self._path.with_name(f".{self._path.name}.{os.getpid()}.part")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._part.unlink(missing_ok=True)
            self._file: BinaryIO = os.fdopen(os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        except OSError as error:
            raise IngestError(f"ingest key 'reidentification_map': the file can't be written ({error.strerror}); name another") from None
        self._file.write(MAGIC + salt)

    def add(self, kind: str, raw: str) -> None:
        """Nothing for an empty key: such a thing has no pseudonym."""
        assert kind in KINDS
        if raw:
            self._frame[kind, raw] = None
            if len(self._frame) == FRAME:
                self._write(last=False)

    def __enter__(self) -> MapWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self._write(last=True)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._part, self._path)
        else:
            self._file.close()
            self._part.unlink(missing_ok=True)

    def _write(self, last: bool) -> None:
        lines = (json.dumps([kind, self._names.of(kind, raw), raw]) for kind, raw in self._frame)
        sealed = self._cipher.encrypt(_nonce(self._number), zlib.compress("\n".join(lines).encode()), _place(self._number, last))
        self._file.write(struct.pack("<I", len(sealed)) + sealed)
        self._frame.clear()
        self._number += 1


def reidentify(path: str | Path, key_file: str | Path, pseudonyms: Collection[str] = ()) -> Iterator[Entry]:
    """The entries of a map, each once; pseudonyms: only those of them, whole or by their first digits (at least 4).

    Raises IngestError where the file is no map, was changed or cut, or the key is another one.
    """
    secret = read_key(key_file)
    wanted = tuple(p.strip().rstrip("…").lower() for p in pseudonyms)
    if short := [p for p in wanted if len(p) < 4]:
        raise IngestError(f"pseudonym '{short[0]}' is too short to name one; give at least its first 4 digits")
    seen: set[tuple[str, str]] = set()
    try:
        with open(path, "rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise IngestError("the file is no re-identification map; give the one that reidentification_map named at ingest")
            for frame in _frames(file, _cipher(secret, file.read(16))):
                for line in frame.splitlines():
                    entry = Entry(*json.loads(line))
                    if (not wanted or entry.pseudonym.startswith(wanted)) and (entry.kind, entry.pseudonym) not in seen:
                        seen.add((entry.kind, entry.pseudonym))
                        yield entry
    except OSError as error:
        raise IngestError(f"the re-identification map can't be read ({error.strerror}); check its path") from None


def read_key(key_file: str | Path) -> bytes:
    """The secret in a key file: a random text or a passphrase of at least 16 bytes. Raises IngestError."""
    return read_secret(Path(key_file).expanduser(), "reidentification_key")


def refuse_place(path: Path, cohort: str | Path | None, option: str) -> None:
    """Raises IngestError where `path` would be handed on together with the cohort, or is a file that must not be replaced."""
    if cohort is not None and path.resolve().is_relative_to(Path(cohort).resolve()):
        raise IngestError(f"ingest key '{option}' names a file inside the cohort, which is handed on without it; name one elsewhere")
    if option == "reidentification_map" and path.exists() and not _is_map(path):
        raise IngestError(f"ingest key '{option}' names something that exists and is no such map; name another file")


def _is_map(path: Path) -> bool:
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _frames(file: BinaryIO, cipher: AESGCM) -> Iterator[bytes]:
    number, last = 0, False
    while not last:
        size = struct.unpack("<I", file.read(4).ljust(4, b"\0"))[0]
        sealed = file.read(size) if size <= LARGEST_FRAME else b""
        ahead = file.read(1)
        file.seek(-len(ahead), os.SEEK_CUR)
        last = not ahead
        try:
            packed = cipher.decrypt(_nonce(number), sealed, _place(number, last))
        except (InvalidTag, ValueError):
            raise IngestError("the re-identification map can't be opened: the key is another one, or the file was changed or cut") from None
        yield zlib.decompress(packed)
        number += 1


def _cipher(secret: bytes, salt: bytes) -> AESGCM:
    return AESGCM(Scrypt(salt=salt.ljust(16, b"\0"), length=32, **SCRYPT).derive(secret))


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")


def _place(number: int, last: bool) -> bytes:
    return MAGIC + struct.pack("<Q?", number, last)
