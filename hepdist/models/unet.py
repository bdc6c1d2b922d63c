"""U-Net in 2D and 3D with residual encoder and deep supervision as options; any image size goes in and comes out.

Ronneberger et al., 2015; the layers (strided convolutions, instance norm, leaky ReLU, transposed convolutions) are nnU-Net's
(Isensee et al., 2021) and MONAI's DynUNet. Departure: an input that doesn't halve evenly is cropped in the decoder, not refused.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hepdist.models.inputs import Inputs
from hepdist.models.layers import CONV, DROPOUT, TRANSPOSED, channels_last, convolution, initialise, normalisation
from hepdist.models.specs import UNetSpec

SMALLEST_SIDE = 4
"""Voxels below which a side is no longer halved."""


class UNet(nn.Module):
    """image float[b, C, *spatial] -> logits float[b, classes, *spatial].

    In training with deep supervision: a list of logits, finest first, each level at half the resolution of the one before.
    """

    inputs = ("image",)

    def __init__(self, spec: UNetSpec, inputs: Inputs, classes: int) -> None:
        super().__init__()
        channels, *sides = inputs.image
        dims = len(sides)
        first = tuple(spec.stride if side // spec.stride >= SMALLEST_SIDE else 1 for side in sides)
        self.stride = first
        channels *= math.prod(first)
        strides = [(1,) * dims, *_strides([-(-side // s) for side, s in zip(sides, first, strict=True)], spec.depth - 1)]
        widths = [min(spec.width << level, spec.max_width) for level in range(len(strides))]
        block = ResidualBlock if spec.residual else ConvBlock
        self.encoder = nn.ModuleList(
            block(spec, dims, narrow, wide, stride) for narrow, wide, stride in zip([channels, *widths], widths, strides, strict=False)
        )
        self.upsample = nn.ModuleList(
            TRANSPOSED[dims](lower, width, stride, stride=stride, bias=False)
            for width, lower, stride in zip(widths, widths[1:], strides[1:], strict=False)
        )
        self.decoder = nn.ModuleList(ConvBlock(spec, dims, 2 * width, width, (1,) * dims) for width in widths[:-1])
        self.deep_supervision = spec.deep_supervision
        supervised = max(len(widths) - 1, 1) if spec.deep_supervision else 1
        self.sharpen = Sharpen(spec, dims, widths[0] + channels, 2 * widths[0]) if max(first) > 1 else None
        finest = widths[0] if self.sharpen is None else 2 * widths[0]
        coarser = (CONV[dims](width, classes, 1) for width in widths[1:supervised])
        self.heads = nn.ModuleList([CONV[dims](finest, classes * math.prod(first), 1), *coarser])
        initialise(self)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        skips = []
        x = folded = fold(image, self.stride)
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        levels: list[Tensor] = []
        for level in reversed(range(len(self.decoder))):
            up = crop(self.upsample[level](x), skips[level])
            x = self.decoder[level](torch.cat((up, skips[level]), dim=1))
            levels.insert(0, x)
        if self.sharpen is not None:
            x = self.sharpen(torch.cat((x, folded), dim=1))
        finest = crop(unfold(self.heads[0](x), self.stride), image)
        if not (self.training and self.deep_supervision):
            return finest
        return [finest, *(head(features) for head, features in zip(self.heads[1:], levels[1:], strict=True))]


class ConvBlock(nn.Module):
    """Two times 3x3 convolution, norm, leaky ReLU; the first convolution takes the stride."""

    def __init__(self, spec: UNetSpec, dims: int, inputs: int, outputs: int, stride: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1 = convolution(dims, inputs, outputs, 3, stride)
        self.conv2 = convolution(dims, outputs, outputs)
        self.norm1 = normalisation(spec.norm, dims, outputs)
        self.norm2 = normalisation(spec.norm, dims, outputs)
        self.dropout = DROPOUT[dims](spec.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return _leaky(self.norm2(self.conv2(self.dropout(_leaky(self.norm1(channels_last(self.conv1(x))))))))


class ResidualBlock(ConvBlock):
    """ConvBlock with a shortcut added before the last activation; a 1x1 convolution and norm where size or channels change."""

    def __init__(self, spec: UNetSpec, dims: int, inputs: int, outputs: int, stride: tuple[int, ...]) -> None:
        super().__init__(spec, dims, inputs, outputs, stride)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs or max(stride) > 1:
            self.shortcut = nn.Sequential(convolution(dims, inputs, outputs, 1, stride), normalisation(spec.norm, dims, outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.dropout(_leaky(self.norm1(channels_last(self.conv1(x)))))))
        return _leaky(y + self.shortcut(x))


class Sharpen(nn.Module):
    """What a block's voxels need to be told apart, from the first level's features and the voxels themselves."""

    def __init__(self, spec: UNetSpec, dims: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = convolution(dims, inputs, outputs)
        self.norm = normalisation(spec.norm, dims, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return _leaky(self.norm(channels_last(self.conv(x))))


def fold(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """[b, C, *spatial] -> [b, C * prod(stride), *(spatial / stride)]: each block of voxels becomes the channels of one (space to depth).

    Sides that the stride doesn't divide are first filled up with their last voxel.
    """
    if max(stride) == 1:
        return x
    sides = x.shape[2:]
    short = [-side % s for side, s in zip(sides, stride, strict=True)]
    if any(short):
        x = nn.functional.pad(x, [n for after in reversed(short) for n in (0, after)], mode="replicate")
    dims = len(sides)
    blocks = [n for side, s in zip(x.shape[2:], stride, strict=True) for n in (side // s, s)]
    within, outer = [3 + 2 * i for i in range(dims)], [2 + 2 * i for i in range(dims)]
    return x.reshape(*x.shape[:2], *blocks).permute(0, 1, *within, *outer).flatten(1, 1 + dims)


def unfold(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """The inverse of `fold`: channels become the voxels of a block (sub-pixel convolution, Shi et al., 2016)."""
    if max(stride) == 1:
        return x
    dims, inner = len(stride), math.prod(stride)
    x = x.reshape(len(x), x.shape[1] // inner, *stride, *x.shape[2:])
    x = x.permute(0, 1, *(axis for i in range(dims) for axis in (2 + dims + i, 2 + i)))
    return x.reshape(*x.shape[:2], *(x.shape[2 + 2 * i] * x.shape[3 + 2 * i] for i in range(dims)))


def crop(x: Tensor, like: Tensor) -> Tensor:
    """x without the last voxels of the axes on which `like` is smaller (an odd side is one longer after halving and doubling)."""
    return x[(slice(None), slice(None), *(slice(side) for side in like.shape[2:]))]


def _leaky(x: Tensor) -> Tensor:
    return nn.functional.leaky_relu(x, 0.01, inplace=True)


def _strides(sides: list[int], halvings: int) -> list[tuple[int, ...]]:
    """Per further level and axis 2 where half the side is still SMALLEST_SIDE, else 1; ends when no side can be halved."""
    strides = []
    for _ in range(halvings):
        stride = tuple(2 if side // 2 >= SMALLEST_SIDE else 1 for side in sides)
        if max(stride) == 1:
            break
        sides = [-(-side // s) for side, s in zip(sides, stride, strict=True)]
        strides.append(stride)
    return strides
