"""The configuration of Inception."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from hepdist.models.specs.common import Choice, ClassifierSpec, Range, Stem


class InceptionSpec(ClassifierSpec):
    """Inception for classification, 2D or 3D by the image column: GoogLeNet (Szegedy et al., 2015) or v3 (Szegedy et al., 2016)."""

    network = "hepdist.models.inception:Inception"
    search: ClassVar = {
        "variant": Choice(("googlenet", "v3")),
        "depth": Range(1, 5),
        "width": Range(0.25, 1.0),
        "norm": Choice(("group", "instance")),
        "activation": Choice(("relu", "silu")),
        "dropout": Range(0.0, 0.5),
    }

    family: Literal["inception"] = "inception"
    variant: Literal["googlenet", "v3"] = "googlenet"
    """googlenet: branches of 1x1, 3x3, 5x5 and pooling; v3: factorised convolutions (1xn and nx1) and reduction modules."""
    depth: Annotated[int, Ge(1), Le(5)] = 5
    """Most modules that each of the three stages keeps: GoogLeNet has 2, 5, 2 and v3 has 3, 4, 2; small cohorts need fewer."""
    width: Annotated[float, Gt(0), Le(4)] = 0.5
    """Share of the paper's channels, each count rounded to a multiple of 8."""
    five: Literal["5x5", "3x3+3x3", "3x3"] = "3x3+3x3"
    """GoogLeNet's wide branch: 5x5 as in the paper, two 3x3 with the same field of view and fewer weights, or one 3x3, which
    torchvision's GoogLeNet has."""
    auxiliary: bool = False
    """Further heads on the middle stage, in training only, whose losses count 0.3 each: two in GoogLeNet, one in v3."""
    stem: Stem = "auto"
    """small: no stride and no pooling; medium: a stride of 2 alone; large: an eighth of the resolution as in the papers; patch: a
    quarter by 4x4 with stride 4 (Liu et al., 2022), for machines without a GPU; auto: small below 64 pixels a side, else large."""
    checkpointing: bool = False
    """Compute each module a second time in the backward pass instead of keeping what is inside it: less memory, a third more time."""
