"""Random streams and UIDs named by what they are for, so that each part of the phantom depends on the seed and its own name alone."""

from __future__ import annotations

import uuid

import numpy as np


def stream(seed: int, name: str) -> np.random.Generator:
    """The random stream `name` of a cohort: no other stream's draws move it, so adding one leaves the rest of the cohort as it was."""
    return np.random.default_rng([seed, *name.encode()])


def uid(seed: int, name: str) -> str:
    """DICOM UID under the root 2.25 for the object `name` of a cohort: always the same, at most 44 characters.

    DICOM PS3.5 B.2: 2.25 followed by the decimal value of a UUID; here a version 5 UUID (RFC 9562).
    """
    return f"2.25.{uuid.uuid5(_NAMESPACE, f'{seed}/{name}').int}"


_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_OID, "hepdist phantom cohort")
