"""The configuration of U-Net."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Le
from pydantic import PositiveInt

from hepdist.models.specs.common import Activation, Choice, ModelSpec, Norm, Range, Share


class UNetSpec(ModelSpec):
    """Encoder-decoder with skip connections for segmentation, 2D or 3D by the image column (Ronneberger et al., 2015)."""

    tasks = ("segmentation",)
    network = "hepdist.models.unet:UNet"
    search: ClassVar = {"depth": Range(3, 6), "width": Choice((16, 24, 32)), "residual": Choice((False, True)), "dropout": Range(0.0, 0.3)}

    family: Literal["unet"] = "unet"
    width: PositiveInt = 32
    """Channels of the first level; each level doubles it up to `max_width`."""
    max_width: PositiveInt = 320
    """Most channels a level may have (nnU-Net's limit in 3D)."""
    depth: Annotated[int, Ge(2), Le(7)] = 4
    """Resolution levels; the image's sides are halved depth - 1 times at most, never below 4 voxels."""
    stride: Literal[1, 2] = 1
    """2: the first level already works at half resolution, with the voxels of each 2x2(x2) block as channels, and its logits are
    unfolded into the block's voxels (sub-pixel convolution); an eighth of the positions in 3D, for machines without a GPU."""
    residual: bool = False
    """Residual blocks in the encoder (nnU-Net ResEnc)."""
    deep_supervision: bool = False
    """Extra losses at coarser decoder levels, weighted by halves (nnU-Net)."""
    norm: Norm = "instance"
    activation: Activation = "leaky_relu"
    dropout: Share = 0.0
    """Share of channels dropped between the two convolutions of each block."""
    checkpointing: bool = False
    """Compute each block a second time in the backward pass instead of keeping it: less memory, about a third more time."""
