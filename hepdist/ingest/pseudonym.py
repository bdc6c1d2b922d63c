"""Salted pseudonyms: the only form in which a patient, study, sample or file name leaves ingest."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from hepdist.errors import IngestError

VARIABLE = "HEPDIST_SALT"
SHORTEST = 16


class Pseudonyms:
    """HMAC-SHA256 of raw keys under a secret salt, cut to 16 hexadecimal digits (64 bits)."""

    def __init__(self, salt: bytes):
        self._salt = salt

    def of(self, kind: str, raw: str) -> str:
        """kind ('patient', 'study', 'sample', 'file', 'split') keeps equal keys of different things apart."""
        return hmac.new(self._salt, f"{kind}\0{raw}".encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()[:16]


def read_salt(path: str | None) -> bytes:
    """The secret: the file named, else $HEPDIST_SALT, else ~/.config/hepdist/salt, which is made where it isn't there.

    Patient numbers can be guessed one by one, so a short salt is refused: it would let anyone undo the pseudonyms.
    Raises IngestError.
    """
    if path is not None:
        where = Path(path).expanduser()
        if not where.is_file():
            raise IngestError(f"ingest key 'salt' is '{path}', which is no file; make one with: openssl rand -hex 32 > {path}")
        salt, name = where.read_bytes().strip(), f"salt file '{path}'"
    elif os.environ.get(VARIABLE):
        salt, name = os.environ[VARIABLE].strip().encode(), f"${VARIABLE}"
    else:
        where = Path.home() / ".config" / "hepdist" / "salt"
        if not where.exists():
            _make(where)
        salt, name = where.read_bytes().strip(), f"salt file '{where}'"
    if len(salt) < SHORTEST:
        raise IngestError(
            f"{name} holds {len(salt)} bytes; a secret needs at least {SHORTEST}, such as the output of: openssl rand -hex 32"
        )
    return salt


def _make(where: Path) -> None:
    where.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = where.with_name(f".salt-{os.getpid()}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    try:
        os.link(part, where)  # unlike a rename, leaves a salt that another process made meanwhile
    except FileExistsError:
        pass
    finally:
        part.unlink()
