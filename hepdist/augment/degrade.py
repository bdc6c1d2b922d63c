"""Degradations that a restoration model is to undo: Poisson-Gaussian noise, blur and occlusion, drawn per sample from its position."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hepdist.augment.intensity import blur
from hepdist.augment.random import normal, poisson, uniform
from hepdist.errors import RecipeError

if TYPE_CHECKING:
    from hepdist.recipe import Recipe
    from hepdist.sections import DegradeSpec
    from hepdist.shards.manifest import Manifest

KIND, PHOTONS, READ_NOISE, ARRIVALS, READING, BLUR, SHARE, ASPECT, PLACE, GREY = range(100, 110)
"""Streams of random.uniform, apart from those of augment.py."""

Key = tuple[Tensor, int, int]
"""(position, seed, epoch), as hepdist.augment.random takes them."""


@dataclass(frozen=True)
class Scale:
    """Where black and white lie in normalised images, by channel; degradations and scores are defined between them, on 0 to 1."""

    black: tuple[float, ...]
    white: tuple[float, ...]

    @classmethod
    def of(cls, recipe: Recipe, manifest: Manifest) -> Scale:
        """From `stored_ends`, as recipe.data.normalise moves them.

        Raises RecipeError for data.normalise=image, which leaves no common black and white.
        """
        if recipe.data.normalise == "image":
            raise RecipeError(
                "recipe key 'data.normalise' is 'image', but restoration measures between one black and one white; use cohort or none"
            )
        field, (low, high) = manifest.fields["image"], stored_ends(manifest)
        if recipe.data.normalise == "cohort":
            means, stds = manifest.normalisation["image"]["mean"], manifest.normalisation["image"]["std"]
        else:
            largest = 1.0 if field.dtype.startswith("float") else float(np.iinfo(field.dtype).max)
            means, stds = [0.0] * field.shape[0], [largest] * field.shape[0]
        pairs = [(m, s if s > 0 else 1.0) for m, s in zip(means, stds, strict=True)]
        return cls(tuple((low - m) / s for m, s in pairs), tuple((high - m) / s for m, s in pairs))

    def to_unit(self, image: Tensor) -> Tensor:
        """A normalised image float32[b, C, *spatial] with black at 0 and white at 1, not clipped."""
        black, span = self._columns(image)
        return (image - black) / span

    def from_unit(self, image: Tensor) -> Tensor:
        black, span = self._columns(image)
        return image * span + black

    def _columns(self, image: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, -1, *(1,) * (image.ndim - 2))
        black, white = (torch.tensor(ends, dtype=torch.float32, device=image.device).reshape(shape) for ends in (self.black, self.white))
        return black, white - black


def stored_ends(manifest: Manifest) -> tuple[float, float]:
    """Black and white as images are stored: 0 and 255 of uint8, of other types the 0.5th and 99.5th percentile of train intensities."""
    if manifest.fields["image"].dtype == "uint8":
        return 0.0, 255.0
    percentiles = manifest.fingerprint["train_intensity_percentiles"]
    return percentiles["0.5"], percentiles["99.5"]


def degrade(batch: dict[str, Tensor], spec: DegradeSpec, scale: Scale, seed: int, epoch: int) -> dict[str, Tensor]:
    """The batch with a degraded `image`, and the one before as `target`; each sample gets one of spec.kinds, all as likely.

    image: normalised float32[b, C, *spatial]; position: int64[b]. A sample's kind and strength depend only on (seed, epoch, position).
    """
    key = (batch["position"], seed, epoch)
    clean = scale.to_unit(batch["image"])
    chosen = (uniform(*key, KIND, 1)[:, 0] * len(spec.kinds)).long()
    degraded = clean
    for index, kind in enumerate(spec.kinds):
        mine = torch.nonzero(chosen == index)[:, 0]
        if len(mine):
            degraded = degraded.index_copy(0, mine, degraded_unit(clean[mine], kind, spec, (key[0][mine], seed, epoch)))
    return {**batch, "image": scale.from_unit(degraded), "target": batch["image"]}


def degraded_unit(image: Tensor, kind: str, spec: DegradeSpec, key: Key) -> Tensor:
    """image float32[b, C, *spatial] between 0 (black) and 1 (white), degraded in the one way that `kind` names, not clipped."""
    if kind == "noise":
        return _noise(image, spec, key)
    if kind == "blur":
        return blur(image, _between(key, BLUR, spec.blur)[:, 0], math.ceil(3 * spec.blur[1]))
    return _occlusion(image, spec, key)


def _noise(image: Tensor, spec: DegradeSpec, key: Key) -> Tensor:
    """Photons that arrive, then the reading's error: variance x / photons + read_noise^2 at intensity x (Foi et al., 2008)."""
    photons = _between(key, PHOTONS, spec.photons, log=True)
    flat = image.flatten(1)
    arrived = poisson(*key, ARRIVALS, flat.clamp(min=0) * photons) / photons
    error = normal(*key, READING, flat.shape[1]) * _between(key, READ_NOISE, spec.read_noise)
    return (arrived + error).reshape(image.shape)


def _occlusion(image: Tensor, spec: DegradeSpec, key: Key) -> Tensor:
    """One box of one grey, with sides between 2:3 and 3:2 of equal shares, wholly inside the image."""
    dims = image.ndim - 2
    side_share = _between(key, SHARE, spec.occlusion) ** (1 / dims)
    stretch = (uniform(*key, ASPECT, 1) * 2 - 1) * (0.5 * math.log(1.5))
    corner, grey = uniform(*key, PLACE, dims), uniform(*key, GREY, 1)
    inside = torch.ones((1,) * image.ndim, dtype=torch.bool, device=image.device)
    for axis, side in enumerate(image.shape[2:]):
        sign = {0: 1, 1: -1}.get(axis, 0)  # what one side gains the other loses: the share stays
        length = (side * side_share * (sign * stretch).exp()).round().clamp(1, side)
        first = (corner[:, axis : axis + 1] * (side - length + 1)).floor()
        place = torch.arange(side, device=image.device)
        shape = [len(image), *(1,) * (dims + 1)]
        shape[axis + 2] = side
        inside = inside & ((place >= first) & (place < first + length)).reshape(shape)
    return torch.where(inside, grey.reshape(-1, *(1,) * (dims + 1)), image)


def _between(key: Key, stream: int, ends: tuple[float, float], *, log: bool = False) -> Tensor:
    """float32[b, 1] between the two ends, all as likely, or all ratios as likely."""
    low, high = ends
    draw = uniform(*key, stream, 1)
    return low * (high / low) ** draw if log else low + (high - low) * draw
