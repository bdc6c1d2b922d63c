"""Salted pseudonyms: the only form in which a patient, study, sample or file name, a UID or a date leaves ingest."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from hepdist.errors import IngestError

VARIABLE = "HEPDIST_SALT"
SHORTEST = 16
LARGEST_SHIFT = 3650
"""Days: ten years hide the year of an admission and keep dates before it plausible."""


class Pseudonyms:
    """HMAC-SHA256 of raw keys under a secret salt (RFC 2104), cut to 16 hexadecimal digits (64 bits).

    64 bits are enough: among 10^7 samples some two collide with a probability of 3e-6, among 10^9 with 3 %. Cutting makes them no
    easier to undo, since whoever guesses a patient number still has to guess the salt.
    """

    def __init__(self, salt: bytes):
        self._salt = salt

    def of(self, kind: str, raw: str) -> str:
        """kind ('patient', 'study', 'series', 'sample', 'file', 'split') keeps equal keys of different things apart."""
        return self._digest(kind, raw).hex()[:16]

    def key(self, purpose: str) -> bytes:
        """32 secret bytes for a cipher, the same under one salt."""
        return self._digest("key", purpose)

    def uid(self, raw: str) -> str:
        """The DICOM UID that stands for another one: under root 2.25, of 128 bits, the same in all files (PS3.5 B.2)."""
        return f"2.25.{int.from_bytes(self._digest('uid', raw)[:16], 'big')}"

    def shift_days(self, patient: str) -> int:
        """Days by which all dates of a patient go back, 1 to 3650: intervals stay, the calendar goes. patient: the raw key.

        The same in every source under one salt, so that an EMR and the images of a patient stay in step.
        """
        return 1 + int.from_bytes(self._digest("days", patient)[:8], "big") % LARGEST_SHIFT

    def _digest(self, kind: str, raw: str) -> bytes:
        return hmac.new(self._salt, f"{kind}\0{raw}".encode("utf-8", "surrogateescape"), hashlib.sha256).digest()


def read_salt(path: str | None) -> bytes:
    """The secret: the file named, else $HEPDIST_SALT, else ~/.config/hepdist/salt, which is made where it isn't there.

    Patient numbers can be guessed one by one, so a short salt is refused: it would let anyone undo the pseudonyms.
    Raises IngestError.
    """
    if path is not None:
        return read_secret(Path(path).expanduser(), "salt")
    if os.environ.get(VARIABLE):
        salt, name = os.environ[VARIABLE].strip().encode(), f"${VARIABLE}"
    else:
        where = Path.home() / ".config" / "hepdist" / "salt"
        if not where.exists():
            make_secret(where)
        salt, name = where.read_bytes().strip(), f"salt file '{where}'"
    return _long_enough(salt, name)


def read_secret(path: Path, option: str) -> bytes:
    """What a file holds, without white space around it; option: the ingest key that names it. Raises IngestError."""
    if not path.is_file():
        raise IngestError(f"ingest key '{option}' is '{path}', which is no file; make one with: openssl rand -hex 32 > {path}")
    return _long_enough(path.read_bytes().strip(), f"{option.replace('_', ' ')} file '{path}'")


def _long_enough(secret: bytes, name: str) -> bytes:
    if len(secret) < SHORTEST:
        raise IngestError(
            f"{name} holds {len(secret)} bytes; a secret needs at least {SHORTEST}, such as the output of: openssl rand -hex 32"
        )
    return secret


def make_secret(where: Path) -> None:
    """A new file that its owner alone may read, with 64 random hexadecimal digits; whole or not there, and never in place of another."""
    where.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = where.with_name(f".{where.name}-{os.getpid()}")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    try:
        os.link(part, where)  # unlike a rename, leaves a secret that another process made meanwhile
    except FileExistsError:
        pass
    finally:
        part.unlink()
