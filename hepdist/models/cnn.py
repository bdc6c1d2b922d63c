"""A plain convolutional network in 2D and 3D: convolution, pooling, dense; what the other image classifiers have to beat."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from hepdist.models.inputs import Inputs
from hepdist.models.layers import MAX_POOL, activation, channels_last, checkpointed, convolution, initialise, normalisation
from hepdist.models.specs import CNNSpec


class CNN(nn.Module):
    """image float[b, C, *spatial] -> logits float[b, classes]; any spatial size.

    The order of LeNet (LeCun et al., 1998) with a norm; the dense layer reads means over space, so that it does not depend on the sides.
    """

    inputs = ("image",)

    def __init__(self, spec: CNNSpec, inputs: Inputs, classes: int) -> None:
        super().__init__()
        channels, *sides = inputs.image
        dims = len(sides)
        self.checkpointing = spec.checkpointing
        widths = [channels, *(spec.width << stage for stage in range(spec.depth))]
        self.stages = nn.ModuleList(Stage(spec, dims, narrow, wide) for narrow, wide in pairwise(widths))
        self.dense = nn.Sequential(nn.Linear(widths[-1], spec.dense), activation(spec.activation, spec.dense))
        self.feature_size = spec.dense
        self.dropout = nn.Dropout(spec.dropout)
        self.head = nn.Linear(spec.dense, classes)
        initialise(self)

    def features(self, image: Tensor) -> Tensor:
        """float[b, feature_size]: the dense layer."""
        x = image
        for stage in self.stages:
            x = checkpointed(stage, x) if self.checkpointing else stage(x)
        return self.dense(x.flatten(2).mean(2))

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.dropout(self.features(image)))


class Stage(nn.Module):
    """3x3 convolution, norm, activation and the largest of each 2x2 (an odd side is halved upwards)."""

    def __init__(self, spec: CNNSpec, dims: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = convolution(dims, inputs, outputs)
        self.norm = normalisation(spec.norm, dims, outputs)
        self.activation = activation(spec.activation, outputs)
        self.pool = MAX_POOL[dims](2, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.activation(self.norm(channels_last(self.conv(x)))))
