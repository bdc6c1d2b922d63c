"""NAFNet for restoration: an encoder-decoder without activation functions that predicts what to add to a degraded image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, pad

from hepdist.models.inputs import Inputs
from hepdist.models.layers import CONV, channels_last, checkpointed
from hepdist.models.specs import RestorerSpec
from hepdist.models.unet import crop, unfold


class Restorer(nn.Module):
    """image float[b, C, *spatial], degraded -> float[b, C, *spatial], restored: the input plus a predicted correction.

    Chen et al., 2022 ("Simple Baselines for Image Restoration"), with the authors' layers and number of parameters in 2D, and the same in
    3D. Sides that the halvings don't divide are filled up with their last voxel (with zeros in the paper), which the end cuts off again.
    The last convolution starts at zero (at random in the paper): the untrained network gives its input back.
    """

    inputs = ("image",)

    def __init__(self, spec: RestorerSpec, inputs: Inputs, classes: int) -> None:
        """classes: channels of the restored image; those of the input."""
        super().__init__()
        channels, *sides = inputs.image
        dims = len(sides)
        self.multiple = 2 ** len(spec.encoder)
        self.grid = (self.multiple,) * dims
        """Voxels of each axis that the coarsest level sees as one: sides that differ by multiples of it are halved alike."""
        self.halves = (2,) * dims
        widths = [spec.width << level for level in range(len(spec.encoder) + 1)]
        self.first = CONV[dims](channels, spec.width, 3, padding=1)
        self.encoder = nn.ModuleList(Stage(spec, dims, width, count) for width, count in zip(widths, spec.encoder, strict=False))
        self.down = nn.ModuleList(CONV[dims](width, 2 * width, 2, stride=2) for width in widths[:-1])
        self.middle = Stage(spec, dims, widths[-1], spec.middle)
        self.up = nn.ModuleList(CONV[dims](width, width // 2 * 2**dims, 1, bias=False) for width in widths[:0:-1])
        self.decoder = nn.ModuleList(Stage(spec, dims, width, count) for width, count in zip(widths[-2::-1], spec.decoder, strict=True))
        self.last = CONV[dims](spec.width, classes, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, image: Tensor) -> Tensor:
        x = channels_last(self.first(_filled_up(image, self.multiple)))
        skips = []
        for stage, down in zip(self.encoder, self.down, strict=True):
            x = stage(x)
            skips.append(x)
            x = channels_last(down(x))
        x = self.middle(x)
        for up, stage, skip in zip(self.up, self.decoder, reversed(skips), strict=True):
            x = stage(channels_last(unfold(up(x), self.halves) + skip))
        return image + crop(self.last(x), image)


class Stage(nn.Module):
    """The blocks of one level, [b, C, *spatial] each."""

    def __init__(self, spec: RestorerSpec, dims: int, channels: int, count: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(dims, channels, spec.dropout) for _ in range(count))
        self.checkpointing = spec.checkpointing

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = checkpointed(block, x) if self.checkpointing else block(x)
        return x


class Block(nn.Module):
    """Two residual halves, [b, C, *spatial] each: depthwise convolution with channel attention, then a gated pointwise layer.

    The gate multiplies one half of the channels by the other, in place of an activation. `scale1` and `scale2` start at zero, so that a
    block starts as the identity.
    """

    def __init__(self, dims: int, channels: int, dropout: float) -> None:
        super().__init__()
        conv, shape = CONV[dims], (1, channels, *(1,) * dims)
        self.norm1, self.norm2 = LayerNorm(channels), LayerNorm(channels)
        self.expand = conv(channels, 2 * channels, 1)
        self.depthwise = conv(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.attention = conv(channels, channels, 1)
        self.project = conv(channels, channels, 1)
        self.widen = conv(channels, 2 * channels, 1)
        self.narrow = conv(channels, channels, 1)
        self.dropout = nn.Dropout(dropout)
        self.scale1, self.scale2 = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        y = _gate(self.depthwise(self.expand(self.norm1(x))))
        y = y * self.attention(y.mean(tuple(range(2, y.ndim)), keepdim=True))
        x = x + self.dropout(self.project(y)) * self.scale1
        y = _gate(self.widen(self.norm2(x)))
        return x + self.dropout(self.narrow(y)) * self.scale2


class LayerNorm(nn.Module):
    """Each voxel's channels with mean 0 and standard deviation 1, then scale and shift."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, 1e-6).movedim(-1, 1)


def _gate(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=1)
    return first * second


def _filled_up(image: Tensor, multiple: int) -> Tensor:
    short = [-side % multiple for side in image.shape[2:]]
    if not any(short):
        return image
    return pad(image, [n for after in reversed(short) for n in (0, after)], mode="replicate")
