"""Every network of hepdist in pure torch; `build` makes one from its typed spec, and is all that other stages call."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hepdist.errors import RecipeError
from hepdist.models.inputs import Inputs

if TYPE_CHECKING:
    from torch import nn

    from hepdist.models.specs import ModelSpec

__all__ = ["LACKING", "Inputs", "build"]

LACKING = {
    "image": "has no images; use model.family=mlp",
    "emr": "has no EMR columns; ingest it with emr=TABLE.csv",
    "sequence": "has no visits over time; ingest it with an EMR table that has several dated rows a patient",
}


def build(spec: ModelSpec, inputs: Inputs, classes: int) -> nn.Module:
    """The network that `spec` describes for a cohort's inputs, with random weights drawn from torch's generator.

    classes: channels of the logits. The module's `inputs` names the batch keys of forward's positional arguments. It returns
    logits: [b, classes] (an ensemble: [b, members, classes]), or [b, classes, *spatial] for segmentation (in training with deep supervision a list of these, finest first).
    Raises RecipeError where the cohort lacks what the family reads.
    """
    for name in spec.reads:
        if not getattr(inputs, name):
            family: Any = spec.family  # type: ignore[attr-defined]  # every family's spec has it
            raise RecipeError(f"recipe key 'model.family' is '{family}', but the cohort {LACKING[name]}")
    module, _, name = spec.network.partition(":")
    network: nn.Module = getattr(import_module(module), name)(spec, inputs, classes)
    return network
