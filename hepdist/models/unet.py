"""U-Net in 2D and 3D with residual encoder and deep supervision as options; any image size goes in and comes out.

Ronneberger et al., 2015; the layers (strided convolutions, instance norm, leaky ReLU, transposed convolutions) are nnU-Net's
(Isensee et al., 2021) and MONAI's DynUNet. Departure: an input that doesn't halve evenly is cropped in the decoder, not refused.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hepdist.models.layers import CONV, DROPOUT, TRANSPOSED, channels_last, convolution, initialise, normalisation
from hepdist.models.specs import UNetSpec

SMALLEST_SIDE = 4
"""Voxels below which a side is no longer halved."""
SHARPEN_WIDTH = 8
"""Channels at full resolution where the first level has half of it."""


class UNet(nn.Module):
    """image float[b, C, *spatial] -> logits float[b, classes, *spatial].

    In training with deep supervision: a list of logits, finest first, each level at half the resolution of the one before.
    """

    inputs = ("image",)

    def __init__(self, spec: UNetSpec, image_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        channels, *sides = image_shape
        dims = len(sides)
        first = tuple(spec.stride if side // spec.stride >= SMALLEST_SIDE else 1 for side in sides)
        strides = [first, *_strides([-(-side // s) for side, s in zip(sides, first, strict=True)], spec.depth - 1)]
        widths = [min(spec.width << level, spec.max_width) for level in range(len(strides))]
        block = ResidualBlock if spec.residual else ConvBlock
        self.encoder = nn.ModuleList(
            block(spec, dims, inputs, outputs, stride)
            for inputs, outputs, stride in zip([channels, *widths], widths, strides, strict=False)
        )
        self.upsample = nn.ModuleList(
            TRANSPOSED[dims](lower, width, stride, stride=stride, bias=False)
            for width, lower, stride in zip(widths, widths[1:], strides[1:], strict=False)
        )
        self.decoder = nn.ModuleList(ConvBlock(spec, dims, 2 * width, width, (1,) * dims) for width in widths[:-1])
        self.deep_supervision = spec.deep_supervision
        supervised = max(len(widths) - 1, 1) if spec.deep_supervision else 1
        self.sharpen = Sharpen(spec, dims, channels, widths[0], first) if max(first) > 1 else None
        finest = widths[0] if self.sharpen is None else SHARPEN_WIDTH
        self.heads = nn.ModuleList(CONV[dims](width, classes, 1) for width in [finest, *widths[1:supervised]])
        initialise(self)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        skips = []
        x = image
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        levels: list[Tensor] = []
        for level in reversed(range(len(self.decoder))):
            up = crop(self.upsample[level](x), skips[level])
            x = self.decoder[level](torch.cat((up, skips[level]), dim=1))
            levels.insert(0, x)
        finest = x if self.sharpen is None else self.sharpen(x, image)
        if not (self.training and self.deep_supervision):
            return self.heads[0](finest)
        return [head(features) for head, features in zip(self.heads, [finest, *levels[1:]], strict=False)]


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
    """From the first level's half resolution to the image's: upsampled features and the image itself through one narrow convolution."""

    def __init__(self, spec: UNetSpec, dims: int, channels: int, width: int, stride: tuple[int, ...]) -> None:
        super().__init__()
        self.upsample = TRANSPOSED[dims](width, SHARPEN_WIDTH, stride, stride=stride, bias=False)
        self.conv = convolution(dims, SHARPEN_WIDTH + channels, SHARPEN_WIDTH)
        self.norm = normalisation(spec.norm, dims, SHARPEN_WIDTH)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        return _leaky(self.norm(channels_last(self.conv(torch.cat((crop(self.upsample(x), image), image), dim=1)))))


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
