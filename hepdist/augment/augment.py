"""Random augmentation of a batch: affine, mirrors, intensity, noise and mixup, each drawn per sample from its position."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from hepdist.augment.random import normal, uniform

if TYPE_CHECKING:
    from hepdist.recipe import AugmentSpec

ROTATE, SCALE, TRANSLATE, CROP, FLIP, BRIGHTNESS, CONTRAST, GAMMA, NOISE, NOISE_LEVEL, MIXUP = range(11)
"""Streams of random.uniform, one for each purpose."""


def augment(batch: dict[str, Tensor], spec: AugmentSpec, seed: int, epoch: int) -> dict[str, Tensor]:
    """The batch with changed `image`, and with `mask` moved and cropped along where there is one.

    image: normalised float32[b, C, *spatial]; mask: uint8[b, 1, *spatial]; position: int64[b]. A sample's change depends only on (seed,
    epoch, position), never on its neighbours, the worker count or torch's generator; mixup's partner is the one exception (see `_mixup`).
    With mixup the batch also holds `mixed_label` (the partner's label) and `mixed_share` float32[b] (the own image's share, 0.5 to 1).
    """
    out = dict(batch)
    if "image" not in batch or not len(batch["image"]):
        return out
    key = (batch["position"], seed, epoch)
    if spec.rotate or spec.scale or spec.translate:
        _affine(out, spec, key)
    elif spec.crop:
        _crop(out, _corner(out["image"], spec, key), spec.crop)
    for axis in spec.flip:
        _mirror(out, axis, uniform(*key, FLIP, axis + 1)[:, axis] < 0.5)
    out["image"] = _intensity(out["image"], spec, key)
    if spec.mixup:
        _mixup(out, spec.mixup, key)
    return out


Key = tuple[Tensor, int, int]


def _affine(batch: dict[str, Tensor], spec: AugmentSpec, key: Key) -> None:
    """Rotate, zoom and shift about the centre, then crop; images linearly, masks by nearest voxel, both continued by their border.

    Where the batch has `spacing` (mm, float32[b, axes]), rotations are in millimetres and don't shear thick slices. Only the voxels
    of the window are computed.
    """
    image = batch["image"]
    sides, device = image.shape[2:], image.device
    dims = len(sides)
    window = _window(image, spec)
    corner = _corner(image, spec, key)
    planes = list(combinations(range(dims), 2))
    angles = _signed(key, ROTATE, len(planes)) * math.radians(spec.rotate)
    zoom = 1 + _signed(key, SCALE, 1)[:, 0] * spec.scale
    shift = _signed(key, TRANSLATE, dims) * spec.translate
    spacing = batch["spacing"].to(torch.float32) if "spacing" in batch else torch.ones_like(shift)
    # One axis after another, by sums and products only: a batched matrix product may round differently for another batch size.
    points = []
    for axis, (side, length) in enumerate(zip(sides, window, strict=True)):
        shape = [1] * (dims + 1)
        shape[axis + 1] = length
        voxel = torch.arange(length, dtype=torch.float32, device=device).reshape(shape) + _column(corner[:, axis], dims)
        points.append((voxel - (side - 1) / 2) * _column(spacing[:, axis], dims))
    for index, (i, j) in enumerate(planes):
        cos, sin = _column(angles[:, index].cos(), dims), _column(angles[:, index].sin(), dims)
        points[i], points[j] = cos * points[i] - sin * points[j], sin * points[i] + cos * points[j]
    grid = []
    for axis, side in enumerate(sides):
        voxel = points[axis] * _column(1 / (zoom * spacing[:, axis]), dims) - _column(shift[:, axis] * side, dims)
        grid.append((voxel * (2 / max(side - 1, 1))).expand(len(image), *window))
    samples = torch.stack(grid[::-1], dim=-1)  # grid_sample names the last axis first
    batch["image"] = grid_sample(image, samples, mode="bilinear", padding_mode="border", align_corners=True)
    if "mask" in batch:
        mask = batch["mask"]
        moved = grid_sample(mask.to(torch.float32), samples, mode="nearest", padding_mode="border", align_corners=True)
        batch["mask"] = moved.to(mask.dtype)


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
            batch[name] = torch.where(_column(chosen, x.ndim - 1), x.flip(axis + 2), x)


def _intensity(image: Tensor, spec: AugmentSpec, key: Key) -> Tensor:
    """Gamma, contrast, brightness, noise, in this order, so that noise is not amplified; each at a strength of its own per sample."""
    flat = image.flatten(1)
    if spec.gamma:
        low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
        span = torch.where(high > low, high - low, 1.0)
        flat = ((flat - low) / span) ** (1 + _signed(key, GAMMA, 1) * spec.gamma) * span + low
    if spec.contrast:
        mean = flat.mean(1, keepdim=True, dtype=torch.float64).to(torch.float32)
        flat = (flat - mean) * (1 + _signed(key, CONTRAST, 1) * spec.contrast) + mean
    if spec.brightness:
        flat = flat + _signed(key, BRIGHTNESS, 1) * spec.brightness
    if spec.noise:
        n = flat.shape[1]
        flat = flat + normal(*key, NOISE, n) * (uniform(*key, NOISE_LEVEL, 1) * spec.noise)
    return flat.reshape(image.shape)


def _mixup(batch: dict[str, Tensor], alpha: float, key: Key) -> None:
    """Mix each image with the one before it in the portion (the first with the last); the own share is at least one half.

    The share is the sample's own draw of Beta(alpha, alpha), folded to [0.5, 1]. Padding and unlabelled rows neither mix nor are mixed in.
    Zhang et al., 2018; the order of an epoch is random, so neighbours are a random pair.
    """
    label = batch["label"]
    real = batch["weight"] > 0
    if label.ndim == 1:
        real = real & (label >= 0)
    level = uniform(*key, MIXUP, 1)[:, 0] * (BETA_KNOTS - 1)
    table = torch.tensor(_beta_quantiles(alpha), dtype=torch.float32, device=level.device)
    knot = level.long()
    share = torch.lerp(table[knot], table[(knot + 1).clamp(max=BETA_KNOTS - 1)], level - knot)
    share = torch.where(real & real.roll(1, 0), torch.maximum(share, 1 - share), 1.0)
    image = batch["image"]
    own = _column(share, image.ndim - 1)
    batch["image"] = own * image + (1 - own) * image.roll(1, 0)
    batch["mixed_label"] = label.roll(1, 0)
    batch["mixed_share"] = share


BETA_KNOTS = 4097


@lru_cache(maxsize=8)
def _beta_quantiles(alpha: float) -> list[float]:
    """Quantiles of Beta(alpha, alpha) at evenly spaced probabilities: a draw is then a look-up on the device."""
    import numpy as np
    from scipy.special import betaincinv

    return betaincinv(alpha, alpha, np.linspace(0, 1, BETA_KNOTS)).tolist()


def _signed(key: Key, stream: int, n: int) -> Tensor:
    """float32[b, n] in [-1, 1)."""
    return uniform(*key, stream, n) * 2 - 1


def _column(values: Tensor, dims: int) -> Tensor:
    """values[b] shaped [b, 1, ...] with `dims` ones."""
    return values.reshape(-1, *(1,) * dims)
