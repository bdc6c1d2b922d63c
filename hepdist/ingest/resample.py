"""Images on another grid: planes by Pillow, volumes by linear interpolation, a slab at a time so that a large one costs one copy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy import ndimage

SLAB_VOXELS = 1 << 23
"""Of a volume, in float32 at a time: its slab, the same without what would alias, and the resampled one take 100 MiB together."""
TRUNCATE = 4.0
"""Standard deviations at which a Gaussian ends."""


def resampled_shape(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> tuple[int, ...]:
    return tuple(max(1, round(n * s / t)) for n, s, t in zip(shape, spacing, target, strict=True))


def as_dtype(image: np.ndarray, dtype: str) -> np.ndarray:
    """Rounded and clipped where a whole-number type can't hold the values."""
    if image.dtype == dtype:
        return image
    if dtype == "float32":
        return image.astype(np.float32)
    limits = np.iinfo(dtype)
    return np.clip(np.round(image), limits.min, limits.max).astype(dtype)


def resize_plane(image: np.ndarray, step: np.ndarray, shape: tuple[int, ...], dtype: str, *, smooth: bool) -> np.ndarray:
    """image[C, H, W] by Pillow: its bilinear filter averages over the area that a new pixel covers. step: source pixels a new one."""
    box = (0.0, 0.0, shape[1] * step[1], shape[0] * step[0])
    box = (0.0, 0.0, min(box[2], image.shape[2]), min(box[3], image.shape[1]))
    method = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    planes = (Image.fromarray(channel.astype(np.float32), "F").resize((shape[1], shape[0]), method, box=box) for channel in image)
    return as_dtype(np.stack([np.asarray(plane) for plane in planes]), dtype)


def resample_volume(volume: np.ndarray, step: np.ndarray, shape: tuple[int, ...], dtype: str, *, smooth: bool) -> np.ndarray:
    """volume[C, D, H, W] as `dtype`: new voxel i covers source [i * step, (i + 1) * step), so edges coincide and the volume in ml is kept."""
    sigma = np.maximum(0, (step - 1) / 2) if smooth else np.zeros(3)  # scikit-image's rule against aliasing
    reach = int(TRUNCATE * sigma[0] + 0.5)
    first = step / 2 - 0.5
    plane = max(math.prod(shape[1:]), step[0] * math.prod(volume.shape[2:]))
    planes = max(1, int(SLAB_VOXELS // plane))
    out = np.empty((len(volume), *shape), dtype)
    for channel, target in zip(volume, out, strict=True):
        for begin in range(0, shape[0], planes):
            end = min(begin + planes, shape[0])
            low = max(0, math.floor(first[0] + begin * step[0]) - reach)
            high = math.floor(first[0] + (end - 1) * step[0]) + 2 + reach
            slab = channel[low:high].astype(np.float32)
            if sigma.any():
                slab = ndimage.gaussian_filter(slab, sigma, mode="nearest", truncate=TRUNCATE)
            start = first + (begin * step[0] - low, 0, 0)
            found = ndimage.affine_transform(
                slab, step, start, output_shape=(end - begin, *shape[1:]), output=np.float32, order=1 if smooth else 0, mode="nearest"
            )
            target[begin:end] = as_dtype(found, dtype)
    return out
