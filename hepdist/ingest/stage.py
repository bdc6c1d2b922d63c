"""Where samples wait on disk between reading and writing: their arrays in one file, their facts in memory, a few hundred bytes each."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from hepdist.ingest.sample import Sample


@dataclass
class Staged:
    """A sample whose arrays lie in the staging file. Raw keys live here, in memory, and nowhere on disk."""

    sample_id: str
    key: str
    patient: str
    """Raw patient key, for the EMR join."""
    person: str
    """Pseudonym of the patient; one for all patients that share an identical image."""
    study: str
    """Raw; empty where the source has none."""
    series: str
    image: Place
    mask: Place | None
    content: str
    """sha256 of dtype, shape and voxels; empty for an image of one value, which says nothing of who it is."""
    mask_values: tuple[int, ...]
    label: str | int | None
    labels: np.ndarray | None
    split: str
    """Official, or empty until it is assigned."""
    spacing: tuple[float, ...] | None
    affine: np.ndarray | None
    unit: str
    files: tuple[str, ...]
    emr: dict[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial."""
        return self.image.shape[1:]


@dataclass(frozen=True)
class Place:
    """An array in the staging file."""

    offset: int
    shape: tuple[int, ...]
    dtype: str


class Stage:
    """An append-only file of arrays; deleted when the cohort is written."""

    def __init__(self, path: Path):
        self.path = path
        self._file: BinaryIO = open(path, "wb")  # noqa: SIM115 (closed by finish)
        self._offset = 0

    def put(self, array: np.ndarray) -> Place:
        flat = np.ascontiguousarray(array)
        place = Place(self._offset, flat.shape, flat.dtype.str)
        self._file.write(flat.data)
        self._offset += flat.nbytes
        return place

    def finish(self) -> None:
        self._file.close()

    def get(self, place: Place) -> np.ndarray:
        """A copy of one array, read from disk."""
        dtype, count = np.dtype(place.dtype), int(np.prod(place.shape))
        return np.fromfile(self.path, dtype, count, offset=place.offset).reshape(place.shape)

    def remove(self) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)


def content_of(image: np.ndarray) -> str:
    if image.min() == image.max():
        return ""
    total = hashlib.sha256(f"{image.dtype.str}{image.shape}".encode())
    total.update(np.ascontiguousarray(image).data)
    return total.hexdigest()


def fault_of(sample: Sample) -> tuple[str, str] | None:
    """(check, reason) of a sample that no cohort could hold, whatever the others are; None for a sound one."""
    image, mask = sample.image, sample.mask
    if image is None:
        return "no-image", "there is no image"
    if image.ndim not in (3, 4) or 0 in image.shape:
        return "geometry", f"the image has the shape {image.shape}; expected channels and 2 or 3 axes"
    if image.dtype.kind not in "iuf":
        return "unsupported", f"the image holds values of type {image.dtype}"
    if image.dtype.kind == "f":
        if np.isnan(image).any():
            return "nan", "the image holds NaN"
        if np.isinf(image).any() or (image.dtype.itemsize > 4 and np.abs(image).max() > np.finfo(np.float32).max):
            return "nan", "the image holds infinite values"
    if mask is not None and mask.shape != (1, *image.shape[1:]):
        return "geometry", f"the mask has the shape {mask.shape[1:]}, the image {image.shape[1:]}"
    if sample.spacing is not None and not all(np.isfinite(s) and s > 0 for s in sample.spacing):
        return "geometry", "the spacing is not a positive number"
    return None
