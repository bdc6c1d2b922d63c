"""The secret that opens the API: read from a file, or made in one that only its owner may read."""

from __future__ import annotations

import hmac
from pathlib import Path

from hepdist.errors import RunError
from hepdist.ingest.pseudonym import make_secret

SHORTEST = 20
USUAL = Path("~/.config/hepdist/serve_token")


def read_token(path: str | Path | None = None) -> str:
    """The token of `path`, or of the usual file, which is made where it isn't there. Raises RunError."""
    where = Path(path if path is not None else USUAL).expanduser()
    if not where.exists():
        if path is not None:
            raise RunError(f"token file '{where}' does not exist; make one with: (umask 077; openssl rand -hex 32 > {where})")
        make_secret(where)
    if where.stat().st_mode & 0o077:
        raise RunError(f"token file '{where}' can be read by other users of this machine; run: chmod 600 {where}")
    token = where.read_text(encoding="utf-8").strip()
    if len(token) < SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise RunError(
            f"token file '{where}' holds no token of at least {SHORTEST} letters and digits; use: openssl rand -hex 32 > {where}"
        )
    return token


def opens(token: str, header: bytes | None) -> bool:
    """Whether an Authorization header holds the token; takes as long whatever of it is right."""
    scheme, _, given = (header or b"").partition(b" ")
    return hmac.compare_digest(given.strip(), token.encode()) and scheme.lower() == b"bearer"
