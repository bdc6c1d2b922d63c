"""Real rows of the run's own cohort, as the shards hold them, and what the live model answers to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from hepdist.export.deployable import answer, as_stored, inputs_of, normalised
from hepdist.shards.read import SplitReader
from hepdist.tasks import build as build_task

if TYPE_CHECKING:
    from hepdist.recipe import Recipe
    from hepdist.shards.manifest import Manifest
    from hepdist.training.saved_model import Signature

MOST_AT_ONCE = 16
"""Rows a forward pass, and no more than evaluation.batch."""


@dataclass(frozen=True)
class Samples:
    """Inputs by name in the graph's order, [n, ...] each in its stored dtype, and the live model's answers float32[n, ...]."""

    split: str
    inputs: dict[str, np.ndarray]
    live: np.ndarray
    at_once: int

    def batches(self) -> Iterator[tuple[slice, list[np.ndarray]]]:
        """The first row alone, then `at_once` rows each: a graph whose batch is not free fails here."""
        total = len(self.live)
        edges = [0, *range(1, total, self.at_once), total]
        for first, last in pairwise(edges):
            yield slice(first, last), [values[first:last] for values in self.inputs.values()]


def draw(model: nn.Module, recipe: Recipe, signature: Signature, manifest: Manifest, split: str, count: int) -> Samples:
    """`count` rows, evenly spaced over the split, or all of them where it has fewer; model: as `load_model` gives it.

    Restoration gets what it was trained for: each row degraded in one of degrade.kinds, in turn, and stored as the cohort would.
    """
    reader = SplitReader(recipe.data.cohort, manifest, split)
    rows = np.unique(np.linspace(0, len(reader) - 1, min(count, len(reader))).round().astype(np.int64))
    names = inputs_of(model)
    stored = reader.arrays(rows, [name for name in names if name in manifest.fields])
    if "image_missing" in names and "image_missing" not in stored:  # a cohort with an image in every row
        stored["image_missing"] = np.zeros((len(rows), 1), np.uint8)
    task = build_task(recipe, manifest)
    if recipe.task.kind == "restoration":
        stored["image"] = _degraded(stored["image"], rows, task, recipe, signature)
    inputs = {name: np.ascontiguousarray(stored[name]) for name in names}
    at_once = min(MOST_AT_ONCE, recipe.evaluation.batch)
    found = []
    for first in range(0, len(rows), at_once):
        some = {name: torch.from_numpy(values[first : first + at_once].copy()) for name, values in inputs.items()}
        with torch.no_grad():
            found.append(answer(task, model, normalised(some, recipe, signature), recipe, signature).numpy())
    return Samples(split, inputs, np.concatenate(found), at_once)


def _degraded(image: np.ndarray, rows: np.ndarray, task: Any, recipe: Recipe, signature: Signature) -> np.ndarray:
    """The rows' images with a degradation each, rounded and clipped to the stored dtype."""
    batch = normalised({"image": torch.from_numpy(image.copy())}, recipe, signature) | {"row": torch.from_numpy(rows)}
    kinds = task.kinds
    turns = np.arange(len(rows)) % len(kinds)
    out = image.copy()
    for turn, kind in enumerate(kinds):
        chosen = np.flatnonzero(turns == turn)
        if not len(chosen):
            continue
        some = {name: values[torch.from_numpy(chosen)] for name, values in batch.items()}
        values = as_stored(task.degraded(some, kind), recipe, signature).numpy()
        if image.dtype.kind in "iu":
            limits = np.iinfo(image.dtype)
            values = values.round().clip(limits.min, limits.max)
        out[chosen] = values.astype(image.dtype)
    return out
