"""The configuration of DenseNet."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from annotated_types import Gt, Le
from pydantic import PositiveInt

from hepdist.models.specs.common import Choice, ClassifierSpec, Range, Stem


class DenseNetSpec(ClassifierSpec):
    """Densely connected network for classification, 2D or 3D by the image column (Huang et al., 2017)."""

    network = "hepdist.models.densenet:DenseNet"
    search: ClassVar = {
        "blocks": Choice(((4, 4, 4), (6, 6, 6), (6, 12, 8), (6, 12, 24, 16))),
        "growth": Choice((8, 12, 16, 24, 32)),
        "compression": Choice((0.5, 1.0)),
        "norm": Choice(("group", "instance")),
        "activation": Choice(("relu", "silu")),
        "dropout": Range(0.0, 0.5),
    }

    family: Literal["densenet"] = "densenet"
    depth: Literal[121, 169, 201, 264] = 121
    """Layers as the paper counts them; not used where `blocks` is given."""
    blocks: tuple[PositiveInt, ...] = ()
    """Dense layers of each block, in place of `depth`: [6, 12, 24, 16] is DenseNet-121, and small cohorts need fewer."""
    growth: PositiveInt = 32
    """Channels that each dense layer adds; the stem gives twice as many."""
    compression: Annotated[float, Gt(0), Le(1)] = 0.5
    """Share of the channels that a transition between two blocks keeps."""
    stem: Stem = "auto"
    """small: one 3x3 convolution; medium: the same with stride 2; large: 7x7 with stride 2 and max pooling, a quarter of the resolution;
    patch: the same quarter by 4x4 with stride 4 (Liu et al., 2022), a twentieth of the work in 3D; auto: small below 64 pixels a side,
    else large."""
    checkpointing: bool = False
    """The memory-efficient mode (Pleiss et al., 2017): what a dense layer concatenates, normalises and squeezes is computed a second
    time in the backward pass, so that memory grows linearly with depth instead of quadratically."""
