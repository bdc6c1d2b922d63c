"""Exact scoring of a split: every row once, in batches cut without regard to the number of workers, as a Ray Data job."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch

from hepdist.console import progress
from hepdist.errors import RunError
from hepdist.recipe import Recipe
from hepdist.shards.manifest import SPLITS, Manifest
from hepdist.shards.plan import READER_CPUS
from hepdist.shards.read import SplitReader, columns_of


class Scorer:
    """One scoring worker: the run's model on its device, called with (split, batch number) by Ray Data."""

    def __init__(self, run: str, cohort: str, device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        from hepdist.tasks import build as build_task
        from hepdist.training.saved_model import load_model

        self.device = torch.device(device)
        model, self.recipe, self.signature = load_model(run)
        self.model = model.to(self.device)
        manifest = Manifest.load(cohort)
        self.readers = {split: SplitReader(cohort, manifest, split) for split in SPLITS}
        self.task = build_task(self.recipe, manifest)

    def __call__(self, item: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """item: {'split': [1], 'batch': int64[1]}; returns one entry a row: 'split', 'row', 'label' where there is one, predictions."""
        split, batch, size = str(item["split"][0]), int(item["batch"][0]), self.recipe.evaluation.batch
        rows = np.arange(batch * size, min((batch + 1) * size, len(self.readers[split])))
        measured = ("hd95",) if self.recipe.evaluation.surface and self.recipe.task.kind == "segmentation" else ()
        return {"split": np.full(len(rows), split), **self.predict(split, rows, measured)}

    def predict(self, split: str, rows: np.ndarray, extras: Collection[str] = ()) -> dict[str, np.ndarray]:
        """Predictions of any rows of a split, in the given order; `extras` as Task.predict knows them."""
        from hepdist.augment import normalise

        reader = self.readers[split]
        arrays = reader.arrays(rows, columns_of(self.recipe, reader.manifest))
        tensors = {name: _tensor(values).to(self.device) for name, values in {**arrays, "row": rows}.items()}
        predicted = self.task.predict(self.model, normalise(tensors, self.recipe.data.normalise, self.signature.normalisation), extras)
        label = {"label": arrays["label"]} if "label" in arrays else {}
        return {"row": rows, **label, **predicted}


def score_splits(run: Path, recipe: Recipe, cohort: str, rows: dict[str, int], device: str) -> dict[str, dict[str, np.ndarray]]:
    """Every row of the splits {name: rows}, predicted once, in row order; Ray must be connected.

    Returns by split {'row': int64[n], predictions...}, as Task.predict names them. What falls into a batch is fixed, so the
    predictions are bit-identical on any number of workers.
    """
    import ray.data
    import ray.util.annotations

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    size = recipe.evaluation.batch
    items = [{"split": split, "batch": batch} for split, count in rows.items() for batch in range(-(-count // size))]
    with warnings.catch_warnings():
        # Not restarting a lost scorer is said by `max_restarts` alone, which Ray Data deprecates without another way to say it.
        warnings.simplefilter("ignore", ray.util.annotations.RayDeprecationWarning)
        scored = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            Scorer,
            fn_constructor_args=(str(run), cohort, device, max(1, int(recipe.train.cpus_per_worker))),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(recipe.train.workers, len(items))),
            num_cpus=recipe.train.cpus_per_worker - READER_CPUS,
            num_gpus=1 if device == "cuda" else 0,
            max_restarts=0,  # its constructor's arguments are not kept for one; the others take its batches
        )
    parts: dict[str, list[dict[str, np.ndarray]]] = {split: [] for split in rows}
    done = 0
    with progress("evaluate") as report:
        for block in scored.iter_batches(batch_size=None, batch_format="numpy"):
            for split in np.unique(block["split"]):
                chosen = block["split"] == split
                parts[str(split)].append({str(name): values[chosen] for name, values in block.items() if name != "split"})
            done += len(block["split"])
            report(done, sum(rows.values()))
    return {split: _in_row_order(found, rows[split]) for split, found in parts.items()}


def _in_row_order(parts: list[dict[str, np.ndarray]], rows: int) -> dict[str, np.ndarray]:
    whole = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    order = np.argsort(whole["row"])
    if not np.array_equal(whole["row"][order], np.arange(rows)):
        raise RunError(f"{rows} rows were to be scored, {len(order)} came back; evaluate the run again")
    return {name: values[order] for name, values in whole.items()}


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.int32) if values.dtype == np.uint16 else values)
