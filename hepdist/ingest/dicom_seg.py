"""DICOM segmentations as class-index masks on an image's grid: placed by patient geometry, never by frame number."""

from __future__ import annotations

from typing import Any, cast

import highdicom
import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import pack_bits
from pydicom.uid import ExplicitVRLittleEndian
from scipy.ndimage import affine_transform

from hepdist.ingest.dicom_header import Header, Refused, quiet
from hepdist.ingest.dicom_pixels import read_pixels
from hepdist.ingest.dicom_series import Stack
from hepdist.ingest.files import Files

SAME_GRID = 0.2
"""Voxels by which a segmentation's grid may be off the image's and still be copied voxel by voxel instead of resampled."""


def read_mask(
    files: Files, segmentations: tuple[Header, ...], stack: Stack, classes: tuple[str, ...]
) -> tuple[np.ndarray, dict[str, Refused]]:
    """uint8[D, H, W], index into `classes`, on the image's grid; and by file name why a segmentation could not be used.

    Where segments overlap the smaller one is on top: a tumour inside its liver stays visible. Fractional segments count from
    one half. A segmentation on another grid is resampled to the nearest voxel.
    """
    painted: list[tuple[np.ndarray, int]] = []
    refused: dict[str, Refused] = {}
    for header in segmentations:
        try:
            painted += [(voxels, classes.index(name)) for name, voxels in _segments(files, header, stack)]
        except Refused as reason:
            refused[header.file] = reason
    mask = np.zeros(stack.shape, np.uint8)
    for voxels, index in sorted(painted, key=lambda p: -len(p[0])):
        mask.flat[voxels] = index
    return mask, refused


def _segments(files: Files, header: Header, stack: Stack) -> list[tuple[str, np.ndarray]]:
    """Class name and flat voxel indices on the image's grid of each segment."""
    dataset, pixels = read_pixels(files, header.file)
    try:
        with quiet():
            segmentation = highdicom.seg.Segmentation.from_dataset(_uncompressed(dataset, pixels), copy=False)
            volumes = [(name, segmentation.get_volume(segment_numbers=[n], rescale_fractional=True)) for n, name in header.segments]
    except Exception:  # an object that breaks the standard can make the reader raise anything; the message may quote it
        raise Refused("segmentation", "the segmentation breaks the DICOM standard or is no regular volume") from None
    return [(name, _on_grid(volume.array[..., 0] >= 0.5, volume.affine, stack)) for name, volume in volumes]


def _uncompressed(dataset: Dataset, pixels: np.ndarray) -> Dataset:
    """The same object with plain little-endian frames, so that highdicom reads what only our decoder can."""
    packed = pack_bits(pixels) if dataset.BitsAllocated == 1 else pixels.astype("<u1" if dataset.BitsAllocated == 8 else "<u2").tobytes()
    dataset.PixelData = packed
    dataset["PixelData"].is_undefined_length = False
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def _on_grid(segment: np.ndarray, affine: np.ndarray, stack: Stack) -> np.ndarray:
    """Flat indices of the image's voxels inside a segment bool[d, h, w] with its own affine (index to LPS mm)."""
    to_image = np.linalg.inv(stack.affine) @ affine
    whole = np.rint(to_image)
    corners = np.array(
        [(d, h, w, 1) for d in (0, segment.shape[0] - 1) for h in (0, segment.shape[1] - 1) for w in (0, segment.shape[2] - 1)]
    )
    if np.abs((to_image - whole) @ corners.T).max() < SAME_GRID and abs(abs(np.linalg.det(whole[:3, :3])) - 1) < 1e-6:
        index = (whole[:3, :3] @ np.array(np.nonzero(segment)) + whole[:3, 3:]).astype(np.int64)
        inside = ((index >= 0) & (index < np.array(stack.shape)[:, None])).all(axis=0)
        return np.ravel_multi_index(cast(Any, tuple(index[:, inside])), stack.shape)
    back = np.linalg.inv(to_image)
    # 'grid-constant': with 'constant' a voxel that rounding puts a hair outside the first one would be lost
    resampled = affine_transform(
        segment.astype(np.uint8), back[:3, :3], back[:3, 3], output_shape=stack.shape, order=0, mode="grid-constant", prefilter=False
    )
    return np.flatnonzero(resampled)
