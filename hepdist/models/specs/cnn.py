"""The configuration of the plain convolutional network."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Le
from pydantic import PositiveInt

from hepdist.models.specs.common import Choice, ClassifierSpec, Range


class CNNSpec(ClassifierSpec):
    """Convolution, pooling, dense: the baseline that the other image classifiers have to beat; 2D or 3D by the image column."""

    network = "hepdist.models.cnn:CNN"
    search: ClassVar = {
        "depth": Range(2, 5),
        "width": Choice((8, 16, 32, 64)),
        "dense": Choice((32, 64, 128, 256)),
        "norm": Choice(("group", "instance")),
        "activation": Choice(("relu", "silu")),
        "dropout": Range(0.0, 0.5),
    }

    family: Literal["cnn"] = "cnn"
    depth: Annotated[int, Ge(1), Le(7)] = 3
    """Stages of one convolution and one pooling, which halves the sides."""
    width: PositiveInt = 32
    """Channels of the first stage; each stage doubles it."""
    dense: PositiveInt = 128
    """Units of the dense layer between the last pooling and the logits."""
    checkpointing: bool = False
    """Compute each stage a second time in the backward pass instead of keeping what is inside it: less memory, a third more time."""
