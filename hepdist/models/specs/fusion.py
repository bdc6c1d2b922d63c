"""The configuration of image and EMR fusion."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import field_serializer, field_validator, model_validator

from hepdist.models.specs.common import Choice, ModelSpec, Range, Share
from hepdist.models.specs.mlp import MLPSpec
from hepdist.models.specs.resnet import ResNetSpec
from hepdist.models.specs.rnn import RNNSpec
from hepdist.spec import parse


class FusionSpec(ModelSpec):
    """An image encoder of any family beside an MLP over EMR columns, an RNN over visits, or both, joined late."""

    tasks = ("classification", "survival")
    network = "hepdist.models.fusion:Fusion"
    search: ClassVar = {"join": Choice(("concat", "film", "gated")), "modality_dropout": Range(0.0, 0.4)}

    family: Literal["fusion"] = "fusion"
    image: ModelSpec = ResNetSpec()
    """Any family that classifies images, named by `family`; a ResNet unless it is said."""
    emr: MLPSpec | None = MLPSpec()
    """Encoder of the EMR columns; null: they are not read."""
    visits: RNNSpec | None = None
    """Encoder of the visits over time; null: they are not read."""
    join: Literal["concat", "film", "gated"] = "concat"
    """concat: features side by side; film: the record scales and shifts image features (Perez et al., 2018); gated: a learned mixture."""
    modality_dropout: Share = 0.0
    """Share of training samples that lose one of their inputs, so that the model works when one is missing."""
    dropout: Share | None = None
    """Share of joined features dropped before the last layer; null: that of the image encoder."""

    @field_validator("image", mode="before")
    @classmethod
    def _any_image_family(cls, value: Any) -> Any:
        from hepdist.models.specs import FAMILIES

        if isinstance(value, ModelSpec):
            value = value.model_dump()
        if not isinstance(value, dict):
            raise ValueError("it must be a section, such as {family: resnet}")
        others = {name: spec for name, spec in FAMILIES.items() if spec is not cls and "classification" in spec.tasks}
        fitting = [name for name, spec in others.items() if spec().reads == ("image",)]
        family = value.get("family", "resnet")
        if family not in fitting:
            raise ValueError(f"'{family}' is no family that classifies images; choose one of {', '.join(fitting)}")
        return parse(FAMILIES[family], value, prefix="model.image.")

    @field_serializer("image")
    def _plain_image(self, image: ModelSpec) -> dict[str, Any]:
        return image.model_dump(mode="json")

    @model_validator(mode="after")
    def _something_beside_the_image(self) -> FusionSpec:
        if self.emr is None and self.visits is None:
            raise ValueError("a fusion needs emr or visits beside the image; for images alone use the image's family itself")
        for name, part in (("emr", self.emr), ("visits", self.visits)):
            if part is not None and part.members > 1:
                raise ValueError(f"{name}.members is {part.members}, but inside a fusion an encoder is one network; set it to 1")
        return self

    @property
    def reads(self) -> tuple[str, ...]:
        parts = [part.reads for part in (self.image, self.emr, self.visits) if part is not None]
        return tuple(name for part in parts for name in part)

    @property
    def also_reads(self) -> tuple[str, ...]:
        return self.visits.also_reads if self.visits is not None and self.emr is None else ()
