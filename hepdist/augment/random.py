"""Random numbers as a pure function of (seed, epoch, position, stream, index): no state, so no worker count and no restart changes them.

SplitMix64 (Steele et al., 2014) on int64 tensors, whose products wrap on every device as unsigned ones do.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

GAMMA = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed 64-bit number: the golden ratio's fraction
MULTIPLIERS = (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)  # 0xBF58476D1CE4E5B9 and 0x94D049BB133111EB


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


def poisson(position: Tensor, seed: int, epoch: int, stream: int, rate: Tensor) -> Tensor:
    """float32[b, n] of the Poisson distribution with expectation rate float32[b, n]: a draw for each sample and place.

    The inverse of the distribution function, found from Cornish and Fisher's approximation (1938) by steps to the neighbouring count; the
    function is taken in float64. 24 bits a draw: counts rarer than 6e-8 don't come.
    """
    draw = (_bits(position, seed, epoch, stream, rate.shape[1]).bitwise_and(0xFFFFFF).to(torch.float64) + 0.5) * 2.0**-24
    rate = rate.to(torch.float64)
    quantile = torch.special.ndtri(draw)
    count = (rate + rate.sqrt() * quantile + (quantile.square() - 1) / 6).round().clamp(min=0)
    while True:  # twice or three times
        more = torch.special.gammaincc(count + 1, rate) < draw
        less = (count > 0) & (torch.special.gammaincc(count.clamp(min=1), rate) >= draw)
        if not (more | less).any():
            return count.to(torch.float32)
        count = count + more.to(count.dtype) - less.to(count.dtype)


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
