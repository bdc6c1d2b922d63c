"""What is exported: one module from rows as the shards hold them to the answers that evaluation scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hepdist.augment import denormalise, normalise
from hepdist.models.rnn import Member
from hepdist.tasks import build as build_task

if TYPE_CHECKING:
    from hepdist.recipe import Recipe
    from hepdist.shards.manifest import Manifest
    from hepdist.training.saved_model import Signature


class Deployable(nn.Module):
    """Stored inputs, in the order of `names` -> float32[b, ...], what `answer` makes of them.

    Normalisation is inside, and so are the mirrored, moved and windowed images that the recipe averages in validation and test: the
    outputs are those that `hepdist evaluate` scores. Inputs have the cohort's own dtypes and units.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, signature: Signature, manifest: Manifest) -> None:
        super().__init__()
        self.model = model
        self.names = inputs_of(model)
        self.recipe, self.signature = recipe, signature
        self.task = graph_task(recipe, manifest)
        for module in model.modules():
            if isinstance(module, Member):
                module.packed = False  # a graph knows no packed sequences

    def forward(self, *inputs: Tensor) -> Tensor:
        batch = normalised(dict(zip(self.names, inputs, strict=True)), self.recipe, self.signature)
        return answer(self.task, self.model, batch, self.recipe, self.signature)


def inputs_of(model: nn.Module) -> tuple[str, ...]:
    """Names of the network's inputs, in order: columns of the shards."""
    names: Any = model.inputs
    return tuple(names)


def normalised(stored: dict[str, Tensor], recipe: Recipe, signature: Signature) -> dict[str, Tensor]:
    """Stored rows as the network reads them; uint16 goes by int32, as in training and evaluation (hepdist.shards.tensors)."""
    wide = {name: values.to(torch.int32) if values.dtype == torch.uint16 else values for name, values in stored.items()}
    return normalise(wide, recipe.data.normalise, signature.normalisation)


def answer(task: Any, model: nn.Module, batch: dict[str, Tensor], recipe: Recipe, signature: Signature) -> Tensor:
    """What the task makes of a normalised batch: probabilities, float32[b, classes] or [b, classes, *spatial].

    Of a restoration the restored image in the stored image's unit, float32[b, C, *spatial], neither rounded nor clipped.
    """
    if recipe.task.kind == "restoration":
        with torch.no_grad():
            return as_stored(task.restored(model, batch["image"]), recipe, signature)
    probability: Tensor = task.probability(model, batch)
    return probability


def as_stored(image: Tensor, recipe: Recipe, signature: Signature) -> Tensor:
    """A normalised image in the unit in which the cohort stores it, float32; for data.normalise=cohort and none."""
    return denormalise(image, recipe.data.normalise, signature.normalisation, signature.fields["image"].dtype)


def graph_task(recipe: Recipe, manifest: Manifest) -> Any:
    """The run's task; one that sees large images by windows does so in a form that a graph can hold."""
    if recipe.task.kind == "segmentation" and recipe.evaluation.window:
        from hepdist.export.windows import Unrolled

        return Unrolled(recipe, manifest)
    return build_task(recipe, manifest)
