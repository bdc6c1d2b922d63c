"""U-Net in 2D and 3D with residual encoder and deep supervision as options; any image size goes in and comes out.

Ronneberger et al., 2015; the layers (strided convolutions, instance norm, leaky ReLU, transposed convolutions) are nnU-Net's
(Isensee et al., 2021) and MONAI's DynUNet. Departure: an input that doesn't halve evenly is cropped in the decoder, not refused.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hepdist.models.inputs import Inputs
from hepdist.models.layers import CONV, DROPOUT, TRANSPOSED, activation, channels_last, checkpointed, convolution, initialise, normalisation
from hepdist.models.resolution import beside, crop, first_stride, fold, halvings, strided, unfold
from hepdist.models.specs import UNetSpec


class UNet(nn.Module):
    """image float[b, C, *spatial] -> logits float[b, classes, *spatial].

    In training with deep supervision: a list of logits, finest first, each level at half the resolution of the one before.
    """

    inputs = ("image",)

    def __init__(self, spec: UNetSpec, inputs: Inputs, classes: int) -> None:
        super().__init__()
        channels, *sides = inputs.image
        dims = len(sides)
        first = first_stride(sides, spec.stride)
        self.stride = first
        channels *= math.prod(first)
        strides = [(1,) * dims, *halvings(strided(sides, first), spec.depth - 1)]
        widths = [min(spec.width << level, spec.max_width) for level in range(len(strides))]
        self.grid = tuple(math.prod(steps) for steps in zip(first, *strides, strict=True))
        """Voxels of each axis that the coarsest level sees as one: sides that differ by multiples of it are halved alike."""
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
        self.checkpointing = spec.checkpointing
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
            x = self._run(stage, x)
            skips.append(x)
        levels: list[Tensor] = []
        for level in reversed(range(len(self.decoder))):
            x = self._run(self.decoder[level], beside(self.upsample[level](x), skips[level]))
            levels.insert(0, x)
        if self.sharpen is not None:
            x = self._run(self.sharpen, torch.cat((x, folded), dim=1))
        finest = crop(unfold(self.heads[0](x), self.stride), image)
        if not (self.training and self.deep_supervision):
            return finest
        return [finest, *(head(features) for head, features in zip(self.heads[1:], levels[1:], strict=True))]

    def _run(self, stage: nn.Module, x: Tensor) -> Tensor:
        return checkpointed(stage, x) if self.checkpointing else stage(x)


class ConvBlock(nn.Module):
    """Two times 3x3 convolution, norm, activation; the first convolution takes the stride."""

    def __init__(self, spec: UNetSpec, dims: int, inputs: int, outputs: int, stride: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1 = convolution(dims, inputs, outputs, 3, stride)
        self.conv2 = convolution(dims, outputs, outputs)
        self.norm1 = normalisation(spec.norm, dims, outputs)
        self.norm2 = normalisation(spec.norm, dims, outputs)
        self.activation1 = activation(spec.activation, outputs)
        self.activation2 = activation(spec.activation, outputs)
        self.dropout = DROPOUT[dims](spec.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation2(self.before_activation(x))

    def before_activation(self, x: Tensor) -> Tensor:
        """The block's outcome, except that the last activation is missing."""
        return self.norm2(self.conv2(self.dropout(self.activation1(self.norm1(channels_last(self.conv1(x)))))))


class ResidualBlock(ConvBlock):
    """ConvBlock with a shortcut added before the last activation; a 1x1 convolution and norm where size or channels change."""

    def __init__(self, spec: UNetSpec, dims: int, inputs: int, outputs: int, stride: tuple[int, ...]) -> None:
        super().__init__(spec, dims, inputs, outputs, stride)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs or max(stride) > 1:
            self.shortcut = nn.Sequential(convolution(dims, inputs, outputs, 1, stride), normalisation(spec.norm, dims, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.activation2(self.before_activation(x) + self.shortcut(x))


class Sharpen(nn.Module):
    """What a block's voxels need to be told apart, from the first level's features and the voxels themselves."""

    def __init__(self, spec: UNetSpec, dims: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = convolution(dims, inputs, outputs)
        self.norm = normalisation(spec.norm, dims, outputs)
        self.activation = activation(spec.activation, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(channels_last(self.conv(x))))
