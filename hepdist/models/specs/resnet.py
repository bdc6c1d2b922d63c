"""The configuration of ResNet."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import PositiveInt

from hepdist.models.specs.common import Choice, ClassifierSpec, Range, Stem


class ResNetSpec(ClassifierSpec):
    """Residual network for classification, 2D or 3D by the image column (He et al., 2016)."""

    network = "hepdist.models.resnet:ResNet"
    search: ClassVar = {
        "depth": Choice((10, 18, 34, 50)),
        "width": Choice((16, 24, 32, 48, 64)),
        "norm": Choice(("group", "instance")),
        "activation": Choice(("relu", "silu")),
        "dropout": Range(0.0, 0.5),
    }

    family: Literal["resnet"] = "resnet"
    depth: Literal[10, 18, 34, 50, 101, 152] = 18
    """Layers as the paper counts them; 10 to 34 use basic blocks, 50 and more use bottlenecks."""
    width: PositiveInt = 32
    """Channels of the first stage (64 in the paper); each stage doubles it."""
    preactivation: bool = True
    """Norm and activation before each convolution (He et al., 2016b): trains better at small batch sizes."""
    stem: Stem = "auto"
    """small: one 3x3 convolution; medium: the same with stride 2; large: 7x7 with stride 2 and max pooling, a quarter of the resolution;
    patch: the same quarter by 4x4 with stride 4 (Liu et al., 2022), a twentieth of the work in 3D; auto: small below 64 pixels a side,
    else large."""
    checkpointing: bool = False
    """Compute each block a second time in the backward pass instead of keeping what is inside it: less memory, a third more time."""
