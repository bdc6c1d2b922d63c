"""Layers that exist in two and in three dimensions, chosen by the number of spatial axes; no network is defined here."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

CONV: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
MAX_POOL: dict[int, Any] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
INSTANCE: dict[int, Any] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
DROPOUT: dict[int, Any] = {2: nn.Dropout2d, 3: nn.Dropout3d}

GROUPS = 8


def convolution(dims: int, inputs: int, outputs: int, kernel: int = 3, stride: int | tuple[int, ...] = 1) -> nn.Module:
    """A convolution without bias (a norm follows), padded so that stride 1 keeps the size and stride 2 rounds half up."""
    return CONV[dims](inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)


def normalisation(kind: str, dims: int, channels: int) -> nn.Module:
    """`instance`, `group` (8 groups, fewer where they don't divide the channels) or `syncbatch`; all with scale and shift.

    SyncBatchNorm normalises over all workers on GPUs; on a CPU or outside a process group it is a BatchNorm of the worker's own portion.
    """
    if kind == "instance":
        return INSTANCE[dims](channels, affine=True)
    if kind == "group":
        return nn.GroupNorm(math.gcd(GROUPS, channels), channels)
    return nn.SyncBatchNorm(channels)


def initialise(module: nn.Module) -> None:
    """He et al. (2015) initialisation of every convolution, so that depth neither swells nor starves the signal."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Conv3d)):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
