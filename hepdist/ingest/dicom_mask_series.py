"""Masks that are stored as image series: which folders hold them, and their voxels; whose masks they are is decided elsewhere."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

from hepdist.ingest.dicom_header import Header
from hepdist.ingest.dicom_pixels import read_pixels
from hepdist.ingest.dicom_refused import Refused
from hepdist.ingest.dicom_regions import Region, placed
from hepdist.ingest.dicom_series import Stack
from hepdist.ingest.files import Files

MEASURED = ("CT", "MR", "PT")
MASK_FOLDER = re.compile(r"(?<![a-z])(mask|seg|label|roi|annotation|ground.?truth)", re.IGNORECASE)
MASK_BITS = 8
"""CT, MR and PET images have 16 bits (PS3.3 C.8.2.1, C.8.3.1 and C.8.9.4): one of 8 is derived, and a mask where it holds two values."""


def mask_series(files: Files, headers: Sequence[Header], pattern: str | None) -> list[list[Header]]:
    """The series (one a folder) that are masks.

    With a pattern those whose folder it is found in. Without one those that look like a mask, by their folder's name or by
    8 bits where the modality has 16, and whose middle slice holds zero and at most one other value.
    """
    groups: dict[tuple[str, str, str], list[Header]] = defaultdict(list)
    for header in headers:
        if header.frames == 1:
            groups[header.study, header.series, folder_of(header)].append(header)
    if pattern is not None:
        return [members for (_, _, folder), members in groups.items() if re.search(pattern, folder)]
    return [members for members in groups.values() if _looks_like_one(members[0]) and _is_binary(files, members)]


def folder_of(header: Header) -> str:
    parent = str(PurePosixPath(header.file).parent)
    return "" if parent == "." else parent


def folder_name(header: Header, pattern: str | None) -> str:
    """What the folder calls its structure: the pattern's first group where it has one, else the folder's own name."""
    folder = folder_of(header)
    found = re.search(pattern, folder) if pattern is not None else None
    return (found[1] if found and found.re.groups and found[1] else PurePosixPath(folder).name).strip()


def read_slices(files: Files, stack: Stack, index: int, onto: Stack) -> Region | None:
    """The region of class `index` that a series of binary slices marks on another series' grid; None where it marks nothing.

    Raises Refused with check 'segmentation' where the slices hold more than zero and one other value.
    """
    voxels, marks = np.zeros(stack.shape, bool), set[float]()
    for d, plane in enumerate(stack.planes):
        pixels = read_pixels(files, plane.file)[1]
        if pixels.shape != plane.size:
            raise Refused("segmentation", "a mask in colour")
        marks |= set(np.unique(pixels).tolist())
        if len(marks - {0}) > 1:
            raise Refused("segmentation", "a series in a mask folder that holds more values than zero and one other")
        voxels[d] = pixels != 0
    return placed(index, voxels, stack.affine, onto)


def _looks_like_one(header: Header) -> bool:
    if header.bits <= MASK_BITS and header.modality in MEASURED:
        return True
    return MASK_FOLDER.search(folder_of(header)) is not None


def _is_binary(files: Files, members: list[Header]) -> bool:
    middle = sorted(members, key=lambda h: (h.planes[0].position or (), h.sop_instance))[len(members) // 2]
    try:
        values = np.unique(read_pixels(files, middle.file)[1])
    except Refused:
        return False
    return len(values) <= 2 and values[0] == 0
