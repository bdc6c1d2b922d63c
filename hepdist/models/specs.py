"""The typed configuration of every model family, without torch, so that a recipe is checked in milliseconds.

Each family has one Spec here and one file beside this one that builds the network from it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import PositiveInt

from hepdist.errors import RecipeError
from hepdist.spec import Spec, parse

Share = Annotated[float, Ge(0), Le(0.9)]
Norm = Literal["instance", "group", "syncbatch"]


class ResNetSpec(Spec):
    """Residual network for classification, 2D or 3D by the image column (He et al., 2016)."""

    family: Literal["resnet"] = "resnet"
    depth: Literal[10, 18, 34, 50, 101, 152] = 18
    """Layers as the paper counts them; 10 to 34 use basic blocks, 50 and more use bottlenecks."""
    width: PositiveInt = 32
    """Channels of the first stage (64 in the paper); each stage doubles it."""
    preactivation: bool = True
    """Norm and ReLU before each convolution (He et al., 2016b): trains better at small batch sizes."""
    stem: Literal["auto", "small", "large"] = "auto"
    """small: one 3x3 convolution, no pooling; large: 7x7 stride 2 and max pooling; auto: small below 64 pixels a side."""
    norm: Norm = "group"
    """Group norm by default: exact on any number of workers, since it needs no statistics across the batch."""
    dropout: Share = 0.0
    """Share of features dropped before the last layer."""


class UNetSpec(Spec):
    """Encoder-decoder with skip connections for segmentation, 2D or 3D by the image column (Ronneberger et al., 2015)."""

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
    dropout: Share = 0.0


class MLPSpec(Spec):
    """Multi-layer perceptron over EMR columns with their missing-mask as further inputs."""

    family: Literal["mlp"] = "mlp"
    width: PositiveInt = 64
    depth: Annotated[int, Ge(1), Le(8)] = 2
    """Hidden layers."""
    dropout: Share = 0.1


class FusionSpec(Spec):
    """Image encoder and EMR encoder, joined late."""

    family: Literal["fusion"] = "fusion"
    image: ResNetSpec = ResNetSpec()
    emr: MLPSpec = MLPSpec()
    join: Literal["concat", "film", "gated"] = "concat"
    """concat: features side by side; film: EMR scales and shifts image features (Perez et al., 2018); gated: a learned mixture."""
    modality_dropout: Share = 0.0
    """Share of training samples that lose one of the two inputs, so that the model works when one is missing."""


ModelSpec = ResNetSpec | UNetSpec | MLPSpec | FusionSpec
FAMILIES: dict[str, type[Spec]] = {"resnet": ResNetSpec, "unet": UNetSpec, "mlp": MLPSpec, "fusion": FusionSpec}


def parse_model(values: dict[str, Any]) -> Any:
    """The Spec of `values['family']`, or one sentence that names the key and the fix."""
    family = values.get("family")
    if family not in FAMILIES:
        raise RecipeError(f"recipe key 'model.family' is {family!r}: choose one of {', '.join(FAMILIES)}")
    return parse(FAMILIES[family], values, prefix="model.")
