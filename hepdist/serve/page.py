"""The page to drop a study on: one HTML file that loads nothing, under a policy that lets nothing else run."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

PAGE = resources.files("hepdist.serve").joinpath("page.html").read_text(encoding="utf-8")


def _hash_of(tag: str) -> str:
    inside = PAGE.split(f"<{tag}>", 1)[1].split(f"</{tag}>", 1)[0]
    return "'sha256-" + base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode() + "'"


CONTENT_POLICY = (
    f"default-src 'none'; script-src {_hash_of('script')}; style-src {_hash_of('style')}; img-src data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
