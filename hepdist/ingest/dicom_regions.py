"""Regions on an image's grid: placed there by patient geometry, kept small, and painted into one class-index mask."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import affine_transform

from hepdist.ingest.dicom_refused import Refused
from hepdist.ingest.dicom_series import Stack

SAME_GRID = 0.2
"""Voxels by which a region's grid may be off the image's and still be copied voxel by voxel instead of resampled."""


@dataclass(frozen=True)
class Region:
    """The voxels of one structure: its bounding box, one bit a voxel, so that a hundred organs of a large CT fit in memory."""

    index: int
    """Of its class."""
    box: tuple[slice, slice, slice]
    shape: tuple[int, int, int]
    """Of the box."""
    bits: np.ndarray
    count: int
    """Voxels inside."""

    @property
    def inside(self) -> np.ndarray:
        """bool, of `shape`."""
        return np.unpackbits(self.bits, count=int(np.prod(self.shape))).reshape(self.shape).astype(bool)


def region(index: int, voxels: np.ndarray) -> Region | None:
    """Of bool[D, H, W] on the image's grid; None where nothing is inside."""
    box = []
    for axis in range(3):
        used = np.flatnonzero(voxels.any(axis=tuple(a for a in range(3) if a != axis)))
        if not used.size:
            return None
        box.append(slice(int(used[0]), int(used[-1]) + 1))
    inside = voxels[tuple(box)]
    return Region(index, (box[0], box[1], box[2]), inside.shape, np.packbits(inside), int(np.count_nonzero(inside)))


def placed(index: int, voxels: np.ndarray, affine: np.ndarray, stack: Stack) -> Region | None:
    """A structure bool[d, h, w] with its own affine (index to LPS mm), copied to the image's grid, or resampled to its nearest voxels.

    None where nothing is inside. Raises Refused('geometry') where all of it lies outside the image.
    """
    if not voxels.any():
        return None
    whole = whole_steps(affine, voxels.shape, stack)
    found = region(index, _resampled(voxels, affine, stack) if whole is None else _copied(voxels, whole, stack.shape))
    if found is None:
        raise Refused("geometry", "a segmentation that lies outside its image")
    return found


def paint(regions: Iterable[Region], shape: tuple[int, int, int]) -> np.ndarray:
    """uint8[D, H, W] of class indices. Where regions overlap the smaller one is on top: a tumour inside its liver stays visible."""
    mask = np.zeros(shape, np.uint8)
    for one in sorted(regions, key=lambda r: (-r.count, r.index)):
        mask[one.box][one.inside] = one.index
    return mask


def whole_steps(affine: np.ndarray, shape: tuple[int, ...], stack: Stack) -> np.ndarray | None:
    """int64[4, 4] from a grid's indices to the image's where each of its voxels lies on one of the image's (SAME_GRID); else None."""
    to_image = np.linalg.inv(stack.affine) @ affine
    whole = np.rint(to_image)
    corners = np.array([(d, h, w, 1) for d in (0, shape[0] - 1) for h in (0, shape[1] - 1) for w in (0, shape[2] - 1)])
    turned = np.abs(whole[:3, :3])
    if np.abs((to_image - whole) @ corners.T).max() >= SAME_GRID or (turned.sum(axis=0) != 1).any() or (turned.sum(axis=1) != 1).any():
        return None
    return whole.astype(np.int64)


def _copied(voxels: np.ndarray, whole: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Axes turned, flipped and moved by whole voxels; what lies outside the image is cut off."""
    axes = np.abs(whole[:3, :3]).argmax(axis=1)
    turned = voxels.transpose(axes)
    out = np.zeros(shape, bool)
    source, target = [], []
    for axis in range(3):
        backwards, start = whole[axis, axes[axis]] < 0, int(whole[axis, 3])
        if backwards:
            turned = np.flip(turned, axis)
            start -= turned.shape[axis] - 1
        low, high = max(0, start), min(shape[axis], start + turned.shape[axis])
        if low >= high:
            return out
        source.append(slice(low - start, high - start))
        target.append(slice(low, high))
    out[tuple(target)] = turned[tuple(source)]
    return out


def _resampled(voxels: np.ndarray, affine: np.ndarray, stack: Stack) -> np.ndarray:
    back = np.linalg.inv(affine) @ stack.affine
    # 'grid-constant': with 'constant' a voxel that rounding puts a hair outside the first one would be lost
    return affine_transform(
        voxels.astype(np.uint8), back[:3, :3], back[:3, 3], output_shape=stack.shape, order=0, mode="grid-constant", prefilter=False
    ).astype(bool)
