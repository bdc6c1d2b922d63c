"""The configuration of image and EMR fusion."""

from __future__ import annotations

from typing import ClassVar, Literal

from hepdist.models.specs.common import Choice, ModelSpec, Range, Share
from hepdist.models.specs.mlp import MLPSpec
from hepdist.models.specs.resnet import ResNetSpec


class FusionSpec(ModelSpec):
    """Image encoder and EMR encoder, joined late."""

    tasks = ("classification",)
    network = "hepdist.models.fusion:Fusion"
    search: ClassVar = {"join": Choice(("concat", "film", "gated")), "modality_dropout": Range(0.0, 0.4)}

    family: Literal["fusion"] = "fusion"
    image: ResNetSpec = ResNetSpec()
    emr: MLPSpec = MLPSpec()
    join: Literal["concat", "film", "gated"] = "concat"
    """concat: features side by side; film: EMR scales and shifts image features (Perez et al., 2018); gated: a learned mixture."""
    modality_dropout: Share = 0.0
    """Share of training samples that lose one of the two inputs, so that the model works when one is missing."""

    @property
    def reads(self) -> tuple[str, ...]:
        return (*self.image.reads, *self.emr.reads)
