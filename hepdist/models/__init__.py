"""Every network of hepdist in pure torch; `build` makes one from its typed spec, and is all that other stages call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hepdist.errors import RecipeError
from hepdist.models.specs import FusionSpec, MLPSpec, ModelSpec, ResNetSpec, UNetSpec

if TYPE_CHECKING:
    from torch import nn

    from hepdist.shards.format import TensorField
    from hepdist.shards.manifest import EMRColumn

__all__ = ["build"]


def build(spec: ModelSpec, fields: dict[str, TensorField], classes: int, emr: tuple[EMRColumn, ...]) -> nn.Module:
    """The network that `spec` describes for a cohort's columns, with random weights drawn from torch's generator.

    fields: the cohort's tensor columns; `image` says the number of channels and of spatial axes. classes: channels of the logits.
    The module's `inputs` names the batch keys of forward's positional arguments. It returns logits: [b, classes], or
    [b, classes, *spatial] for segmentation (in training with deep supervision a list of these, finest first).
    Raises RecipeError where the cohort lacks a column that the family reads.
    """
    if not isinstance(spec, MLPSpec) and "image" not in fields:
        raise RecipeError(f"recipe key 'model.family' is '{spec.family}', but the cohort has no images; use model.family=mlp")
    if isinstance(spec, (MLPSpec, FusionSpec)) and not emr:
        raise RecipeError(f"recipe key 'model.family' is '{spec.family}', but the cohort has no EMR columns; ingest it with emr=TABLE.csv")
    # Each family is imported where it is built: a worker pays for the one it trains.
    if isinstance(spec, ResNetSpec):
        from hepdist.models.resnet import ResNet

        return ResNet(spec, fields["image"].shape, classes)
    if isinstance(spec, UNetSpec):
        from hepdist.models.unet import UNet

        return UNet(spec, fields["image"].shape, classes)
    if isinstance(spec, MLPSpec):
        from hepdist.models.mlp import MLP

        return MLP(spec, emr, classes)
    from hepdist.models.fusion import Fusion

    return Fusion(spec, fields["image"].shape, emr, classes)
