"""The configuration of a critic that is trained against the model: what it judges by, and how much its verdict counts."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Le
from pydantic import PositiveFloat, PositiveInt

from hepdist.models.specs.common import Norm
from hepdist.spec import Spec

Verdict = Literal["cross_entropy", "least_squares", "hinge"]


class AdversarySpec(Spec):
    """A PatchGAN (Isola et al., 2017) that tells pairs (input, true output) from pairs (input, the model's output)."""

    weight: Annotated[float, Ge(0)] = 0.01
    """How much the critic's verdict counts in the model's loss, beside the task's own loss, which counts 1."""
    loss: Verdict = "least_squares"
    """cross_entropy: Goodfellow et al., 2014, non-saturating; least_squares: Mao et al., 2017; hinge: Lim & Ye, 2017."""
    r1: Annotated[float, Ge(0)] = 0.0
    """Gamma of the gradient penalty on true pairs (Mescheder et al., 2018), for a critic that wins too easily; 0 is off. It
    differentiates twice, which makes the critic's step about three times as long."""
    start: Annotated[float, Ge(0), Le(1)] = 0.1
    """Share of all steps before the verdict counts: a critic that is no judge yet teaches nothing. It learns from the first step."""
    width: PositiveInt = 32
    """Channels of the critic's first layer (64 in the paper); each layer doubles it, up to eight times as many."""
    layers: Annotated[int, Ge(1), Le(5)] = 3
    """Layers that halve the image; fewer where a side would fall below 4 pixels. 3 judges patches of 70x70 pixels, 1 of 16x16."""
    norm: Norm = "instance"
    """The critic's norms, from the second layer on (batch norm in the paper)."""
    lr: PositiveFloat = 2e-4
    """The critic's peak learning rate, on the schedule of `optim`."""
    beta1: Annotated[float, Ge(0), Le(0.9999)] = 0.5
    """The critic's first AdamW coefficient: a short memory, since its opponent changes (Radford et al., 2016)."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
