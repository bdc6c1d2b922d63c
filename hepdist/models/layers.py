"""Layers that exist in two and in three dimensions, chosen by the number of spatial axes; no network is defined here."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from hepdist.models.specs.common import Activation, Norm, Stem

CONV: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
MAX_POOL: dict[int, Any] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
MEAN_POOL: dict[int, Any] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
INSTANCE: dict[int, Any] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
DROPOUT: dict[int, Any] = {2: nn.Dropout2d, 3: nn.Dropout3d}

GROUPS = 8
SMALL_BELOW = 64
"""Images with every side below this keep their resolution in a classifier's stem: 28 pixels would be 7 after a large one."""


def stem_size(stem: Stem, sides: Sequence[int]) -> Stem:
    """'small', 'medium', 'large' or 'patch': what a classifier's `stem` means for images of these sides."""
    return ("small" if max(sides) < SMALL_BELOW else "large") if stem == "auto" else stem


def convolution(dims: int, inputs: int, outputs: int, kernel: int = 3, stride: int | tuple[int, ...] = 1) -> nn.Module:
    """A convolution without bias (a norm follows), padded so that stride 1 keeps the size and stride 2 rounds half up."""
    return CONV[dims](inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)


class Patches(nn.Module):
    """A convolution without bias over blocks of `side` voxels a side that don't overlap; the last ones are filled up by the last voxel."""

    def __init__(self, dims: int, inputs: int, outputs: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.conv = CONV[dims](inputs, outputs, side, stride=side, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        short = [-length % self.side for length in x.shape[2:]]
        if any(short):
            x = nn.functional.pad(x, [n for after in reversed(short) for n in (0, after)], mode="replicate")
        return self.conv(x)


def stem_convolution(size: Stem, dims: int, inputs: int, outputs: int) -> nn.Module:
    """The first convolution of a classifier: see the specs' `stem`."""
    if size == "patch":
        return Patches(dims, inputs, outputs, 4)
    return convolution(dims, inputs, outputs, 7 if size == "large" else 3, 1 if size == "small" else 2)


def normalisation(kind: Norm, dims: int, channels: int) -> nn.Module:
    """`instance`, `group` (8 groups, fewer where they don't divide the channels) or `syncbatch`; all with scale and shift."""
    if kind == "instance":
        return INSTANCE[dims](channels, affine=True)
    if kind == "group":
        return nn.GroupNorm(math.gcd(GROUPS, channels), channels)
    return SyncBatchNorm(channels)


def activation(kind: Activation, channels: int = 1) -> nn.Module:
    """The non-linearity of that name; it may write into its input, so give it the outcome of a norm or a sum.

    leaky_relu has slope 0.01 (nnU-Net); prelu (He et al., 2015) learns a slope for each of `channels`, or one for all, from 0.25.
    """
    if kind == "relu":
        return nn.ReLU(inplace=True)
    if kind == "leaky_relu":
        return nn.LeakyReLU(0.01, inplace=True)
    if kind == "elu":
        return nn.ELU(inplace=True)
    if kind == "prelu":
        return nn.PReLU(channels)
    return nn.GELU() if kind == "gelu" else nn.SiLU()


def checkpointed(module: nn.Module, *inputs: Tensor) -> Any:
    """module(*inputs), which keeps only its inputs for the backward pass and computes the rest a second time (Chen et al., 2016).

    Same outputs, gradients, dropout and running statistics; less memory for about a third more time. Without gradients nothing changes.
    """
    if not torch.is_grad_enabled():
        return module(*inputs)
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    if not norms:
        return checkpoint(module, *inputs, use_reentrant=False)
    return checkpoint(module, *inputs, use_reentrant=False, context_fn=partial(_contexts, norms))


def _contexts(norms: list[_BatchNorm]) -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
    """What surrounds the first and the second computation: the second must not count the batch once more."""
    return contextlib.nullcontext(), _untracked(norms)


@contextlib.contextmanager
def _untracked(norms: list[_BatchNorm]) -> Iterator[None]:
    before = [(norm.momentum, None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, counter) in zip(norms, before, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None and counter is not None:
                norm.num_batches_tracked.copy_(counter)


class SyncBatchNorm(nn.SyncBatchNorm):
    """Batch norm over the batch of all workers (Ioffe & Szegedy, 2015), on CPUs too, where torch's own refuses to run.

    Workers may hold different numbers of samples; running statistics come out the same on each of them.
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.is_cuda or not (self.training and dist.is_initialized()):  # torch's own refuses a group of one worker on a CPU as well
            return super().forward(input)
        from torch.distributed.nn.functional import all_reduce  # passes gradients between the workers

        axes = [0, *range(2, input.ndim)]
        shape = (1, -1, *(1,) * (input.ndim - 2))
        count = input.new_full((1,), input.numel() / input.shape[1])
        dist.all_reduce(count)
        mean = all_reduce(input.sum(axes)) / count
        centred = input - mean.reshape(shape)
        variance = all_reduce(centred.square().sum(axes)) / count
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale.reshape(shape) + self.bias.reshape(shape)


def channels_last(x: Tensor) -> Tensor:
    """x[b, C, *spatial] stored with its channels next to each other; nothing is copied where it already is.

    Called on the outcome of a convolution (of one channel the layout is ambiguous), and all that follows keeps it. A quarter less time a
    step in 2D and 3D on a CPU; on the tensor, not the weights, since DeepSpeed lays those out anew. Multiples of 8 channels only: with 4,
    the backward pass of a strided 1x1 convolution (torch 2.13, oneDNN, CPU) writes past its buffer.
    """
    if x.shape[1] % 8:
        return x
    return x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)


def initialise(module: nn.Module) -> None:
    """He et al. (2015) initialisation of every convolution, so that depth neither swells nor starves the signal."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Conv3d)):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
