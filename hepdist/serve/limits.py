"""What one request may ask of the server, and the refusal that says so; knows neither HTTP servers nor models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Each is held against what a request claims before anything of that size is made."""

    upload: int = 512 * MIB
    """Bytes of a request's body: a CT of 900 uncompressed slices."""
    files: int = 2000
    """In a request, those of its archives included."""
    unpacked: int = 1024 * MIB
    """Bytes that the archives of a request unpack to."""
    voxels: int = 200_000_000
    """Of all images of a request, once decoded: a CT of 512 x 512 x 762."""
    results: int = 32
    """Images and volumes of one request that are predicted."""
    waiting: int = 64
    """Requests to predict that are taken at once; more are told to come again."""
    field: int = 4 * MIB
    """Bytes of EMR values."""


class Problem(Exception):
    """A request that is refused: a status, what is wrong and how to mend it. Nothing in it comes from the request but numbers and places."""

    def __init__(self, status: int, error: str, fix: str, *, left_out: Sequence[Mapping[str, Any]] = ()) -> None:
        """left_out: of each file, why it could not be used: {'file': its number or None, 'check': ..., 'reason': ...}."""
        super().__init__(error)
        self.status, self.error, self.fix, self.left_out = status, error, fix, list(left_out)

    def body(self) -> dict[str, Any]:
        told: dict[str, Any] = {"error": self.error, "fix": self.fix}
        return {**told, "left_out": self.left_out} if self.left_out else told


def too_large(what: str, most: str) -> Problem:
    return Problem(413, f"{what} than the {most} that this server accepts", "send less, or start the server with a higher limit")
