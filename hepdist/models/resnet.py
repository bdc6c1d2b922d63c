"""ResNet in 2D and 3D: basic and bottleneck blocks, depth 10 to 152, with and without pre-activation.

He et al., 2016 (CVPR) and 2016b (ECCV, pre-activation). Without pre-activation the layers are those of torchvision's ResNet
(stride in the 3x3 convolution of a bottleneck); departures: group norm by default, and a small stem for small images.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hepdist.models.layers import MAX_POOL, channels_last, convolution, initialise, normalisation
from hepdist.models.specs import ResNetSpec

BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
SMALL_BELOW = 64
"""Images with every side below this keep their resolution in the stem: 28 pixels would be 7 after the large one."""


class ResNet(nn.Module):
    """image float[b, C, *spatial] -> logits float[b, classes]; any spatial size."""

    inputs = ("image",)

    def __init__(self, spec: ResNetSpec, image_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        channels, *sides = image_shape
        dims = len(sides)
        block = BasicBlock if spec.depth < 50 else Bottleneck
        small = spec.stem == "small" or (spec.stem == "auto" and max(sides) < SMALL_BELOW)
        self.first = convolution(dims, channels, spec.width, 3 if small else 7, 1 if small else 2)
        stem: list[nn.Module] = []
        if not spec.preactivation:
            stem += [normalisation(spec.norm, dims, spec.width), nn.ReLU(inplace=True)]
        if not small:
            stem.append(MAX_POOL[dims](3, stride=2, padding=1))
        self.stem = nn.Sequential(*stem)
        width = spec.width
        stages = []
        for level, blocks in enumerate(BLOCKS[spec.depth]):
            inner = spec.width << level
            for index in range(blocks):
                stride = 2 if level and not index else 1
                stages.append(block(spec, dims, width, inner, stride))
                width = inner * block.expansion
        self.blocks = nn.Sequential(*stages)
        self.last = nn.Sequential(normalisation(spec.norm, dims, width), nn.ReLU(inplace=True)) if spec.preactivation else nn.Identity()
        self.feature_size = width
        self.dropout = nn.Dropout(spec.dropout)
        self.head = nn.Linear(width, classes)
        initialise(self)

    def features(self, image: Tensor) -> Tensor:
        """float[b, feature_size]: the mean of the last feature map over space."""
        return self.last(self.blocks(self.stem(channels_last(self.first(image))))).flatten(2).mean(2)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.dropout(self.features(image)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which becomes a 1x1 convolution where size or channels change."""

    expansion = 1

    def __init__(self, spec: ResNetSpec, dims: int, inputs: int, inner: int, stride: int) -> None:
        super().__init__()
        branch = [(inputs, inner, 3, stride), (inner, inner, 3, 1)]
        self.preactivation = spec.preactivation
        self.convolutions, self.norms, self.shortcut = _branch(spec, dims, branch, stride)

    def forward(self, x: Tensor) -> Tensor:
        return _residual(self, x)


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride) and 1x1 convolutions; the last has four times the channels of the others."""

    expansion = 4

    def __init__(self, spec: ResNetSpec, dims: int, inputs: int, inner: int, stride: int) -> None:
        super().__init__()
        branch = [(inputs, inner, 1, 1), (inner, inner, 3, stride), (inner, 4 * inner, 1, 1)]
        self.preactivation = spec.preactivation
        self.convolutions, self.norms, self.shortcut = _branch(spec, dims, branch, stride)

    def forward(self, x: Tensor) -> Tensor:
        return _residual(self, x)


def _branch(
    spec: ResNetSpec, dims: int, branch: list[tuple[int, int, int, int]], stride: int
) -> tuple[nn.ModuleList, nn.ModuleList, nn.Module]:
    """The convolutions, norms and shortcut of a block; branch lists (inputs, outputs, kernel, stride)."""
    convolutions = nn.ModuleList(convolution(dims, *layer) for layer in branch)
    norms = nn.ModuleList(normalisation(spec.norm, dims, layer[0 if spec.preactivation else 1]) for layer in branch)
    inputs, outputs = branch[0][0], branch[-1][1]
    if stride == 1 and inputs == outputs:
        return convolutions, norms, nn.Identity()
    projection = convolution(dims, inputs, outputs, 1, stride)
    if spec.preactivation:
        return convolutions, norms, projection
    return convolutions, norms, nn.Sequential(projection, normalisation(spec.norm, dims, outputs))


def _residual(block: BasicBlock | Bottleneck, x: Tensor) -> Tensor:
    if not block.preactivation:
        y = x
        for index, (conv, norm) in enumerate(zip(block.convolutions, block.norms, strict=True)):
            y = norm(conv(torch.relu(y) if index else y))
        return torch.relu(y + block.shortcut(x))
    y = torch.relu(block.norms[0](x))
    # A projection reads the pre-activated input, an identity the raw one: the signal path stays free of non-linearities (2016b, fig. 4e).
    shortcut = x if isinstance(block.shortcut, nn.Identity) else block.shortcut(y)
    y = block.convolutions[0](y)
    for conv, norm in zip(list(block.convolutions)[1:], list(block.norms)[1:], strict=True):
        y = conv(torch.relu(norm(y)))
    return y + shortcut
