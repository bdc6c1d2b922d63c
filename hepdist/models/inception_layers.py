"""What Inception's modules are made of: chains of convolutions and poolings, parallel branches, and the auxiliary head."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, adaptive_avg_pool3d, pad

from hepdist.models.layers import CONV, MAX_POOL, MEAN_POOL, Patches, activation, channels_last, normalisation
from hepdist.models.specs import InceptionSpec
from hepdist.models.specs.common import Stem


@dataclass(frozen=True)
class Step:
    """A convolution, in the paper's channels."""

    outputs: int
    kernel: int = 1
    stride: int = 1
    axis: int | None = None
    """The only axis along which the kernel extends (nx1); None: all."""


@dataclass(frozen=True)
class Pool:
    """A pooling over 3x3: the largest, or with stride 1 the mean."""

    stride: int = 2
    mean: bool = False


class Chain(nn.Sequential):
    """Layers one after another."""

    def __init__(self, channels: int, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.channels = channels
        """Of the outcome."""


class Parallel(nn.Module):
    """Branches over the same input, their channels side by side."""

    def __init__(self, *branches: Chain) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.channels = sum(branch.channels for branch in branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class Unit(nn.Module):
    """Convolution without bias, norm and activation; padded, so that stride 1 keeps the size and others round up."""

    def __init__(self, spec: InceptionSpec, dims: int, inputs: int, outputs: int, step: Step) -> None:
        super().__init__()
        kernel = [step.kernel if step.axis in (None, axis) else 1 for axis in range(dims)]
        padding = [side // 2 for side in kernel]
        self.conv: nn.Module
        if step.kernel == step.stride > 1:
            self.conv = Patches(dims, inputs, outputs, step.kernel)
        else:
            self.conv = CONV[dims](inputs, outputs, kernel, stride=step.stride, padding=padding, bias=False)
        self.norm = normalisation(spec.norm, dims, outputs)
        self.activation = activation(spec.activation, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(channels_last(self.conv(x))))


class Mean(nn.Module):
    """The mean over each 3x3, where the border is surrounded by zeros that count."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.border = (1,) * 2 * dims
        self.pool = MEAN_POOL[dims](3, stride=1)  # its own padding refuses sides of less than 3 in 3D

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(pad(x, self.border))


class Layers:
    """Makes the layers of one network: it knows the number of axes and what the spec says of every layer."""

    def __init__(self, spec: InceptionSpec, dims: int) -> None:
        self.spec, self.dims = spec, dims

    def width(self, channels: int) -> int:
        """The paper's channels at this network's width, a multiple of 8."""
        return max(8, 8 * round(channels * self.spec.width / 8))

    def chain(self, inputs: int, *steps: Step | Pool) -> Chain:
        layers: list[nn.Module] = []
        for step in steps:
            if isinstance(step, Pool):
                layers.append(Mean(self.dims) if step.mean else MAX_POOL[self.dims](3, stride=step.stride, padding=1))
                continue
            outputs = self.width(step.outputs)
            layers.append(Unit(self.spec, self.dims, inputs, outputs, step))
            inputs = outputs
        return Chain(inputs, *layers)

    def stem(self, outputs: int, size: Stem) -> Step:
        """The first convolution where the papers' strides and poolings are too many."""
        return Step(outputs, 4, 4) if size == "patch" else Step(outputs, 3, 2 if size == "medium" else 1)

    def lines(self, inner: int, kernel: int, outputs: int = 0, *, backwards: bool = False) -> list[Step]:
        """A kernel along each axis, one after another: nx1, 1xn; backwards 1xn, nx1. The last gives `outputs` channels, if not 0."""
        axes = list(range(self.dims))[:: -1 if backwards else 1]
        return [Step(outputs or inner if axis == axes[-1] else inner, kernel, axis=axis) for axis in axes]

    def fan(self, chain: Chain, outputs: int, kernel: int) -> Chain:
        """The chain, followed by a kernel along each axis, side by side."""
        ends = Parallel(*(self.chain(chain.channels, step) for step in self.lines(outputs, kernel, backwards=True)))
        return Chain(ends.channels, *chain, ends)


class Auxiliary(nn.Module):
    """GoogLeNet's auxiliary head: mean over a coarse grid, 1x1 convolution, dense layer, dropout of 70 %, logits float[b, classes].

    The grid has 4 places a side (the paper's for its 14x14 maps); in 3D 2, where 4 would make the dense layer larger than the network.
    """

    def __init__(self, spec: InceptionSpec, layers: Layers, inputs: int, classes: int) -> None:
        super().__init__()
        self.grid = (4, 4) if layers.dims == 2 else (2, 2, 2)
        narrow, wide = layers.width(128), layers.width(1024)
        self.conv = Unit(spec, layers.dims, inputs, narrow, Step(128))
        self.dense = nn.Sequential(nn.Linear(narrow * math.prod(self.grid), wide), activation(spec.activation, wide))
        self.dropout = nn.Dropout(0.7)
        self.head = nn.Linear(wide, classes)

    def forward(self, x: Tensor) -> Tensor:
        pooled = adaptive_avg_pool2d(x, self.grid) if len(self.grid) == 2 else adaptive_avg_pool3d(x, self.grid)
        return self.head(self.dropout(self.dense(self.conv(pooled).flatten(1))))
