"""V-Net in 2D and 3D: residual stages, strided convolutions instead of pooling, PReLU; any image size goes in and comes out.

Milletari et al., 2016, with the layers of MONAI's VNet, which is for batch norm, 16 channels and five levels alone. Departures of both
from the paper: a norm after each convolution, and as many features as classes before the last 1x1 convolution. Departures from MONAI: a
stage has no activation between its last convolution and the sum, as in the paper. From both: odd sides (filled up before a strided
convolution, cropped after the transposed one), sides too short to halve, and image channels that don't divide the width (a 1x1
convolution beside the first stage instead of copies).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hepdist.models.inputs import Inputs
from hepdist.models.layers import CONV, DROPOUT, TRANSPOSED, activation, channels_last, checkpointed, convolution, initialise, normalisation
from hepdist.models.resolution import beside, crop, fill, first_stride, fold, halvings, strided, unfold
from hepdist.models.specs import VNetSpec

DROPPED_LEVELS = 2
"""Coarsest levels that have dropout, as in MONAI."""


class VNet(nn.Module):
    """image float[b, C, *spatial] -> logits float[b, classes, *spatial]."""

    inputs = ("image",)

    def __init__(self, spec: VNetSpec, inputs: Inputs, classes: int) -> None:
        super().__init__()
        channels, *sides = inputs.image
        dims = len(sides)
        self.stride = first_stride(sides, spec.stride)
        self.checkpointing = spec.checkpointing
        channels *= math.prod(self.stride)
        strides = halvings(strided(sides, self.stride), len(spec.convolutions) - 1)
        self.grid = tuple(math.prod(steps) for steps in zip(self.stride, *strides, strict=True))
        """Voxels of each axis that the coarsest level sees as one: sides that differ by multiples of it are halved alike."""
        levels = len(strides) + 1
        widths = [spec.width << level for level in range(levels)]
        drops = [spec.dropout if level >= max(1, levels - DROPPED_LEVELS) else 0.0 for level in range(levels)]
        ways_up = spec.decoder or spec.convolutions[:-1]
        self.widen = Widen(dims, channels, spec.width)
        self.first = Stage(spec, dims, spec.width, spec.convolutions[0], inputs=channels)
        self.down = nn.ModuleList(
            Down(spec, dims, narrow, 2 * narrow, stride, count, drop)
            for narrow, stride, count, drop in zip(widths[:-1], strides, spec.convolutions[1:], drops[1:], strict=False)
        )
        below = [2 * width for width in widths[1:-1]] + widths[-1:]  # channels that come up: of a stage beside its skip, or of the coarsest
        self.up = nn.ModuleList(
            Up(spec, dims, lower, width, stride, count, drop)
            for lower, width, stride, count, drop in zip(below, widths[:-1], strides, ways_up, drops[1:], strict=False)
        )
        finest = 2 * spec.width if strides else spec.width
        folded = channels if max(self.stride) > 1 else 0
        self.head = Head(spec, dims, finest + folded, classes * math.prod(self.stride))
        initialise(self)

    def forward(self, image: Tensor) -> Tensor:
        folded = fold(image, self.stride)
        skips = [self._run(self.first, folded, self.widen(folded))]
        for stage in self.down:
            skips.append(self._run(stage, skips[-1]))
        x = skips.pop()
        for stage in reversed(self.up):
            x = self._run(stage, x, skips.pop())
        if max(self.stride) > 1:
            x = torch.cat((x, folded), dim=1)  # what a block's voxels need to be told apart
        return crop(unfold(self._run(self.head, x), self.stride), image)

    def _run(self, stage: nn.Module, *inputs: Tensor) -> Tensor:
        return checkpointed(stage, *inputs) if self.checkpointing else stage(*inputs)


class Stage(nn.Module):
    """Convolutions, each with norm and activation; `added`, by default the input, joins the last before its activation.

    x[b, inputs, *spatial], added[b, channels, *spatial] -> [b, channels, *spatial].
    """

    def __init__(self, spec: VNetSpec, dims: int, channels: int, count: int, inputs: int | None = None) -> None:
        super().__init__()
        sizes = [inputs or channels] + [channels] * (count - 1)
        self.convolutions = nn.ModuleList(convolution(dims, size, channels, spec.kernel) for size in sizes)
        self.norms = nn.ModuleList(normalisation(spec.norm, dims, channels) for _ in sizes)
        self.activations = nn.ModuleList(activation(spec.activation, channels) for _ in sizes)

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        added = x if added is None else added
        last = len(self.convolutions) - 1
        for index, (conv, norm, act) in enumerate(zip(self.convolutions, self.norms, self.activations, strict=True)):
            x = norm(channels_last(conv(x)))
            x = act(x + added if index == last else x)
        return x


class Down(nn.Module):
    """A convolution as large as its stride, which doubles the channels, and a residual stage."""

    def __init__(self, spec: VNetSpec, dims: int, inputs: int, outputs: int, stride: tuple[int, ...], count: int, dropout: float) -> None:
        super().__init__()
        self.stride = stride
        self.conv = CONV[dims](inputs, outputs, stride, stride=stride, bias=False)
        self.norm = normalisation(spec.norm, dims, outputs)
        self.activation = activation(spec.activation, outputs)
        self.dropout = DROPOUT[dims](dropout)
        self.stage = Stage(spec, dims, outputs, count)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.norm(channels_last(self.conv(fill(x, self.stride)))))
        return self.stage(self.dropout(x), x)


class Up(nn.Module):
    """A transposed convolution to `outputs` channels, the skip connection beside them, and a residual stage over both: 2 * outputs."""

    def __init__(self, spec: VNetSpec, dims: int, inputs: int, outputs: int, stride: tuple[int, ...], count: int, dropout: float) -> None:
        super().__init__()
        self.dropout = DROPOUT[dims](dropout)
        self.conv = TRANSPOSED[dims](inputs, outputs, stride, stride=stride)
        self.norm = normalisation(spec.norm, dims, outputs)
        self.activation = activation(spec.activation, outputs)
        self.stage = Stage(spec, dims, 2 * outputs, count)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        up = self.activation(self.norm(channels_last(self.conv(self.dropout(x)))))
        return self.stage(beside(up, skip))


class Head(nn.Module):
    """A convolution to one feature a logit, norm and activation, and a 1x1 convolution to the logits."""

    def __init__(self, spec: VNetSpec, dims: int, inputs: int, logits: int) -> None:
        super().__init__()
        self.conv = convolution(dims, inputs, logits, spec.kernel)
        self.norm = normalisation(spec.norm, dims, logits)
        self.activation = activation(spec.activation, logits)
        self.last = CONV[dims](logits, logits, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.activation(self.norm(channels_last(self.conv(x)))))


class Widen(nn.Module):
    """What the first stage adds its outcome to: copies of the image's channels, or a 1x1 convolution where they don't divide the width."""

    def __init__(self, dims: int, channels: int, width: int) -> None:
        super().__init__()
        self.copies = width // channels if width % channels == 0 else 0
        self.conv = nn.Identity() if self.copies else convolution(dims, channels, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat(1, self.copies, *(1,) * (x.ndim - 2)) if self.copies else self.conv(x)
