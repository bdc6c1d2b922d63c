"""What is cut out or mixed in: random erasing, mixup and cutmix."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hepdist.augment.random import COIN, CUTMIX, CUTMIX_PLACE, ERASE, MIXUP, Key, column, uniform

if TYPE_CHECKING:
    from hepdist.sections import AugmentSpec

STRETCH = math.log(2.0)
"""Logarithm of the most that an erased box's side is longer or shorter, compared with the image's own proportions."""


def erase(image: Tensor, largest: float, key: Key) -> Tensor:
    """The image with a box of at most `largest` of it set to each channel's mean. Random erasing, Zhong et al., 2020.

    The share, the proportions and the place of the box are each sample's own.
    """
    dims = image.ndim - 2
    draws = uniform(*key, ERASE, 2 * dims + 1)
    stretch = (draws[:, :dims] * 2 - 1) * STRETCH
    stretch = (stretch - stretch.mean(1, keepdim=True)).exp()
    lengths = _lengths(image, draws[:, -1] * largest, stretch)
    mean = image.flatten(2).mean(2, dtype=torch.float64).to(image.dtype)
    return torch.where(_box(image, lengths, draws[:, dims:-1]), mean.reshape(*mean.shape, *(1,) * dims), image)


def mix(batch: dict[str, Tensor], spec: AugmentSpec, key: Key) -> None:
    """Mix each image with the one before it in the portion (the first with the last); the own share is at least one half.

    Mixup (Zhang et al., 2018) adds the two up; cutmix (Yun et al., 2019) sets a box of the other, of the image's proportions, into the own; with
    both, each sample has one of them by a coin. The share is the sample's own draw of Beta(alpha, alpha), folded to [0.5, 1]. Padding and
    unlabelled rows neither mix nor are mixed in. The order of an epoch is random, so neighbours are a random pair.
    """
    image, label = batch["image"], batch["label"]
    real = batch["weight"] > 0
    if label.ndim == 1:
        real = real & (label >= 0)
    pairs = real & real.roll(1, 0)
    other = image.roll(1, 0)
    if spec.mixup:
        share = torch.where(pairs, _share(spec.mixup, key, MIXUP), 1.0)
        own = column(share, image.ndim - 1)
        mixed = own * image + (1 - own) * other
    if spec.cutmix:
        cut = torch.where(pairs, 1 - _share(spec.cutmix, key, CUTMIX), 0.0)
        lengths = _lengths(image, cut, torch.ones_like(cut)[:, None])
        pasted = torch.where(_box(image, lengths, uniform(*key, CUTMIX_PLACE, image.ndim - 2)), other, image)
        kept = 1 - lengths.prod(1) / math.prod(image.shape[2:])
        if spec.mixup:
            chosen = uniform(*key, COIN, 1)[:, 0] < 0.5
            mixed, share = torch.where(column(chosen, image.ndim - 1), pasted, mixed), torch.where(chosen, kept, share)
        else:
            mixed, share = pasted, kept
    batch["image"], batch["mixed_label"], batch["mixed_share"] = mixed, label.roll(1, 0), share


def _lengths(image: Tensor, share: Tensor, stretch: Tensor) -> Tensor:
    """float32[b, axes], whole numbers: sides of a box of that share of the image, the image's proportions times `stretch`."""
    sides = torch.tensor(image.shape[2:], dtype=torch.float32, device=image.device)
    return torch.minimum((sides * share[:, None] ** (1 / len(sides)) * stretch).round(), sides)


def _box(image: Tensor, lengths: Tensor, place: Tensor) -> Tensor:
    """bool[b, 1, *spatial]: the box with these sides at `place` float32[b, axes] in [0, 1) of where it fits."""
    inside = torch.ones(len(image), *(1,) * (image.ndim - 1), dtype=torch.bool, device=image.device)
    for axis, side in enumerate(image.shape[2:]):
        first = column((place[:, axis] * (side - lengths[:, axis] + 1)).floor(), image.ndim - 1)
        shape = [1] * image.ndim
        shape[axis + 2] = side
        voxel = torch.arange(side, device=image.device).reshape(shape)
        inside = inside & (voxel >= first) & (voxel < first + column(lengths[:, axis], image.ndim - 1))
    return inside


def _share(alpha: float, key: Key, stream: int) -> Tensor:
    """float32[b]: draws of Beta(alpha, alpha), folded to [0.5, 1]."""
    level = uniform(*key, stream, 1)[:, 0] * (BETA_KNOTS - 1)
    table = torch.tensor(_beta_quantiles(alpha), dtype=torch.float32, device=level.device)
    knot = level.long()
    share = torch.lerp(table[knot], table[(knot + 1).clamp(max=BETA_KNOTS - 1)], level - knot)
    return torch.maximum(share, 1 - share)


BETA_KNOTS = 4097


@lru_cache(maxsize=8)
def _beta_quantiles(alpha: float) -> list[float]:
    """Quantiles of Beta(alpha, alpha) at evenly spaced probabilities: a draw is then a look-up on the device."""
    import numpy as np
    from scipy.special import betaincinv

    return betaincinv(alpha, alpha, np.linspace(0, 1, BETA_KNOTS)).tolist()
