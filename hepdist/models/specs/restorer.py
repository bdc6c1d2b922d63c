"""The configuration of the restoration network."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from annotated_types import Len
from pydantic import NonNegativeInt, PositiveInt, model_validator

from hepdist.errors import RecipeError
from hepdist.models.specs.common import Choice, ModelSpec, Range, Share

Blocks = Annotated[tuple[NonNegativeInt, ...], Len(1, 5)]


class RestorerSpec(ModelSpec):
    """NAFNet: an encoder-decoder that predicts what to add to a degraded image, 2D or 3D by the image column (Chen et al., 2022)."""

    tasks = ("restoration",)
    network = "hepdist.models.restorer:Restorer"
    search: ClassVar = {"width": Choice((16, 24, 32, 48)), "middle": Range(1, 4), "dropout": Range(0.0, 0.2)}

    family: Literal["restorer"] = "restorer"
    width: PositiveInt = 24
    """Channels at full resolution (32 or 64 in the paper); each level doubles it."""
    encoder: Blocks = (1, 1)
    """Blocks of each level on the way down, the finest first; as many halvings as levels. The paper's net for noise: 2, 2, 4, 8."""
    middle: PositiveInt = 2
    """Blocks at the coarsest level; the paper's net for noise: 12."""
    decoder: Blocks = (1, 1)
    """Blocks of each level on the way up, the coarsest first; as many levels as in `encoder`."""
    dropout: Share = 0.0
    """Share of a block's values dropped before they are added."""
    checkpointing: bool = False
    """Compute each block again in the backward pass instead of keeping what it computed: less memory, a third more time."""

    @model_validator(mode="after")
    def _as_many_levels_up_as_down(self) -> RestorerSpec:
        if len(self.encoder) != len(self.decoder):
            raise RecipeError(
                f"recipe key 'model.decoder' has {len(self.decoder)} levels and 'model.encoder' {len(self.encoder)}; give both the same number"
            )
        return self
