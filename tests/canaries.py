"""Unique strings to plant in files, and a search for them in any encoding in everything that a run leaves behind; asserts nothing."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import logging
import os
import re
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from urllib.parse import quote

import pyarrow.parquet as pq

MARK = "QXKZJVWP"
"""In every planted text, so that a search for one string finds them all; no word, no base64 of zeros, nothing that occurs by chance."""
HAN = "龘靐齉"
"""The same for Chinese texts."""
ROOT = "1.2.826.0.1.3680043.99.7364519."
"""The same for UIDs."""
DAYS = [date(1700, 1, 1) + timedelta(days=487 * k) for k in range(60)]
_FORMS = ("%Y%m%d", "%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d%m%Y", "%d %b %Y", "%b %d, %Y")
WRITTEN = [day.strftime(form).encode() for day in DAYS for form in _FORMS]


@dataclass
class Canaries:
    """Makes the strings and remembers them, for the search for their hashes."""

    planted: list[str] = field(default_factory=list)
    asked: int = 0
    """Dates handed out."""

    def text(self) -> str:
        """14 capitals and digits: fits every text element, file name and cell."""
        return self._planted(f"{MARK}{len(self.planted):06d}")

    def name(self) -> str:
        return self._planted(f"{MARK}{len(self.planted):06d}^{HAN}")

    def uid(self) -> str:
        return self._planted(f"{ROOT}{len(self.planted) + 1}")

    def date(self) -> str:
        """YYYYMMDD: one of 60 days in the years 1700 to 1780, where no date of a study and no version lies."""
        self.asked += 1
        return DAYS[self.asked % len(DAYS)].strftime("%Y%m%d")

    def leaks(self, data: bytes) -> list[str]:
        """How planted strings occur in `data`: 'base64', 'utf-16-le', 'sha256 of ...'; empty where none does."""
        found = [name for name, needle in needles().items() if needle in data]
        upper = data.upper()
        found += [
            f"{name}, other case" for name, needle in needles().items() if name in _CASED and needle.upper() in upper and name not in found
        ]
        runs = {run[i : i + 16] for run in re.findall(rb"[0-9a-f]{16,}", data.lower()) for i in range(min(len(run) - 15, 1024))}
        found += [self._hashes[run.decode()] for run in runs if run.decode() in self._hashes]
        return found + [f"date {text.decode()}" for text in WRITTEN if text in data]

    def _planted(self, text: str) -> str:
        self.planted.append(text)
        self.__dict__.pop("_hashes_", None)
        return text

    @property
    def _hashes(self) -> dict[str, str]:
        """The first 16 digits of unsalted hashes of every planted string, alone and as a pseudonym's key."""
        if "_hashes_" not in self.__dict__:
            kinds = ("", "patient\0", "study\0", "series\0", "sample\0", "file\0")
            self.__dict__["_hashes_"] = {
                hashlib.new(how, f"{kind}{text}".encode()).hexdigest()[:16]: f"{how} of {kind!r}"
                for text in self.planted
                for how in ("sha256", "sha1", "md5")
                for kind in (kinds if how == "sha256" else ("",))
            }
        return self.__dict__["_hashes_"]


_CASED = ("utf-8", "utf-16-le", "utf-16-be", "backwards")


@cache
def needles() -> dict[str, bytes]:
    """What betrays a planted text, by the encoding it is in."""
    found: dict[str, bytes] = {}
    for what, text in (("", MARK), ("han ", HAN), ("uid ", ROOT)):
        for encoding in ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "gb18030"):
            found[f"{what}{encoding}"] = text.encode(encoding)
        for encoding in ("utf-8", "gb18030", "utf-16-le") if text == HAN else ("utf-8", "utf-16-le"):
            data = text.encode(encoding)
            for shift in range(3):  # base64 depends on where in its three bytes a text begins; the ends depend on the neighbours
                packed = base64.b64encode(b"\0" * shift + data)
                first, last = -(-shift * 8 // 6), (shift + len(data)) * 8 // 6
                found[f"{what}base64 of {encoding} at {shift}"] = packed[first:last]
                found[f"{what}urlsafe base64 of {encoding} at {shift}"] = packed[first:last].translate(bytes.maketrans(b"+/", b"-_"))
            found[f"{what}hex of {encoding}"] = data.hex().encode()
            found[f"{what}HEX of {encoding}"] = data.hex().upper().encode()
            found[f"{what}backwards of {encoding}"] = data[::-1]
            found[f"{what}byte pairs swapped of {encoding}"] = bytes(data[i ^ 1] for i in range(len(data) & ~1))
            found[f"{what}repr of {encoding}"] = repr(data)[2:-1].encode()
        found[f"{what}quoted"] = quote(text).encode()
        found[f"{what}json"] = json.dumps(text)[1:-1].encode()
        found[f"{what}backwards"] = text[::-1].encode()
    return found


def search(canaries: Canaries, folder: Path) -> list[str]:
    """Every place of a planted string in the names and bytes of a folder's files, in Parquet also in the values and the metadata."""
    found = []
    for path in sorted(folder.rglob("*")):
        for part, data in _parts(path, path.relative_to(folder).as_posix()):
            found += [f"{path.name}, {part}: {leak}" for leak in canaries.leaks(data)]
    return found


def _parts(path: Path, name: str) -> Iterator[tuple[str, bytes]]:
    yield "name", name.encode("utf-8", "surrogateescape")
    if path.is_file():
        yield "bytes", path.read_bytes()
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                yield "metadata", f"{file.metadata.metadata}{file.schema_arrow.metadata}{file.metadata.to_dict()}".encode()
                table = file.read()
            for column in table.schema:
                yield f"meaning of {column.name}", repr(column.metadata).encode() + column.name.encode()
                values = [v if isinstance(v, bytes) else str(v).encode() for v in table[column.name].to_pylist() if v is not None]
                yield f"column {column.name}", b"\n".join(values)


@dataclass
class Heard:
    """What a run said, all of it: descriptors 1 and 2 (also of C libraries), log records of any level, warnings, the error raised."""

    said: bytes = b""
    error: BaseException | None = None


@contextlib.contextmanager
def listening() -> Iterator[Heard]:
    """Run the block, its exceptions included, and keep what it says."""
    heard, log = Heard(), io.StringIO()
    handler = logging.StreamHandler(log)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(1)
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        kept = [(fd, os.dup(fd)) for fd in (1, 2)]
        try:
            for fd, _ in kept:
                os.dup2(file.fileno(), fd)
            with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                try:
                    yield heard
                except Exception as error:
                    heard.error = error
                    log.write("".join(traceback.format_exception(error)))
        finally:
            for fd, copy in kept:
                os.dup2(copy, fd)
                os.close(copy)
            root.setLevel(level)
            root.removeHandler(handler)
        file.seek(0)
        heard.said = b"\n".join(
            [file.read(), log.getvalue().encode("utf-8", "surrogateescape"), *(str(w.message).encode() for w in warned)]
        )


ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "utf-8": str.encode,
    "utf-16-le": lambda text: text.encode("utf-16-le"),
    "utf-16-be": lambda text: text.encode("utf-16-be"),
    "latin-1": lambda text: text.encode("latin-1", "replace"),
    "gb18030": lambda text: text.encode("gb18030"),
    "base64": lambda text: base64.b64encode(text.encode()),
    "base64 inside another text": lambda text: base64.b64encode(f"x{text}y".encode()),
    "url-safe base64": lambda text: base64.urlsafe_b64encode(f"xx{text}".encode()),
    "hex": lambda text: text.encode().hex().encode(),
    "HEX": lambda text: text.encode().hex().upper().encode(),
    "quoted for a URL": lambda text: quote(text).encode(),
    "JSON": lambda text: json.dumps(text).encode(),
    "repr of bytes": lambda text: repr(text.encode()).encode(),
    "lower case": lambda text: text.lower().encode(),
    "upper case": lambda text: text.upper().encode(),
    "backwards": lambda text: text[::-1].encode(),
    "swapped byte pairs": lambda text: bytes(text.encode()[i ^ 1] for i in range(len(text.encode()) & ~1)),
    "unsalted sha256": lambda text: hashlib.sha256(text.encode()).hexdigest().encode(),
    "the start of an unsalted sha256": lambda text: hashlib.sha256(text.encode()).hexdigest()[:16].encode(),
    "unsalted sha256 of a pseudonym's key": lambda text: hashlib.sha256(f"patient\0{text}".encode()).hexdigest().encode(),
    "md5": lambda text: hashlib.md5(text.encode()).hexdigest().encode(),
}
"""The ways in which a planted string may get out, for the test that the search finds each."""
