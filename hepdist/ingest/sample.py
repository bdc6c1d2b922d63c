"""What a source hands to the cohort writer: samples with raw keys, and findings about files; nothing here is written as it is."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass
class Sample:
    """One future row, before de-identification, splitting and fitting to the cohort's shape."""

    key: str
    """Raw key, unique and stable in the source (SOPInstanceUID, case name, 'train/17'); becomes `sample_id` by salted hash."""
    patient: str
    """Raw patient key; becomes a salted pseudonym."""
    study: str = ""
    """Raw study key; becomes a salted pseudonym, as does `series`, which only the audit holds."""
    series: str = ""
    image: np.ndarray | None = None
    """[C, *spatial], in its stored or declared unit."""
    image_unit: str = "raw"
    mask: np.ndarray | None = None
    """uint8[1, *spatial], class index."""
    label: str | int | None = None
    """Class name or index as the source writes it; None = unlabelled."""
    labels: np.ndarray | None = None
    """uint8[K] for multi-label sources."""
    split: str | None = None
    """The official split, where the source has one."""
    spacing: tuple[float, ...] | None = None
    """mm, in the order of the spatial axes (D, H, W) or (H, W)."""
    affine: np.ndarray | None = None
    """float64[4, 4], voxel index (i, j, k in the order of the spatial axes) to patient mm."""
    files: tuple[str, ...] = ()
    """Relative paths of the files that it came from; for the audit, hashed there."""
    site: str = ""
    """Raw key of the institution or scanner, where the source names one; for a split by site."""
    date: datetime.date | None = None
    """Of the study; for a split by date. Never written."""
    header: Any = None
    """A raw pydicom Dataset of one of its files, with the tags of hepdist.ingest.headers.TAGS, where it came as DICOM."""


@dataclass(frozen=True)
class Finding:
    """What became of one file (or table row): a row of the audit once its names are pseudonyms."""

    file: str
    """Relative path, or 'TABLE#row' for a table row."""
    outcome: str
    """'ingested', 'quarantined' or 'ignored'."""
    check: str = ""
    """Slug of the check that failed: 'not-an-image', 'truncated', 'nan', 'label-unknown', 'unknown-patient', 'unpaired', ..."""
    reason: str = ""
    """One sentence without PHI."""
    study: str = ""
    series: str = ""
    sha256: str = ""


class Source(Protocol):
    """One kind of input, opened: what its files are is known, and its items can be read one by one, in any process and order."""

    kind: str
    label_names: tuple[str, ...]
    """Class names, where the source itself declares them; else empty."""
    mask_classes: tuple[str, ...]
    multilabel: bool

    @property
    def findings(self) -> Sequence[Finding]:
        """About files that no item holds."""
        ...

    @property
    def items(self) -> Sequence[Any]:
        """What `read` takes: small, picklable, in an order that file names don't decide where the source has keys of its own."""
        ...

    def read(self, item: Any) -> Iterator[Sample | Finding]:
        """The samples of one item. Every file of it is accounted for: by a Sample that lists it in `files`, or by a Finding.

        Never raises for what a file holds. Uses neither `items` nor `findings`, which don't travel to the reading process.
        """
        ...
