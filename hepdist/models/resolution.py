"""How a segmentation network changes resolution: strides that suit the image, blocks of voxels as channels and back, odd sides."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

SMALLEST_SIDE = 4
"""Voxels below which a side is no longer halved."""


def first_stride(sides: list[int], stride: int) -> tuple[int, ...]:
    """Per axis `stride`, or 1 where the side would fall below SMALLEST_SIDE."""
    return tuple(stride if side // stride >= SMALLEST_SIDE else 1 for side in sides)


def halvings(sides: list[int], most: int) -> list[tuple[int, ...]]:
    """Per further level and axis 2 where half the side is still SMALLEST_SIDE, else 1; ends when no side can be halved."""
    strides = []
    for _ in range(most):
        stride = first_stride(sides, 2)
        if max(stride) == 1:
            break
        sides = strided(sides, stride)
        strides.append(stride)
    return strides


def strided(sides: list[int], stride: tuple[int, ...]) -> list[int]:
    """Sides after a stride; what doesn't fill a step counts as one."""
    return [-(-side // s) for side, s in zip(sides, stride, strict=True)]


def fill(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """x with each side that the stride doesn't divide filled up with its last voxel."""
    short = [-side % s for side, s in zip(x.shape[2:], stride, strict=True)]
    if not any(short):
        return x
    return nn.functional.pad(x, [n for after in reversed(short) for n in (0, after)], mode="replicate")


def fold(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """[b, C, *spatial] -> [b, C * prod(stride), *(spatial / stride)]: each block of voxels becomes the channels of one (space to depth)."""
    if max(stride) == 1:
        return x
    x = fill(x, stride)
    dims = len(stride)
    blocks = [n for side, s in zip(x.shape[2:], stride, strict=True) for n in (side // s, s)]
    within, outer = [3 + 2 * i for i in range(dims)], [2 + 2 * i for i in range(dims)]
    return x.reshape(*x.shape[:2], *blocks).permute(0, 1, *within, *outer).flatten(1, 1 + dims)


def unfold(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """The inverse of `fold`: channels become the voxels of a block (sub-pixel convolution, Shi et al., 2016)."""
    if max(stride) == 1:
        return x
    dims, inner = len(stride), math.prod(stride)
    x = x.reshape(x.shape[0], x.shape[1] // inner, *stride, *x.shape[2:])
    x = x.permute(0, 1, *(axis for i in range(dims) for axis in (2 + dims + i, 2 + i)))
    return x.reshape(*x.shape[:2], *(x.shape[2 + 2 * i] * x.shape[3 + 2 * i] for i in range(dims)))


def crop(x: Tensor, like: Tensor) -> Tensor:
    """x without the last voxels of the axes on which `like` is smaller (an odd side is one longer after halving and doubling)."""
    return x[(slice(None), slice(None), *(slice(side) for side in like.shape[2:]))]


def beside(x: Tensor, skip: Tensor) -> Tensor:
    """x, cropped to the skip connection's size, and the skip as one tensor of both channels."""
    return torch.cat((crop(x, skip), skip), dim=1)
