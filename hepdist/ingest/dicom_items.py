"""What a plan of DICOM files consists of: images, volumes, and the masks that are drawn on them; each travels to the process that reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from hepdist.ingest.dicom_header import Header
from hepdist.ingest.dicom_refused import Refused
from hepdist.ingest.dicom_series import Stack


@dataclass(frozen=True)
class Mask:
    """One object that marks structures in an image: a DICOM SEG, an RT structure set, or a series of binary slices."""

    kind: Literal["segmentation", "structures", "slices"]
    files: tuple[str, ...]
    wanted: tuple[tuple[int, int], ...]
    """Segment or ROI number (0 of slices) and the index of its class."""
    stack: Stack | None = None
    """Of slices: where they lie."""


@dataclass(frozen=True)
class Painted:
    """What an item's masks come to."""

    mask: np.ndarray | None
    """uint8, of the image's spatial shape; None where no mask could be read."""
    used: tuple[str, ...]
    """Files of the masks that were."""
    refused: dict[str, Refused]
    """By file, why one was not."""


@dataclass(frozen=True)
class ImageItem:
    """One file of single images: radiographs, or frames that are read as such."""

    header: Header
    frames: int = 1
    """How many of its frames are read, from the first one on."""
    masks: tuple[Mask, ...] = ()

    @property
    def key(self) -> str:
        return self.header.sop_instance

    @property
    def files(self) -> tuple[str, ...]:
        return (self.header.file,)


@dataclass(frozen=True)
class VolumeItem:
    """One volume of one series, with the masks that lie on it."""

    key: str
    """SeriesInstanceUID; '#1', '#2' follow it for the second, third largest volume of a series."""
    header: Header
    """Of one of its files, for the keys that all share."""
    stack: Stack
    masks: tuple[Mask, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(p.file for p in self.stack.planes))
