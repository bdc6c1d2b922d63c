"""The configuration of V-Net."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from annotated_types import Len
from pydantic import PositiveInt, model_validator

from hepdist.errors import RecipeError
from hepdist.models.specs.common import Activation, Choice, ModelSpec, Norm, Range, Share


class VNetSpec(ModelSpec):
    """Residual encoder-decoder without pooling for segmentation, 2D or 3D by the image column (Milletari et al., 2016)."""

    tasks = ("segmentation",)
    network = "hepdist.models.vnet:VNet"
    search: ClassVar = {
        "width": Choice((8, 16, 24)),
        "convolutions": Choice(((1, 2, 3), (1, 2, 3, 3), (1, 2, 3, 3, 3))),
        "kernel": Choice((3, 5)),
        "dropout": Range(0.0, 0.5),
    }

    family: Literal["vnet"] = "vnet"
    width: PositiveInt = 16
    """Channels of the first level; each level doubles it."""
    convolutions: Annotated[tuple[PositiveInt, ...], Len(2, 7)] = (1, 2, 3, 3, 3)
    """Convolutions of each level's residual stage, finest level first; their number is the number of levels. The image's sides are
    halved once fewer at most, never below 4 voxels."""
    decoder: tuple[PositiveInt, ...] = ()
    """The same on the way up, without the coarsest level; empty: as on the way down, as in the paper."""
    kernel: Literal[3, 5] = 5
    """Side of the convolutions; 5 in the paper. In 3D a kernel of 3 has a fifth of the weights."""
    stride: Literal[1, 2] = 1
    """2: the first level already works at half resolution, with the voxels of each 2x2(x2) block as channels, and its logits are
    unfolded into the block's voxels (sub-pixel convolution); an eighth of the positions in 3D, for machines without a GPU."""
    norm: Norm = "instance"
    """The paper has none."""
    activation: Activation = "prelu"
    dropout: Share = 0.0
    """Share of channels dropped before what reads the two coarsest levels, on the way down and up."""
    checkpointing: bool = False
    """Compute each stage a second time in the backward pass instead of keeping it: less memory, about a third more time."""

    @model_validator(mode="after")
    def _fits_together(self) -> VNetSpec:
        if self.decoder and len(self.decoder) != len(self.convolutions) - 1:
            raise RecipeError(
                f"recipe key 'model.decoder' has {len(self.decoder)} levels; give it {len(self.convolutions) - 1},"
                " one fewer than model.convolutions, or leave it out"
            )
        return self
