"""All masks of one image or volume as one class-index mask, and by file why one could not be used."""

from __future__ import annotations

import numpy as np

from hepdist.ingest.dicom_items import ImageItem, Mask, Painted, VolumeItem
from hepdist.ingest.dicom_mask_series import read_slices
from hepdist.ingest.dicom_refused import Refused
from hepdist.ingest.dicom_regions import Region, paint, region
from hepdist.ingest.dicom_rtstruct import read_structures
from hepdist.ingest.dicom_seg import read_image_segmentation, read_segmentation
from hepdist.ingest.dicom_series import Stack
from hepdist.ingest.files import Files


def painted(files: Files, item: ImageItem | VolumeItem) -> Painted:
    """The smaller structure on top; see dicom_regions.paint. A mask that is refused takes none of the others along."""
    regions: list[Region] = []
    used: list[str] = []
    refused: dict[str, Refused] = {}
    for mask in item.masks:
        try:
            regions += _of_image(files, mask, item) if isinstance(item, ImageItem) else _of_volume(files, mask, item.stack)
            used += mask.files
        except Refused as reason:
            refused |= dict.fromkeys(mask.files, reason)
    if not used:
        return Painted(None, (), refused)
    if isinstance(item, VolumeItem):
        return Painted(paint(regions, item.stack.shape), tuple(used), refused)
    return Painted(paint(regions, (1, *item.header.planes[0].size))[0], tuple(used), refused)


def _of_volume(files: Files, mask: Mask, stack: Stack) -> list[Region]:
    wanted = dict(mask.wanted)
    if mask.kind == "segmentation":
        return read_segmentation(files, mask.files[0], wanted, stack)
    if mask.kind == "structures":
        return read_structures(files, mask.files[0], wanted, stack)
    assert mask.stack is not None
    found = read_slices(files, mask.stack, wanted[0], stack)
    return [found] if found is not None else []


def _of_image(files: Files, mask: Mask, item: ImageItem) -> list[Region]:
    size = item.header.planes[0].size
    drawn = read_image_segmentation(files, mask.files[0], dict(mask.wanted), item.header.sop_instance, size)
    merged: dict[int, np.ndarray] = {}
    for index, voxels in drawn:
        merged[index] = merged.get(index, np.zeros(size, bool)) | voxels
    found = (region(index, voxels[None]) for index, voxels in merged.items())
    return [one for one in found if one is not None]
