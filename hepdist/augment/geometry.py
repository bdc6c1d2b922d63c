"""Where voxels go: rotation, zoom, shift, smooth deformation, window and mirrors, the same for an image and its mask."""

from __future__ import annotations

import math
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from hepdist.augment.random import CROP, ELASTIC, FLIP, ROTATE, SCALE, TRANSLATE, Key, column, signed, uniform

if TYPE_CHECKING:
    from hepdist.sections import AugmentSpec

KNOTS = 4
"""Spaces between the control points of a deformation along each side. Shifts up to 0.4 of a space fold nothing (Choi & Lee, 2000), which
is the 0.1 of a side that the recipe allows."""


def move(batch: dict[str, Tensor], spec: AugmentSpec, key: Key) -> None:
    """Change `image`, and `mask` along with it where there is one, in place of the batch's own."""
    if spec.rotate or spec.scale or spec.translate or spec.elastic:
        _warp(batch, spec, key)
    elif spec.crop:
        _crop(batch, _corner(batch["image"], spec, key), spec.crop)
    for axis in spec.flip:
        _mirror(batch, axis, uniform(*key, FLIP, axis + 1)[:, axis] < 0.5)


def _warp(batch: dict[str, Tensor], spec: AugmentSpec, key: Key) -> None:
    """Rotate, zoom and shift about the centre, deform, then crop; images linearly, masks by nearest voxel, both continued by their border.

    Where the batch has `spacing` (mm, float32[b, axes]), rotations are in millimetres and don't shear thick slices. Only the voxels
    of the window are computed.
    """
    image = batch["image"]
    sides, device = image.shape[2:], image.device
    dims = len(sides)
    window = _window(image, spec)
    corner = _corner(image, spec, key)
    planes = list(combinations(range(dims), 2))
    angles = signed(key, ROTATE, len(planes)) * math.radians(spec.rotate)
    zoom = 1 + signed(key, SCALE, 1)[:, 0] * spec.scale
    shift = signed(key, TRANSLATE, dims) * spec.translate
    spacing = batch["spacing"].to(torch.float32) if "spacing" in batch else torch.ones_like(shift)
    # One axis after another, by sums and products only: a batched matrix product may round differently for another batch size.
    points, places = [], []
    for axis, (side, length) in enumerate(zip(sides, window, strict=True)):
        shape = [1] * (dims + 1)
        shape[axis + 1] = length
        voxel = torch.arange(length, dtype=torch.float32, device=device).reshape(shape) + column(corner[:, axis], dims)
        places.append(voxel / max(side - 1, 1))
        points.append((voxel - (side - 1) / 2) * column(spacing[:, axis], dims))
    for index, (i, j) in enumerate(planes):
        cos, sin = column(angles[:, index].cos(), dims), column(angles[:, index].sin(), dims)
        points[i], points[j] = cos * points[i] - sin * points[j], sin * points[i] + cos * points[j]
    bend = _bend(places, spec.elastic, key) if spec.elastic else None
    grid = []
    for axis, side in enumerate(sides):
        voxel = points[axis] * column(1 / (zoom * spacing[:, axis]), dims) - column(shift[:, axis] * side, dims)
        if bend is not None:
            voxel = voxel + bend[:, axis] * side
        grid.append((voxel * (2 / max(side - 1, 1))).expand(len(image), *window))
    samples = torch.stack(grid[::-1], dim=-1)  # grid_sample names the last axis first
    batch["image"] = grid_sample(image, samples, mode="bilinear", padding_mode="border", align_corners=True)
    if "mask" in batch:
        mask = batch["mask"]
        moved = grid_sample(mask.to(torch.float32), samples, mode="nearest", padding_mode="border", align_corners=True)
        batch["mask"] = moved.to(mask.dtype)


def _bend(places: list[Tensor], largest: float, key: Key) -> Tensor:
    """float32[b, axes, *window]: the shift of each voxel along each axis, as a share of the side, at most `largest`.

    places: for each axis float32[b, 1 ..., length, ... 1], where its voxels lie between 0 and 1. A free-form deformation by cubic B-splines
    (Rueckert et al., 1999), one axis after another; each control point's shift is drawn evenly.
    """
    dims, rows = len(places), len(places[0])
    points = KNOTS + 3
    field = (signed(key, ELASTIC, dims * points**dims) * largest).reshape(rows, dims, *(points,) * dims)
    for axis, place in enumerate(places):
        at = place * KNOTS
        first = at.floor().clamp(max=KNOTS - 1)
        weights = [weight[:, None] for weight in _cubic(at - first)]
        knot = first.long()[:, None]
        field = sum(weight * torch.take_along_dim(field, knot + tap, dim=axis + 2) for tap, weight in enumerate(weights))  # type: ignore[assignment]
    return field


def _cubic(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights of the four control points around a place, t in [0, 1] from the second to the third."""
    s = 1 - t
    return s * s * s / 6, (3 * t * t * (t - 2) + 4) / 6, (3 * s * s * (s - 2) + 4) / 6, t * t * t / 6


def _window(image: Tensor, spec: AugmentSpec) -> tuple[int, ...]:
    """Sides of what training sees: `crop`, where the image is as large."""
    sides = tuple(image.shape[2:])
    return tuple(min(side, crop) for side, crop in zip(sides, spec.crop, strict=True)) if spec.crop else sides


def _corner(image: Tensor, spec: AugmentSpec, key: Key) -> Tensor:
    """float32[b, axes], whole numbers: the window's first voxel, every place inside the image being as likely."""
    places = torch.tensor(image.shape[2:], device=image.device) - torch.tensor(_window(image, spec), device=image.device) + 1
    return (uniform(*key, CROP, len(places)) * places).floor()


def _crop(batch: dict[str, Tensor], corner: Tensor, window: tuple[int, ...]) -> None:
    corners = corner.long().tolist()
    for name in ("image", "mask"):
        if name in batch:
            rows = [
                x[(slice(None), *(slice(c, c + n) for c, n in zip(cs, window, strict=True)))]
                for x, cs in zip(batch[name], corners, strict=True)
            ]
            batch[name] = torch.stack(rows)


def _mirror(batch: dict[str, Tensor], axis: int, chosen: Tensor) -> None:
    for name in ("image", "mask"):
        if name in batch:
            x = batch[name]
            batch[name] = torch.where(column(chosen, x.ndim - 1), x.flip(axis + 2), x)
