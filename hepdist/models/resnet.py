"""ResNet in 2D and 3D: basic and bottleneck blocks, depth 10 to 152, with and without pre-activation.

He et al., 2016 (CVPR) and 2016b (ECCV, pre-activation). Without pre-activation the layers are those of torchvision's ResNet
(stride in the 3x3 convolution of a bottleneck); departures: group norm by default, a choice of activations, and a small
stem for small images.
"""

from __future__ import annotations

from torch import Tensor, nn

from hepdist.models.inputs import Inputs
from hepdist.models.layers import (
    MAX_POOL,
    activation,
    channels_last,
    checkpointed,
    convolution,
    initialise,
    normalisation,
    stem_convolution,
    stem_size,
)
from hepdist.models.specs import ResNetSpec

BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Blocks of each stage."""
BOTTLENECK_FROM, EXPANSION = 50, 4
"""Nets of this depth or more have bottlenecks, whose last convolution has EXPANSION times the channels of the others."""


class ResNet(nn.Module):
    """image float[b, C, *spatial] -> logits float[b, classes]; any spatial size."""

    inputs = ("image",)

    def __init__(self, spec: ResNetSpec, inputs: Inputs, classes: int) -> None:
        super().__init__()
        channels, *sides = inputs.image
        dims = len(sides)
        size = stem_size(spec.stem, sides)
        self.checkpointing = spec.checkpointing
        self.first = stem_convolution(size, dims, channels, spec.width)
        stem: list[nn.Module] = []
        if not spec.preactivation:
            stem += [normalisation(spec.norm, dims, spec.width), activation(spec.activation, spec.width)]
        if size == "large":
            stem.append(MAX_POOL[dims](3, stride=2, padding=1))
        self.stem = nn.Sequential(*stem)
        width = spec.width
        blocks = []
        for stage, count in enumerate(BLOCKS[spec.depth]):
            inner = spec.width << stage
            for index in range(count):
                blocks.append(Block(spec, dims, width, inner, stride=2 if stage and not index else 1))
                width = inner if spec.depth < BOTTLENECK_FROM else inner * EXPANSION
        self.blocks = nn.Sequential(*blocks)
        self.last: nn.Module = nn.Identity()
        if spec.preactivation:
            self.last = nn.Sequential(normalisation(spec.norm, dims, width), activation(spec.activation, width))
        self.feature_size = width
        self.dropout = nn.Dropout(spec.dropout)
        self.head = nn.Linear(width, classes)
        initialise(self)

    def features(self, image: Tensor) -> Tensor:
        """float[b, feature_size]: the mean of the last feature map over space."""
        x = self.stem(channels_last(self.first(image)))
        for block in self.blocks:
            x = checkpointed(block, x) if self.checkpointing else block(x)
        return self.last(x).flatten(2).mean(2)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.dropout(self.features(image)))


class Block(nn.Module):
    """Convolutions beside a shortcut, which becomes a 1x1 convolution where size or channels change.

    Basic: two of 3x3. Bottleneck: 1x1, 3x3 (with the stride), 1x1.
    """

    def __init__(self, spec: ResNetSpec, dims: int, inputs: int, inner: int, stride: int) -> None:
        super().__init__()
        basic = [(inputs, inner, 3, stride), (inner, inner, 3, 1)]
        bottleneck = [(inputs, inner, 1, 1), (inner, inner, 3, stride), (inner, inner * EXPANSION, 1, 1)]
        layers = basic if spec.depth < BOTTLENECK_FROM else bottleneck  # inputs, outputs, kernel, stride
        self.preactivation = spec.preactivation
        self.convolutions = nn.ModuleList(convolution(dims, *layer) for layer in layers)
        widths = [layer[0 if spec.preactivation else 1] for layer in layers]
        self.norms = nn.ModuleList(normalisation(spec.norm, dims, width) for width in widths)
        self.activations = nn.ModuleList(activation(spec.activation, width) for width in widths)
        outputs = layers[-1][1]
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = convolution(dims, inputs, outputs, 1, stride)
            if not spec.preactivation:
                self.shortcut = nn.Sequential(self.shortcut, normalisation(spec.norm, dims, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self._before(x) if self.preactivation else self._after(x)

    def _after(self, x: Tensor) -> Tensor:
        """2016: norm and activation after each convolution, the last activation after the sum."""
        y = x
        for index, (conv, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            y = norm(conv(self.activations[index - 1](y) if index else y))
        return self.activations[-1](y + self.shortcut(x))

    def _before(self, x: Tensor) -> Tensor:
        """2016b: norm and activation before each convolution. A projection reads the activated input, an identity the raw one (fig. 4e)."""
        y = self.activations[0](self.norms[0](x))
        shortcut = x if isinstance(self.shortcut, nn.Identity) else self.shortcut(y)
        for index, (conv, norm, act) in enumerate(zip(self.convolutions, self.norms, self.activations, strict=True)):
            y = conv(act(norm(y)) if index else y)
        return y + shortcut
