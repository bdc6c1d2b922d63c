"""Inception in 2D and 3D: GoogLeNet and v3, each as three stages of modules, with reductions between them and auxiliary heads.

Szegedy et al., 2015 (GoogLeNet) and 2016 (v3, in the layout of TensorFlow's and torchvision's). Departures: group norm by default, a
choice of activations, padded convolutions and poolings so that any side works, a small stem for small images; v3's auxiliary head is
GoogLeNet's. In 3D, 1xn and nx1 become a kernel along each of the three axes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from hepdist.models.inception_layers import Auxiliary, Chain, Layers, Parallel, Pool, Step
from hepdist.models.inputs import Inputs
from hepdist.models.layers import checkpointed, initialise, stem_size
from hepdist.models.specs import InceptionSpec
from hepdist.models.specs.common import Stem

Module = Callable[[Layers, int], Chain | Parallel]
"""Makes a module from the maker of layers and the channels of its input."""


class Inception(nn.Module):
    """image float[b, C, *spatial] -> logits float[b, classes]; any spatial size.

    In training with auxiliary heads: a list of logits, the network's own first, then those of the heads from the deepest to the first.
    """

    inputs = ("image",)

    def __init__(self, spec: InceptionSpec, inputs: Inputs, classes: int) -> None:
        super().__init__()
        channels, *sides = inputs.image
        layers = Layers(spec, len(sides))
        size = stem_size(spec.stem, sides)
        googlenet = spec.variant == "googlenet"
        self.checkpointing = spec.checkpointing
        self.stem = googlenet_stem(layers, channels, size) if googlenet else v3_stem(layers, channels, size)
        stages = googlenet_stages(spec.depth) if googlenet else v3_stages(spec.depth)
        widths, modules = [self.stem.channels], []
        for make in [module for stage in stages for module in stage]:
            modules.append(make(layers, widths[-1]))
            widths.append(modules[-1].channels)
        self.body = nn.ModuleList(modules)
        tapped = googlenet_taps(stages[1]) if googlenet else [len(stages[1]) - 1]
        self.taps = [len(stages[0]) + index for index in tapped] if spec.auxiliary else []
        self.auxiliary = nn.ModuleList(Auxiliary(spec, layers, widths[tap + 1], classes) for tap in self.taps)
        self.feature_size = widths[-1]
        self.dropout = nn.Dropout(spec.dropout)
        self.head = nn.Linear(self.feature_size, classes)
        initialise(self)

    def features(self, image: Tensor) -> Tensor:
        """float[b, feature_size]: the mean of the last feature map over space."""
        return self._run(image)[0]

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        features, tapped = self._run(image)
        logits = self.head(self.dropout(features))
        if not (self.training and self.taps):
            return logits
        return [logits, *(head(x) for head, x in zip(self.auxiliary, tapped, strict=True))]

    def _run(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The features, and the maps that the auxiliary heads read."""
        x = self.stem(image)
        maps = {}
        for index, module in enumerate(self.body):
            x = checkpointed(module, x) if self.checkpointing else module(x)
            if index in self.taps:
                maps[index] = x
        return x.flatten(2).mean(2), [maps[tap] for tap in self.taps]


GOOGLENET = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)
"""By stage and module: channels of 1x1, of 3x3 after those of its 1x1 reduction, of 5x5 likewise, and of the pooling branch (table 1)."""


def googlenet_stem(layers: Layers, channels: int, size: Stem) -> Chain:
    if size != "large":
        return layers.chain(channels, layers.stem(64, size), Step(64), Step(192, 3))
    return layers.chain(channels, Step(64, 7, 2), Pool(), Step(64), Step(192, 3), Pool())


def googlenet_stages(depth: int) -> list[list[Module]]:
    """The last `depth` modules of each stage, the second and third stage after a max pooling."""
    stages: list[list[Module]] = [[partial(googlenet_module, row=row) for row in rows[-depth:]] for rows in GOOGLENET]
    return [stages[0], *([max_pooling, *modules] for modules in stages[1:])]


def googlenet_taps(stage: list[Module]) -> list[int]:
    """Where the auxiliary heads read: the last module but one of the middle stage and its first, as in the paper where all are there."""
    return sorted({1, max(1, len(stage) - 2)}, reverse=True)


def googlenet_module(layers: Layers, inputs: int, row: tuple[int, ...]) -> Parallel:
    one, reduce_three, three, reduce_five, five, pooled = row
    wide = {"5x5": [Step(five, 5)], "3x3+3x3": [Step(five, 3), Step(five, 3)], "3x3": [Step(five, 3)]}[layers.spec.five]
    return Parallel(
        layers.chain(inputs, Step(one)),
        layers.chain(inputs, Step(reduce_three), Step(three, 3)),
        layers.chain(inputs, Step(reduce_five), *wide),
        layers.chain(inputs, Pool(stride=1), Step(pooled)),
    )


def max_pooling(layers: Layers, inputs: int) -> Chain:
    return layers.chain(inputs, Pool())


V3_POOLED = (32, 64, 64)
"""By module of the first stage: channels of the pooling branch."""
V3_INNER = (128, 160, 160, 192)
"""By module of the second stage: channels within the chains of 7x1 and 1x7."""
V3_LAST = 2
"""Modules of the third stage."""


def v3_stem(layers: Layers, channels: int, size: Stem) -> Chain:
    if size != "large":
        return layers.chain(channels, layers.stem(32, size), Step(32, 3), Step(64, 3), Step(80), Step(192, 3))
    return layers.chain(channels, Step(32, 3, 2), Step(32, 3), Step(64, 3), Pool(), Step(80), Step(192, 3), Pool())


def v3_stages(depth: int) -> list[list[Module]]:
    """The last `depth` modules of each stage, the second and third stage after their reduction module."""
    return [
        [partial(v3_first, pooled=pooled) for pooled in V3_POOLED[-depth:]],
        [v3_first_reduction, *(partial(v3_middle, inner=inner) for inner in V3_INNER[-depth:])],
        [v3_second_reduction, *[v3_last] * min(depth, V3_LAST)],
    ]


def v3_first(layers: Layers, inputs: int, pooled: int) -> Parallel:
    """Figure 5, with the 5x5 that the published code kept."""
    return Parallel(
        layers.chain(inputs, Step(64)),
        layers.chain(inputs, Step(48), Step(64, 5)),
        layers.chain(inputs, Step(64), Step(96, 3), Step(96, 3)),
        layers.chain(inputs, Pool(stride=1, mean=True), Step(pooled)),
    )


def v3_first_reduction(layers: Layers, inputs: int) -> Parallel:
    """Figure 10: stride 2 in convolutions beside a pooling."""
    return Parallel(
        layers.chain(inputs, Step(384, 3, 2)),
        layers.chain(inputs, Step(64), Step(96, 3), Step(96, 3, 2)),
        layers.chain(inputs, Pool()),
    )


def v3_middle(layers: Layers, inputs: int, inner: int) -> Parallel:
    """Figure 6: 7x7 as 1x7 and 7x1, once and twice."""
    return Parallel(
        layers.chain(inputs, Step(192)),
        layers.chain(inputs, Step(inner), *layers.lines(inner, 7, 192, backwards=True)),
        layers.chain(inputs, Step(inner), *layers.lines(inner, 7), *layers.lines(inner, 7, 192)),
        layers.chain(inputs, Pool(stride=1, mean=True), Step(192)),
    )


def v3_second_reduction(layers: Layers, inputs: int) -> Parallel:
    return Parallel(
        layers.chain(inputs, Step(192), Step(320, 3, 2)),
        layers.chain(inputs, Step(192), *layers.lines(192, 7, backwards=True), Step(192, 3, 2)),
        layers.chain(inputs, Pool()),
    )


def v3_last(layers: Layers, inputs: int) -> Parallel:
    """Figure 7: branches that end in 1x3 beside 3x1."""
    return Parallel(
        layers.chain(inputs, Step(320)),
        layers.fan(layers.chain(inputs, Step(384)), 384, 3),
        layers.fan(layers.chain(inputs, Step(448), Step(384, 3)), 384, 3),
        layers.chain(inputs, Pool(stride=1, mean=True), Step(192)),
    )
