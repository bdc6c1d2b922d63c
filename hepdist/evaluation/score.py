"""Exact scoring of a split: every row once, in batches cut without regard to the number of workers, as a Ray Data job."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hepdist.recipe import Recipe
from hepdist.shards.manifest import Manifest
from hepdist.shards.read import SplitReader, columns_of


class Scorer:
    """One scoring worker: the run's model on its device, called with batch numbers by Ray Data."""

    def __init__(self, run: str, cohort: str, split: str, device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        from hepdist.tasks import build as build_task
        from hepdist.training.saved_model import load_model

        self.device = torch.device(device)
        model, self.recipe, self.signature = load_model(run)
        self.model = model.to(self.device)
        self.reader = SplitReader(cohort, Manifest.load(cohort), split)
        self.task = build_task(self.recipe, self.reader.manifest)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """batch: {'id': int64[n]} batch numbers; returns one entry a row: 'row', 'label' where there is one, and predictions."""
        parts = [self.predict(int(index)) for index in batch["id"]]
        return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

    def predict(self, index: int) -> dict[str, np.ndarray]:
        """Predictions of batch `index` of the split."""
        size = self.recipe.evaluation.batch
        rows = np.arange(index * size, min((index + 1) * size, len(self.reader)))
        measured = ("hd95",) if self.recipe.evaluation.surface and self.recipe.task.kind == "segmentation" else ()
        return self.predict_rows(rows, measured)

    def predict_rows(self, rows: np.ndarray, extras: Collection[str] = ()) -> dict[str, np.ndarray]:
        """Predictions of any rows of the split, in the given order; `extras` as Task.predict knows them."""
        from hepdist.augment import normalise

        arrays = self.reader.arrays(rows, columns_of(self.recipe, self.reader.manifest))
        tensors = {name: _tensor(values).to(self.device) for name, values in arrays.items()}
        predicted = self.task.predict(self.model, normalise(tensors, self.recipe.data.normalise, self.signature.normalisation), extras)
        label = {"label": arrays["label"]} if "label" in arrays else {}
        return {"row": rows, **label, **predicted}


def score_split(run: Path, recipe: Recipe, cohort: str, split: str, rows: int, device: str) -> dict[str, np.ndarray]:
    """Every row of a split, predicted once, in row order; Ray must be connected.

    Returns {'row': int64[n], predictions...}, as Task.predict names them.
    """
    import ray.data

    batches = -(-rows // recipe.evaluation.batch)
    workers = min(recipe.train.workers, batches)
    ray.data.DataContext.get_current().enable_progress_bars = False
    scored = ray.data.range(batches, override_num_blocks=batches).map_batches(
        Scorer,
        fn_constructor_kwargs={
            "run": str(run),
            "cohort": cohort,
            "split": split,
            "device": device,
            "threads": max(1, int(recipe.train.cpus_per_worker)),
        },
        batch_size=1,
        concurrency=workers,
        num_cpus=recipe.train.cpus_per_worker * 0.5,
        num_gpus=1 if device == "cuda" else 0,
        zero_copy_batch=True,
    )
    parts = list(_numpy_batches(scored))
    whole = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    order = np.argsort(whole["row"])
    assert len(order) == rows, f"{rows} rows to score, {len(order)} scored"
    return {name: values[order] for name, values in whole.items()}


def _numpy_batches(dataset: Any) -> Iterator[dict[str, np.ndarray]]:
    yield from dataset.iter_batches(batch_size=None, batch_format="numpy")


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.int32) if values.dtype == np.uint16 else values)
