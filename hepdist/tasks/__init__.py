"""Tasks: what a model is trained for and how it is scored, in pure torch; `build` makes the one that a recipe names."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from torch import Tensor, nn

from hepdist.errors import RecipeError

if TYPE_CHECKING:
    from hepdist.recipe import Recipe
    from hepdist.shards.manifest import Manifest

__all__ = ["Task", "build", "forward", "is_higher_better", "keys", "selected"]


class Task(Protocol):
    """A loss, a prediction and a score; the training loop and the evaluation know nothing else of what they serve."""

    classes: tuple[str, ...]
    """Names of the channels of the model's logits."""
    select: str
    """The metric of `score` that picks the best checkpoint."""
    higher_is_better: bool

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """float32[b]: each sample's loss; 0 where it has no label. The caller weights and sums."""
        ...

    def predict(self, model: nn.Module, batch: dict[str, Tensor], extras: Collection[str] = ()) -> dict[str, np.ndarray]:
        """One entry a sample under each name, without gradients; the caller has put the model into evaluation mode.

        extras: further results that are costly or large, by the name under which they are returned; see each task.
        """
        ...

    def score(self, rows: dict[str, np.ndarray]) -> dict[str, float]:
        """Metrics over all rows of a split: `predict`'s entries gathered from all workers, and `label` where rows have one."""
        ...


def build(recipe: Recipe, manifest: Manifest) -> Task:
    """The task of `recipe.task.kind` on this cohort; RecipeError where the cohort lacks the labels or masks it needs."""
    if recipe.task.kind == "classification":
        if not manifest.label_names:
            raise RecipeError("recipe key 'task.kind' is 'classification', but the cohort has no labels; ingest it with a label table")
        from hepdist.tasks.classification import Classification

        return Classification(recipe, manifest)
    if recipe.task.kind == "survival":
        if "followup" not in manifest.fields:
            raise RecipeError(
                "recipe key 'task.kind' is 'survival', but the cohort has no follow-up; ingest it with event=COLUMN and horizon=DAYS"
            )
        from hepdist.tasks.survival import Survival

        return Survival(recipe, manifest)
    for key, given in (("ordinal", recipe.task.ordinal), ("focal", recipe.task.focal)):
        if given:
            raise RecipeError(f"recipe key 'task.{key}' is for classification; leave it out")
    if recipe.task.class_weights != "none":
        raise RecipeError("recipe key 'task.class_weights' is for classification; in segmentation Dice already balances, so set it to none")
    if recipe.task.kind == "restoration":
        from hepdist.tasks.restoration import Restoration

        return Restoration(recipe, manifest)
    if "mask" not in manifest.fields:
        raise RecipeError("recipe key 'task.kind' is 'segmentation', but the cohort has no masks; ingest it with masks")
    if recipe.adversary:
        from hepdist.tasks.outlining import Outlining

        return Outlining(recipe, manifest)
    from hepdist.tasks.segmentation import Segmentation

    return Segmentation(recipe, manifest)


def selected(recipe: Recipe, usual: str, metrics: Sequence[str]) -> tuple[str, bool]:
    """The validation metric that picks the best checkpoint, and whether higher is better; RecipeError where it is none of `metrics`."""
    select = recipe.task.select or usual
    if select not in metrics:
        raise RecipeError(f"recipe key 'task.select' is '{select}': choose one of {', '.join(metrics)}")
    return select, is_higher_better(select)


def is_higher_better(metric: str) -> bool:
    """Of a metric that `score` gives; empty: of the task's usual one."""
    return metric not in ("loss", "mae")


def keys(batch: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """What stands beside a batch's predictions when they are scored: its rows and, where it has them, their truth."""
    return {name: batch[name].cpu().numpy() for name in ("row", "label", "followup") if name in batch}


def forward(model: nn.Module, batch: dict[str, Tensor]) -> Tensor | list[Tensor]:
    """The model's logits for the batch entries that it says it reads; the model may be wrapped in a DeepSpeed engine."""
    inputs: Any = model.inputs
    return model(*(batch[name] for name in inputs))
