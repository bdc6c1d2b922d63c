"""One shape, spacing and dtype for a cohort: what is decided from all samples (Layout), and how one sample is brought to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from hepdist.errors import RecipeError
from hepdist.ingest.spec import IngestSpec
from hepdist.ingest.stage import Staged

STORED = ("uint8", "int16", "uint16", "float32")
PLANE = 256
"""Side of the square that 2D images of different sizes are fitted into, unless `size` says otherwise."""


@dataclass(frozen=True)
class Layout:
    """The form that all images of a cohort share."""

    channels: int
    size: tuple[int, ...]
    """Spatial shape of the tensors."""
    spacing: tuple[float, ...] | None
    """mm that volumes are resampled to; None leaves them as they are."""
    dtype: str
    unit: str
    resized: bool
    """2D only: images are scaled to fit `size` before they are padded."""


@dataclass
class Fitted:
    """One sample in the cohort's form."""

    image: np.ndarray
    mask: np.ndarray | None
    spacing: tuple[float, ...]
    """After resampling; 1 where the source has none."""
    affine: np.ndarray | None
    """Of this tensor's voxels."""
    source_shape: tuple[int, ...]
    """Spatial shape in the source."""
    original_shape: tuple[int, ...]
    """Spatial shape after resampling, before crop and padding."""
    offset: tuple[int, ...]
    """Index, in the grid of `original_shape`, of this tensor's voxel 0; negative where it is padded."""


def plan_layout(samples: Sequence[Staged], spec: IngestSpec) -> Layout:
    """Decide the cohort's form. All samples must have the same number of axes and channels (see `misfits`).

    Raises RecipeError where `size` or `spacing` doesn't fit the number of axes.
    """
    assert samples[0].image is not None
    axes = len(samples[0].shape)
    for key, given in (("size", spec.size), ("spacing", spec.spacing)):
        if given is not None and len(given) not in ((axes, 1) if key == "spacing" else (axes,)):
            raise RecipeError(
                f"ingest key '{key}' has {len(given)} values, but the images have {axes} axes; give {','.join('DHW'[-axes:])}"
            )
    spacing = _target_spacing(samples, spec, axes)
    shapes = np.array([s.shape if spacing is None else resampled_shape(s.shape, s.spacing or (1.0,) * axes, spacing) for s in samples])
    same = bool((shapes == shapes[0]).all())
    if spec.size is not None:
        size = spec.size
    elif same:
        size = tuple(int(n) for n in shapes[0])
    else:
        size = (PLANE, PLANE) if axes == 2 else _holds(shapes)
    resized = axes == 2 and spacing is None and not (shapes == size).all()
    units = Counter(s.unit for s in samples)
    return Layout(samples[0].image.shape[0], size, spacing, _dtype(samples, spec), units.most_common(1)[0][0], resized)


def fit_changes(samples: Sequence[Staged], layout: Layout) -> tuple[bool, bool]:
    """Whether any sample is resampled, and whether any is resampled, cropped or padded."""
    if layout.resized or layout.spacing is not None:
        return True, True
    return False, any(s.shape != layout.size for s in samples)


def misfits(samples: Sequence[Staged]) -> list[Staged]:
    """The samples whose number of channels or axes is not the one that most have: tensors of a column share one shape."""
    forms = Counter(_form(s) for s in samples if s.image)
    usual = max(forms, key=lambda form: (forms[form], form), default=None)
    return [s for s in samples if s.image and _form(s) != usual]


def _form(sample: Staged) -> tuple[int, int]:
    assert sample.image is not None
    return sample.image.shape[0], len(sample.shape)


def fit(image: np.ndarray, mask: np.ndarray | None, sample: Staged, layout: Layout) -> Fitted:
    """Resample, then crop or pad about the centre. image: [C, *spatial]; mask: uint8[1, *spatial] or None.

    Images are interpolated linearly, after a Gaussian of the anti-aliasing width where they shrink; masks take the
    nearest voxel. Padding is -1024 in HU (air), else the image's own minimum, and background in masks.
    """
    source_shape = image.shape[1:]
    spacing = sample.spacing or (1.0,) * len(source_shape)
    step = np.ones(len(source_shape))  # source voxels a new voxel
    if layout.resized:
        scale = min(n / have for n, have in zip(layout.size, source_shape, strict=True))
        step, shape = _resize_steps(source_shape, scale)
    elif layout.spacing is not None:
        step = np.array([t / s for t, s in zip(layout.spacing, spacing, strict=True)])
        shape = resampled_shape(source_shape, spacing, layout.spacing)
    if not np.allclose(step, 1, rtol=1e-6):
        resize = _resize_plane if len(source_shape) == 2 else _resample_volume
        image = _as_dtype(resize(image.astype(np.float32), step, shape, smooth=True), layout.dtype)
        mask = resize(mask.astype(np.float32), step, shape, smooth=False).astype(np.uint8) if mask is not None else None
    pad = -1024.0 if layout.unit == "HU" else float(image.min())
    original_shape = image.shape[1:]
    offset = tuple(_centre(have, want) for have, want in zip(original_shape, layout.size, strict=True))
    return Fitted(
        image=_as_dtype(crop_or_pad(image, offset, layout.size, pad), layout.dtype),
        mask=crop_or_pad(mask, offset, layout.size, 0) if mask is not None else None,
        spacing=tuple(float(s) for s in np.array(spacing) * step),
        affine=_moved(np.array(sample.affine), step, offset) if sample.affine is not None else None,
        source_shape=source_shape, original_shape=original_shape, offset=offset,
    )  # fmt: skip


def crop_or_pad(array: np.ndarray, offset: Sequence[int], size: Sequence[int], value: float) -> np.ndarray:
    """The window of `size` that starts at `offset` (may be negative) of array[C, *spatial], filled with `value` outside it."""
    if array.shape[1:] == tuple(size) and not any(offset):
        return array
    out = np.full((len(array), *size), value, array.dtype)
    source = tuple(slice(max(0, o), max(0, min(have, o + n))) for o, n, have in zip(offset, size, array.shape[1:], strict=True))
    target = tuple(slice(max(0, -o), max(0, -o) + s.stop - s.start) for o, s in zip(offset, source, strict=True))
    out[(slice(None), *target)] = array[(slice(None), *source)]
    return out


def resampled_shape(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> tuple[int, ...]:
    return tuple(max(1, round(n * s / t)) for n, s, t in zip(shape, spacing, target, strict=True))


def _target_spacing(samples: Sequence[Staged], spec: IngestSpec, axes: int) -> tuple[float, ...] | None:
    if spec.spacing is not None:
        return spec.spacing * axes if len(spec.spacing) == 1 else spec.spacing
    known = np.array([s.spacing for s in samples if s.spacing is not None])
    if axes == 2 or not len(known):  # radiographs are fitted by size: their pixel spacing is that of the detector, not of the body
        return None
    median = np.median(known, axis=0)
    return tuple(float(m) for m in median) if (np.abs(known / median - 1) > 0.01).any() else None


def _holds(shapes: np.ndarray) -> tuple[int, ...]:
    """Multiples of 8 that hold every volume, unless the largest is far above the median: then 99.5 % of them.

    A cropped margin can hold foreground, which no segmentation gets back; padding costs only time.
    """
    largest = shapes.max(axis=0)
    far = largest > 1.5 * np.median(shapes, axis=0)
    held = np.where(far, np.percentile(shapes, 99.5, axis=0), largest)
    return tuple(int(n) for n in np.ceil(held / 8).astype(int) * 8)


def _dtype(samples: Sequence[Staged], spec: IngestSpec) -> str:
    if spec.dtype != "auto":
        return spec.dtype
    common = np.result_type(*{np.dtype(s.image.dtype) for s in samples if s.image}).name
    return common if common in STORED else "float32"


def _as_dtype(image: np.ndarray, dtype: str) -> np.ndarray:
    """Rounded and clipped where a whole-number type can't hold the values."""
    if image.dtype == dtype:
        return image
    if dtype == "float32":
        return image.astype(np.float32)
    limits = np.iinfo(dtype)
    return np.clip(np.round(image), limits.min, limits.max).astype(dtype)


def _centre(have: int, want: int) -> int:
    """Offset of a centred window; an odd voxel more goes before when padding."""
    return (have - want) // 2


def _resize_steps(shape: Sequence[int], scale: float) -> tuple[np.ndarray, tuple[int, ...]]:
    new = tuple(max(1, round(n * scale)) for n in shape)
    return np.array([have / n for have, n in zip(shape, new, strict=True)]), new


def _resize_plane(image: np.ndarray, step: np.ndarray, shape: tuple[int, ...], *, smooth: bool) -> np.ndarray:
    """2D, by Pillow: its bilinear filter averages over the area that a new pixel covers."""
    box = (0.0, 0.0, shape[1] * step[1], shape[0] * step[0])
    box = (0.0, 0.0, min(box[2], image.shape[2]), min(box[3], image.shape[1]))
    method = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    return np.stack([np.asarray(Image.fromarray(channel, "F").resize((shape[1], shape[0]), method, box=box)) for channel in image])


def _resample_volume(image: np.ndarray, step: np.ndarray, shape: tuple[int, ...], *, smooth: bool) -> np.ndarray:
    """3D: new voxel i covers source [i * step, (i + 1) * step), so edges coincide and the volume in ml is kept."""
    sigma = np.maximum(0, (step - 1) / 2)  # scikit-image's rule against aliasing
    first = step / 2 - 0.5
    out = np.empty((len(image), *shape), np.float32)
    for channel, target in zip(image, out, strict=True):
        blurred = ndimage.gaussian_filter(channel, sigma, mode="nearest") if smooth and sigma.any() else channel
        ndimage.affine_transform(blurred, step, first, output_shape=shape, output=target, order=1 if smooth else 0, mode="nearest")
    return out


def _moved(affine: np.ndarray, step: np.ndarray, offset: Sequence[int]) -> np.ndarray:
    """The affine of a resampled and shifted grid, from the source's."""
    change = np.eye(4)
    change[:3, :3] = np.diag(step)
    change[:3, 3] = np.array(offset) * step + step / 2 - 0.5
    return affine @ change
