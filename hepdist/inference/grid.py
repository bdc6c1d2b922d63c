"""From the grid that a model sees back to the one that an image came on; planes at a time, so that a volume of any size fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import ndimage

SLAB_VOXELS = 1 << 23
"""Interpolated at a time: 32 MiB of float32 for each class that occurs."""


def labels_on(found: np.ndarray, shape: Sequence[int], step: np.ndarray) -> np.ndarray:
    """Class indices found[*spatial] on a grid of `shape`, as uint8.

    step: voxels of the wanted grid a voxel of `found`, as hepdist.ingest.resample counts (edges coincide, so volumes in ml are kept). Each class
    is interpolated linearly as a region of its own and the strongest one wins, which leaves smooth borders where nearest voxels leave stairs.
    """
    if found.shape == tuple(shape) and np.allclose(step, 1, rtol=1e-6):
        return found
    classes = np.flatnonzero(np.bincount(found.reshape(-1), minlength=1)).tolist()
    out = np.full(shape, classes[0], np.uint8)
    if len(classes) == 1:
        return out
    for slab, source, start in _slabs(found, shape, step):
        strongest = np.full(out[slab].shape, -1.0, np.float32)
        for index in classes:
            share = _interpolated(source == index, start, strongest.shape, step)
            out[slab][share > strongest] = index
            np.maximum(strongest, share, out=strongest)
    return out


def values_on(values: np.ndarray, shape: Sequence[int], step: np.ndarray) -> np.ndarray:
    """Intensities values[C, *spatial] on a grid of `shape`, linearly, as float32[C, *shape]; step as for `labels_on`."""
    if values.shape[1:] == tuple(shape) and np.allclose(step, 1, rtol=1e-6):
        return values.astype(np.float32, copy=False)
    out, start = np.empty((len(values), *shape), np.float32), 0.5 / np.asarray(step, np.float64) - 0.5
    for channel, target in zip(values, out, strict=True):
        target[:] = _interpolated(channel, start, shape, step)
    return out


def levels_on(levels: np.ndarray, shape: Sequence[int], step: np.ndarray) -> np.ndarray:
    """Levels uint8[*spatial], such as a map's, on a grid of `shape`, linearly and rounded; step as for `labels_on`."""
    if levels.shape == tuple(shape) and np.allclose(step, 1, rtol=1e-6):
        return levels
    out = np.empty(shape, np.uint8)
    for slab, source, start in _slabs(levels, shape, step):
        out[slab] = np.rint(_interpolated(source, start, out[slab].shape, step))
    return out


def _slabs(array: np.ndarray, shape: Sequence[int], step: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """The wanted grid in parts of few planes: which ones, and what `_behind` says of them."""
    planes = max(1, SLAB_VOXELS // max(1, int(np.prod(shape[1:]))))
    for begin in range(0, shape[0], planes):
        end = min(begin + planes, shape[0])
        yield slice(begin, end), *_behind(array, begin, end, step)


def _behind(array: np.ndarray, begin: int, end: int, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The planes of `array` between which planes `begin` to `end` of the wanted grid lie, and where the first of those begins in them."""
    scale = 1 / np.asarray(step, np.float64)
    start = scale / 2 - 0.5
    low = min(max(0, int(np.floor(start[0] + begin * scale[0]))), len(array) - 1)
    high = max(low + 1, int(np.floor(start[0] + (end - 1) * scale[0])) + 2)
    return array[low:high], start + (begin * scale[0] - low, *(0.0,) * (array.ndim - 1))


def _interpolated(array: np.ndarray, start: np.ndarray, shape: Sequence[int], step: np.ndarray) -> np.ndarray:
    """float32[*shape], linearly; start: in `array`, of the first voxel."""
    return ndimage.affine_transform(
        array.astype(np.float32),
        1 / np.asarray(step, np.float64),
        start,
        output_shape=tuple(shape),
        output=np.float32,
        order=1,
        mode="nearest",
    )
