"""Training on chosen rows in this process, without Ray and DeepSpeed: what cross-validation needs, where a start-up a fold would cost more than the fold.

The recipe's model, task, augmentation, optimiser and schedule are those of `hepdist train`; what is fitted to data (normalisation,
class weights) is fitted to the chosen rows alone. No checkpoint is picked: the last weights count, or their average.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hepdist.augment import augment, normalise
from hepdist.ingest.statistics import column_statistics
from hepdist.recipe import Recipe
from hepdist.shards.manifest import SPLITS, Manifest
from hepdist.shards.read import SplitReader, columns_of
from hepdist.shards.tensors import tensor_of
from hepdist.tasks import build as build_task
from hepdist.training.batching import weigh
from hepdist.training.ema import decay_at
from hepdist.training.optimizer import adamw
from hepdist.training.saved_model import Signature, build_model
from hepdist.training.schedule import learning_rate


@dataclass(frozen=True)
class Rows:
    """All rows of a cohort in memory, splits laid end to end."""

    arrays: dict[str, np.ndarray]
    """[n, ...] by column, as they are stored; `label` is -1 where there is none."""
    sample_id: np.ndarray
    patient: np.ndarray

    def __len__(self) -> int:
        return len(self.patient)


def load_rows(recipe: Recipe, manifest: Manifest, also: Collection[str] = ()) -> Rows:
    """Every row of the recipe's cohort, with the columns that its model and task read, and those of `also`."""
    columns = tuple(dict.fromkeys((*columns_of(recipe, manifest), *also)))
    readers = [SplitReader(recipe.data.cohort, manifest, split) for split in SPLITS if manifest.rows(split)]
    parts = [reader.arrays(np.arange(len(reader)), columns) for reader in readers]
    keys = [reader.strings(("sample_id", "patient")) for reader in readers]
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in columns}
    sample_id, patient = (np.concatenate([np.array(key[name].to_pylist(), str) for key in keys]) for name in ("sample_id", "patient"))
    return Rows(arrays, sample_id, patient)


def as_train_split(manifest: Manifest, rows: Rows, chosen: np.ndarray) -> Manifest:
    """The manifest as if the chosen rows (int64[n]) were the train split: their statistics and class counts."""
    arrays = {name: values[chosen] for name, values in rows.arrays.items()}
    normalisation: dict[str, Any] = {}
    for name, columns in (("emr", manifest.emr), ("sequence", manifest.sequence)):
        if name in arrays:
            values = np.where(arrays[f"{name}_missing"] > 0, np.nan, arrays[name]).reshape(-1, len(columns))
            normalisation[name] = column_statistics(values, columns)
    if "image" in arrays:
        present = arrays["image"] if "image_missing" not in arrays else arrays["image"][arrays["image_missing"][:, 0] == 0]
        axes = (0, *range(2, present.ndim))
        normalisation["image"] = {"mean": present.mean(axes, np.float64).tolist(), "std": present.std(axes, np.float64).tolist()}
    label = arrays["label"]
    found = dict(enumerate(label.sum(0).tolist())) if label.ndim == 2 else Counter(label.tolist())
    classes = {name: int(found.get(k, 0)) for k, name in enumerate(manifest.label_names)}
    counts = {"train": {"rows": len(chosen), "patients": len(set(rows.patient[chosen])), "classes": classes}}
    return replace(manifest, normalisation=normalisation, counts=counts)


def fit(recipe: Recipe, manifest: Manifest, rows: Rows, chosen: np.ndarray, device: torch.device) -> nn.Module:
    """A model trained on the chosen rows, in evaluation mode. manifest: of `as_train_split`."""
    optim, seed = recipe.optim, recipe.train.seed
    task, model = build_task(recipe, manifest), build_model(recipe, Signature.of(manifest)).to(device).train()
    optimizer = adamw(model, optim)
    parameters = list(model.parameters())
    average = [p.detach().clone() for p in parameters]
    size = min(recipe.train.global_batch, len(chosen))
    per_epoch = -(-len(chosen) // size)
    step, steps = 0, per_epoch * recipe.train.epochs
    for epoch in range(recipe.train.epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(chosen))
        for start in range(0, len(order), size):
            position = order[start : start + size]
            batch = batch_of(rows, chosen[position], device)
            batch["position"] = torch.from_numpy(np.arange(start, start + len(position)))
            batch = augment(normalise(weigh(batch), recipe.data.normalise, manifest.normalisation), recipe.augment, seed, epoch)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(optim, step, steps)
            torch.manual_seed(hash((seed, step)))
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.train.precision == "bf16"):
                losses = task.loss(model, batch)
            loss = (losses * batch["weight"]).sum() / batch["weight"].sum().clamp(min=1.0)
            optimizer.zero_grad()
            loss.backward()
            if optim.clip:
                nn.utils.clip_grad_norm_(parameters, optim.clip)
            optimizer.step()
            if optim.ema:
                torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay_at(optim.ema, step))
            step += 1
    if optim.ema:
        with torch.no_grad():
            for parameter, mean in zip(parameters, average, strict=True):
                parameter.copy_(mean)
    return model.eval()


def predict(
    recipe: Recipe, manifest: Manifest, model: nn.Module, rows: Rows, chosen: np.ndarray, device: torch.device, extras: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """What the task predicts for the chosen rows, in their order. manifest: the one that the model was fitted with."""
    task, size = build_task(recipe, manifest), recipe.evaluation.batch
    parts = []
    for start in range(0, len(chosen), size):
        batch = normalise(batch_of(rows, chosen[start : start + size], device), recipe.data.normalise, manifest.normalisation)
        parts.append(task.predict(model, batch, extras))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def batch_of(rows: Rows, chosen: np.ndarray, device: torch.device) -> dict[str, Tensor]:
    """The chosen rows as tensors, with their number as `row`."""
    batch = {name: tensor_of(values[chosen]).to(device) for name, values in rows.arrays.items()}
    return {**batch, "row": torch.from_numpy(chosen).to(device)}
