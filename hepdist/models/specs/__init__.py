"""The typed configuration of every model family, without torch, so that a recipe is checked in milliseconds.

Each family has one Spec here and one file in hepdist/models that builds the network from it; FAMILIES lists them.
"""

from __future__ import annotations

from typing import Any

from hepdist.errors import RecipeError
from hepdist.models.specs.adversary import AdversarySpec
from hepdist.models.specs.cnn import CNNSpec
from hepdist.models.specs.common import Choice, ModelSpec, Range
from hepdist.models.specs.densenet import DenseNetSpec
from hepdist.models.specs.fusion import FusionSpec
from hepdist.models.specs.inception import InceptionSpec
from hepdist.models.specs.mlp import MLPSpec
from hepdist.models.specs.resnet import ResNetSpec
from hepdist.models.specs.restorer import RestorerSpec
from hepdist.models.specs.rnn import RNNSpec
from hepdist.models.specs.unet import UNetSpec
from hepdist.models.specs.vnet import VNetSpec
from hepdist.spec import parse

__all__ = [
    "FAMILIES",
    "AdversarySpec",
    "CNNSpec",
    "Choice",
    "DenseNetSpec",
    "FusionSpec",
    "InceptionSpec",
    "MLPSpec",
    "ModelSpec",
    "RNNSpec",
    "Range",
    "ResNetSpec",
    "RestorerSpec",
    "UNetSpec",
    "VNetSpec",
    "families_for",
    "parse_model",
]

FAMILIES: dict[str, type[ModelSpec]] = {
    "resnet": ResNetSpec,
    "densenet": DenseNetSpec,
    "inception": InceptionSpec,
    "cnn": CNNSpec,
    "unet": UNetSpec,
    "vnet": VNetSpec,
    "restorer": RestorerSpec,
    "mlp": MLPSpec,
    "rnn": RNNSpec,
    "fusion": FusionSpec,
}


def families_for(task: str) -> list[str]:
    """Names of the families that serve a task.kind."""
    return [name for name, spec in FAMILIES.items() if task in spec.tasks]


def parse_model(values: dict[str, Any]) -> Any:
    """The Spec of `values['family']`, or one sentence that names the key and the fix."""
    family = values.get("family")
    if family not in FAMILIES:
        raise RecipeError(f"recipe key 'model.family' is {family!r}: choose one of {', '.join(FAMILIES)}")
    return parse(FAMILIES[family], values, prefix="model.")
