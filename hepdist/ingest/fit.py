"""One shape, spacing and dtype for a cohort: what is decided from all samples (Layout), and how one sample is brought to its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hepdist.errors import RecipeError
from hepdist.ingest.bricks import brick_offsets, centred
from hepdist.ingest.resample import as_dtype, resample_volume, resampled_shape, resize_plane
from hepdist.ingest.spec import IngestSpec
from hepdist.ingest.stage import Staged

STORED = ("uint8", "int16", "uint16", "float32")
PLANE = 256
"""Side of the square that 2D images of different sizes are fitted into, unless `size` says otherwise."""
AIR = -1024.0
"""HU; what padding a CT shows."""


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
    overlap: float | None = None
    """Share of a side that neighbouring bricks of `size` have in common; None: an image is one row, cropped or padded."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Layout:
        """From `dataclasses.asdict`, as JSON keeps it."""
        known: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return cls(**known)


class Gridded(Protocol):
    """What `resample` must know of a sample besides its voxels."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial."""
        ...

    @property
    def spacing(self) -> tuple[float, ...] | None: ...

    @property
    def affine(self) -> tuple[tuple[float, ...], ...] | None: ...


@dataclass
class Whole:
    """One sample in the cohort's spacing and dtype, before it is cut into rows."""

    image: np.ndarray
    """[C, *spatial]"""
    mask: np.ndarray | None
    """uint8[1, *spatial]"""
    spacing: tuple[float, ...]
    """1 where the source has none."""
    affine: np.ndarray | None
    """Of the source's voxels."""
    step: np.ndarray
    """Source voxels a voxel."""
    source_shape: tuple[int, ...]
    """Spatial shape in the source."""
    outside: float
    """Value of padding."""


@dataclass
class Fitted:
    """One row of a sample: all of it, or one brick."""

    image: np.ndarray
    mask: np.ndarray | None
    spacing: tuple[float, ...]
    """After resampling; 1 where the source has none."""
    affine: np.ndarray | None
    """Of this tensor's voxels."""
    source_shape: tuple[int, ...]
    """Spatial shape in the source."""
    original_shape: tuple[int, ...]
    """Spatial shape after resampling, before crop, padding or cutting into bricks."""
    offset: tuple[int, ...]
    """Index, in the grid of `original_shape`, of this tensor's voxel 0; negative where it is padded."""
    brick: tuple[int, int]
    """Index of this row and number of rows of its sample."""


def plan_layout(samples: Sequence[Staged], spec: IngestSpec) -> Layout:
    """Decide the cohort's form. All samples must have the same number of axes and channels (see `misfits`).

    Raises RecipeError where `size`, `brick` or `spacing` doesn't fit the number of axes.
    """
    assert samples[0].image is not None
    axes = len(samples[0].shape)
    for key, given in (("size", spec.size), ("brick", spec.brick), ("spacing", spec.spacing)):
        if given is not None and len(given) not in ((axes, 1) if key == "spacing" else (axes,)):
            raise RecipeError(
                f"ingest key '{key}' has {len(given)} values, but the images have {axes} axes; give {','.join('DHW'[-axes:])}"
            )
    spacing = _target_spacing(samples, spec, axes)
    shapes = np.array([s.shape if spacing is None else resampled_shape(s.shape, s.spacing or (1.0,) * axes, spacing) for s in samples])
    same = bool((shapes == shapes[0]).all())
    if spec.size is not None or spec.brick is not None:
        size = spec.size or spec.brick or ()
    elif same:
        size = tuple(int(n) for n in shapes[0])
    else:
        size = (PLANE, PLANE) if axes == 2 else _holds(shapes)
    resized = axes == 2 and spacing is None and spec.brick is None and not (shapes == size).all()
    unit = Counter(s.unit for s in samples).most_common(1)[0][0]
    overlap = spec.overlap if spec.brick is not None else None
    return Layout(samples[0].image.shape[0], size, spacing, _dtype(samples, spec), unit, resized, overlap)


def fit_changes(samples: Sequence[Staged], layout: Layout) -> tuple[bool, bool]:
    """Whether any sample is resampled, and whether any is resampled, cropped, padded or cut into bricks."""
    if layout.resized or layout.spacing is not None:
        return True, True
    return False, layout.overlap is not None or any(s.shape != layout.size for s in samples)


def misfits(samples: Sequence[Staged]) -> list[Staged]:
    """The samples whose number of channels or axes is not the one that most have: tensors of a column share one shape."""
    forms = Counter(_form(s) for s in samples if s.image)
    usual = max(forms, key=lambda form: (forms[form], form), default=None)
    return [s for s in samples if s.image and _form(s) != usual]


def _form(sample: Staged) -> tuple[int, int]:
    assert sample.image is not None
    return sample.image.shape[0], len(sample.shape)


def resample(image: np.ndarray, mask: np.ndarray | None, sample: Gridded, layout: Layout) -> Whole:
    """The sample in the cohort's spacing and dtype. image: [C, *spatial]; mask: uint8[1, *spatial] or None.

    Images are interpolated linearly, after a Gaussian of the anti-aliasing width where they shrink; masks take the
    nearest voxel. Padding is AIR in HU, else the image's own minimum, and background in masks.
    """
    source_shape = image.shape[1:]
    spacing = sample.spacing or (1.0,) * len(source_shape)
    step, shape = np.ones(len(source_shape)), shape_of(sample, layout)
    if layout.resized:
        step = np.array(source_shape) / shape
    elif layout.spacing is not None:
        step = np.array([t / s for t, s in zip(layout.spacing, spacing, strict=True)])
    if np.allclose(step, 1, rtol=1e-6):
        image = as_dtype(image, layout.dtype)
    else:
        resize = resize_plane if len(source_shape) == 2 else resample_volume
        image = resize(image, step, shape, layout.dtype, smooth=True)
        mask = resize(mask, step, shape, "uint8", smooth=False) if mask is not None else None
    return Whole(
        image=image, mask=mask, spacing=tuple(float(s) for s in np.array(spacing) * step),
        affine=np.array(sample.affine) if sample.affine is not None else None, step=step, source_shape=source_shape,
        outside=float(as_dtype(np.array(AIR), layout.dtype)) if layout.unit == "HU" else float(image.min()),
    )  # fmt: skip


def rows_of(whole: Whole, layout: Layout) -> Iterator[Fitted]:
    """The rows of one sample: cropped or padded about its centre, or its bricks in the order of `offsets`."""
    shape = whole.image.shape[1:]
    places = offsets(shape, layout)
    for index, offset in enumerate(places):
        yield Fitted(
            image=crop_or_pad(whole.image, offset, layout.size, whole.outside),
            mask=crop_or_pad(whole.mask, offset, layout.size, 0) if whole.mask is not None else None,
            spacing=whole.spacing, affine=_moved(whole.affine, whole.step, offset) if whole.affine is not None else None,
            source_shape=whole.source_shape, original_shape=shape, offset=offset, brick=(index, len(places)),
        )  # fmt: skip


def offsets(shape: Sequence[int], layout: Layout) -> list[tuple[int, ...]]:
    """Where the rows of a sample begin in its grid of `shape`, after resampling."""
    if layout.overlap is not None:
        return brick_offsets(shape, layout.size, layout.overlap)
    return [tuple(centred(have, want) for have, want in zip(shape, layout.size, strict=True))]


def shape_of(sample: Gridded, layout: Layout) -> tuple[int, ...]:
    """Spatial shape of a sample after resampling."""
    if layout.resized:
        scale = min(n / have for n, have in zip(layout.size, sample.shape, strict=True))
        return tuple(max(1, round(n * scale)) for n in sample.shape)
    if layout.spacing is not None:
        return resampled_shape(sample.shape, sample.spacing or (1.0,) * len(sample.shape), layout.spacing)
    return sample.shape


def crop_or_pad(array: np.ndarray, offset: Sequence[int], size: Sequence[int], value: float) -> np.ndarray:
    """The window of `size` that starts at `offset` (may be negative) of array[C, *spatial], filled with `value` outside it."""
    if array.shape[1:] == tuple(size) and not any(offset):
        return array
    out = np.full((len(array), *size), value, array.dtype)
    source = tuple(slice(max(0, o), max(0, min(have, o + n))) for o, n, have in zip(offset, size, array.shape[1:], strict=True))
    target = tuple(slice(max(0, -o), max(0, -o) + s.stop - s.start) for o, s in zip(offset, source, strict=True))
    out[(slice(None), *target)] = array[(slice(None), *source)]
    return out


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


def _moved(affine: np.ndarray, step: np.ndarray, offset: Sequence[int]) -> np.ndarray:
    """The affine of a resampled and shifted grid, from the source's."""
    change = np.eye(4)
    change[:3, :3] = np.diag(step)
    change[:3, 3] = np.array(offset) * step + step / 2 - 0.5
    return affine @ change
