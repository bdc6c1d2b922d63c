"""Random numbers as a pure function of (seed, epoch, position, stream, index): no state, so no worker count and no restart changes them.

SplitMix64 (Steele et al., 2014) on int64 tensors, whose products wrap on every device as unsigned ones do.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

GAMMA = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed 64-bit number: the golden ratio's fraction
POISSON_STEPS = 8
"""Most steps from the approximate quantile: two suffice from expectations of 0.01 to 10,000."""
MULTIPLIERS = (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)  # 0xBF58476D1CE4E5B9 and 0x94D049BB133111EB

ROTATE, SCALE, TRANSLATE, CROP, FLIP, BRIGHTNESS, CONTRAST, GAMMA_CURVE, NOISE, NOISE_LEVEL, MIXUP = range(11)
ELASTIC, BLUR, ERASE, CUTMIX, CUTMIX_PLACE, COIN = range(11, 17)
"""Streams, one for each purpose; a new one comes last, since the number is part of the draw."""

Key = tuple[Tensor, int, int]
"""position int64[b], seed, epoch."""


def uniform(position: Tensor, seed: int, epoch: int, stream: int, n: int) -> Tensor:
    """float32[b, n] in [0, 1), multiples of 2^-24: n draws for each sample.

    position: int64[b], the sample's index in the epoch. stream: a number for each purpose, so that purposes don't share draws.
    """
    return _bits(position, seed, epoch, stream, n).bitwise_and(0xFFFFFF).to(torch.float32) * 2.0**-24


def normal(position: Tensor, seed: int, epoch: int, stream: int, n: int) -> Tensor:
    """float32[b, n] of the standard normal distribution (Box and Muller, 1958), at most 5.8 in absolute value.

    One 64-bit draw gives two uniforms of 24 bits, and these two normals.
    """
    bits = _bits(position, seed, epoch, stream, (n + 1) // 2)
    radius = (((bits & 0xFFFFFF) + 1).to(torch.float32) * 2.0**-24).log_().mul_(-2).sqrt_()
    angle = ((bits >> 24) & 0xFFFFFF).to(torch.float32) * (2 * math.pi * 2.0**-24)
    return torch.cat((radius * angle.cos(), radius * angle.sin()), dim=1)[:, :n]


def signed(key: Key, stream: int, n: int) -> Tensor:
    """float32[b, n] in [-1, 1)."""
    return uniform(*key, stream, n) * 2 - 1


def column(values: Tensor, dims: int) -> Tensor:
    """values[b] shaped [b, 1, ...] with `dims` ones."""
    return values.reshape(-1, *(1,) * dims)


def poisson(position: Tensor, seed: int, epoch: int, stream: int, rate: Tensor) -> Tensor:
    """float32[b, n] of the Poisson distribution with expectation rate float32[b, n]: a draw for each sample and place.

    The smallest count whose distribution function reaches a uniform draw of 24 bits, in float64: Cornish and Fisher's approximation
    (1938) of it, then steps to a neighbouring count where it is off, which are few.
    """
    draw = (_bits(position, seed, epoch, stream, rate.shape[1]).bitwise_and(0xFFFFFF).to(torch.float64) + 0.5) * 2.0**-24
    quantile = torch.special.ndtri(draw)
    expected = rate.to(torch.float64)
    count = (expected + expected.sqrt() * quantile + (quantile.square() - 1) / 6 - 0.5).ceil().clamp_(min=0).flatten()
    draw, expected = draw.flatten(), expected.flatten()
    unsettled = torch.arange(len(count), device=count.device)
    for _ in range(POISSON_STEPS):
        k, mean, goal = count[unsettled], expected[unsettled], draw[unsettled]
        reached = torch.special.gammaincc(k + 1, mean)  # the chance of k or less
        before = reached - (torch.xlogy(k, mean) - mean - torch.lgamma(k + 1)).exp()
        step = (reached < goal).to(k.dtype) - ((before >= goal) & (k > 0)).to(k.dtype)
        count[unsettled] = k + step
        unsettled = unsettled[step != 0]
        if not len(unsettled):
            break
    return count.reshape(rate.shape).to(torch.float32)


def _bits(position: Tensor, seed: int, epoch: int, stream: int, n: int) -> Tensor:
    """int64[b, n]: counters n of the generator that (seed, epoch, stream, position) selects."""
    key = position.new_tensor([seed])
    for part in (epoch, stream):
        key = _mix(key + GAMMA) ^ part
    start = _mix((_mix(key + GAMMA) ^ position) + GAMMA)
    counter = torch.arange(1, n + 1, dtype=torch.int64, device=position.device)
    return _mix(start[:, None] + counter * GAMMA)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser: every input bit changes every output bit with probability one half."""
    x = (x ^ _shift(x, 30)) * MULTIPLIERS[0]
    x = (x ^ _shift(x, 27)) * MULTIPLIERS[1]
    return x ^ _shift(x, 31)


def _shift(x: Tensor, by: int) -> Tensor:
    """A right shift that fills with zeros; torch's own fills with the sign."""
    return (x >> by) & ((1 << (64 - by)) - 1)
