"""DenseNet in 2D and 3D: dense blocks with bottlenecks, transitions with compression, and a memory-efficient mode.

Huang et al., 2017 (DenseNet-BC); memory-efficient mode: Pleiss et al., 2017. The layers are those of torchvision's and MONAI's DenseNet;
departures: group norm by default, a choice of activations, a small stem for small images, and odd sides are halved upwards.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from hepdist.models.inputs import Inputs
from hepdist.models.layers import (
    MAX_POOL,
    MEAN_POOL,
    activation,
    channels_last,
    checkpointed,
    convolution,
    initialise,
    normalisation,
    stem_convolution,
    stem_size,
)
from hepdist.models.specs import DenseNetSpec

BLOCKS = {121: (6, 12, 24, 16), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32), 264: (6, 12, 64, 48)}
"""Dense layers of each block."""
BOTTLENECK = 4
"""A dense layer's 1x1 convolution leaves this many times `growth` channels for its 3x3 convolution."""


class DenseNet(nn.Module):
    """image float[b, C, *spatial] -> logits float[b, classes]; any spatial size."""

    inputs = ("image",)

    def __init__(self, spec: DenseNetSpec, inputs: Inputs, classes: int) -> None:
        super().__init__()
        channels, *sides = inputs.image
        dims = len(sides)
        size = stem_size(spec.stem, sides)
        width = 2 * spec.growth
        self.first = stem_convolution(size, dims, channels, width)
        self.stem = nn.Sequential(normalisation(spec.norm, dims, width), activation(spec.activation, width))
        if size == "large":
            self.stem.append(MAX_POOL[dims](3, stride=2, padding=1))
        blocks: list[nn.Module] = []
        for index, layers in enumerate(spec.blocks or BLOCKS[spec.depth]):
            if index:
                kept = max(1, int(width * spec.compression))
                blocks.append(transition(spec, dims, width, kept))
                width = kept
            blocks.append(DenseBlock(spec, dims, width, layers))
            width += layers * spec.growth
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Sequential(normalisation(spec.norm, dims, width), activation(spec.activation, width))
        self.feature_size = width
        self.dropout = nn.Dropout(spec.dropout)
        self.head = nn.Linear(width, classes)
        initialise(self)

    def features(self, image: Tensor) -> Tensor:
        """float[b, feature_size]: the mean of the last feature map over space."""
        return self.last(self.blocks(self.stem(channels_last(self.first(image))))).flatten(2).mean(2)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.dropout(self.features(image)))


class HalfMean(nn.Module):
    """The mean over each 2x2; an odd side is first continued by its last voxel, so that it is halved upwards and one of 1 stays."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.pool = MEAN_POOL[dims](2)

    def forward(self, x: Tensor) -> Tensor:
        odd = [side % 2 for side in x.shape[2:]]
        return self.pool(pad(x, [n for after in odd[::-1] for n in (0, after)], mode="replicate") if any(odd) else x)


def transition(spec: DenseNetSpec, dims: int, inputs: int, outputs: int) -> nn.Sequential:
    """Between two blocks: fewer channels by a 1x1 convolution, and half the sides by a mean."""
    return nn.Sequential(
        normalisation(spec.norm, dims, inputs),
        activation(spec.activation, inputs),
        convolution(dims, inputs, outputs, 1),
        HalfMean(dims),
    )


class DenseBlock(nn.Module):
    """Layers of which each reads the block's input and the outcomes of all layers before it; the outcome is all of these."""

    def __init__(self, spec: DenseNetSpec, dims: int, inputs: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DenseLayer(spec, dims, inputs + index * spec.growth) for index in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        found = [x]
        for layer in self.layers:
            found.append(layer(*found))
        return torch.cat(found, dim=1)


class DenseLayer(nn.Module):
    """All that was found so far -> `growth` further channels."""

    def __init__(self, spec: DenseNetSpec, dims: int, inputs: int) -> None:
        super().__init__()
        inner = BOTTLENECK * spec.growth
        self.checkpointing = spec.checkpointing
        self.squeeze = Squeeze(spec, dims, inputs, inner)
        self.norm = normalisation(spec.norm, dims, inner)
        self.activation = activation(spec.activation, inner)
        self.conv = convolution(dims, inner, spec.growth)

    def forward(self, *found: Tensor) -> Tensor:
        x = checkpointed(self.squeeze, *found) if self.checkpointing else self.squeeze(*found)
        return channels_last(self.conv(self.activation(self.norm(x))))


class Squeeze(nn.Module):
    """Concatenation, norm, activation and 1x1 convolution: the part whose intermediate values grow with each layer of a block."""

    def __init__(self, spec: DenseNetSpec, dims: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm = normalisation(spec.norm, dims, inputs)
        self.activation = activation(spec.activation, inputs)
        self.conv = convolution(dims, inputs, outputs, 1)

    def forward(self, *found: Tensor) -> Tensor:
        return self.conv(self.activation(self.norm(torch.cat(found, dim=1))))
