"""Where samples wait on disk between reading and writing: arrays in files, and facts about them that hold pseudonyms alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from hepdist.ingest.sample import Sample


@dataclass(frozen=True)
class Place:
    """An array in a staging file."""

    file: str
    """Name in the staging folder."""
    offset: int
    shape: tuple[int, ...]
    dtype: str


@dataclass
class Staged:
    """A sample whose arrays lie in the staging folder. Raw keys stay in the process that read them."""

    sample_id: str
    patient: str
    """Pseudonym of the patient key, for joining tables."""
    person: str
    """The same, or one for all patients that share an image."""
    study: str
    """Pseudonyms; empty where the source has none."""
    series: str
    site: str
    called: tuple[str, ...]
    """Pseudonyms of what a table may call the image, the most exact first."""
    image: Place | None
    """None: a row of a table alone."""
    mask: Place | None
    content: str
    """sha256 of dtype, shape and voxels; empty for an image of one value, which says nothing of who it is."""
    likeness: str
    """Hexadecimal; what near-identical images share (hepdist.ingest.likeness). Empty where it isn't asked for."""
    mask_values: tuple[int, ...]
    label: str | int | None
    """As the source writes it; the class index once classes are known."""
    labels: tuple[int, ...] | None
    """0 or 1 for each class of a multi-label source."""
    split: str
    """Official, or empty until it is assigned."""
    spacing: tuple[float, ...] | None
    affine: tuple[tuple[float, ...], ...] | None
    unit: str
    files: tuple[tuple[str, str], ...]
    """(pseudonym, sha256) of each file that it came from."""
    day: int | None = None
    """Of the study, as datetime.date.toordinal counts; for a split by date."""
    header: dict[str, str | float] | None = None
    """Row of COHORT/headers.parquet, of a DICOM series."""
    emr: dict[str, Any] = field(default_factory=dict)
    """Values by column name, and None where missing."""
    visits: tuple[list[list[float]], list[list[int]], list[float], int] | None = None
    """Values [T][F], missing [T][F], days since the visit before [T], and how many of the T are visits."""
    followup: tuple[float, bool] | None = None
    """Days from the row's landmark to the event or the end of the follow-up, and whether it was the event."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial; empty without an image."""
        return self.image.shape[1:] if self.image else ()

    def to_json(self) -> dict[str, Any]:
        places = {name: None if place is None else vars(place) for name, place in (("image", self.image), ("mask", self.mask))}
        return {**vars(self), **places}  # not asdict, which copies every list and number on its way

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Staged:
        for name in ("image", "mask"):
            if values[name] is not None:
                values[name] = Place(**{**values[name], "shape": tuple(values[name]["shape"])})
        for name in ("called", "mask_values", "labels", "spacing"):
            values[name] = None if values[name] is None else tuple(values[name])
        if values["affine"] is not None:
            values["affine"] = tuple(tuple(row) for row in values["affine"])
        values["files"] = tuple((name, sha256) for name, sha256 in values["files"])
        return cls(**values)


class Arrays:
    """Writes the arrays of one staging file, one after the other."""

    def __init__(self, path: Path):
        self._name = path.name
        self._file: BinaryIO = open(path, "wb")  # noqa: SIM115 (closed by `close`)
        self._offset = 0

    def put(self, array: np.ndarray) -> Place:
        flat = np.ascontiguousarray(array)
        place = Place(self._name, self._offset, flat.shape, flat.dtype.str)
        self._file.write(flat.data)
        self._offset += flat.nbytes
        return place

    def close(self) -> None:
        self._file.close()


def read_array(folder: Path, place: Place) -> np.ndarray:
    """One array, read from its staging file: a view of the page cache, so that a large volume costs no second copy."""
    return np.memmap(folder / place.file, np.dtype(place.dtype), "r", place.offset, place.shape)


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
        return None
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
