"""Exact scoring of a split: every case once, in units cut without regard to the number of workers, as a Ray Data job.

A case is a row, and a unit a batch of them; of a cohort in bricks that is segmented, both are a volume with all its bricks.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from hepdist.console import progress
from hepdist.errors import RunError
from hepdist.recipe import Recipe
from hepdist.shards.manifest import SPLITS, Manifest
from hepdist.shards.plan import READER_CPUS
from hepdist.shards.read import SplitReader, columns_of, scores_volumes
from hepdist.shards.tensors import tensor_of
from hepdist.tasks import keys

if TYPE_CHECKING:
    from hepdist.tasks.segmentation import Segmentation


class Scorer:
    """One scoring worker: the run's model on its device, called with (split, rows of a unit) by Ray Data."""

    def __init__(self, run: str, cohort: str, device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        from hepdist.tasks import build as build_task
        from hepdist.training.saved_model import load_model

        self.device = torch.device(device)
        model, self.recipe, self.signature = load_model(run)
        self.model = model.to(self.device)
        self.manifest = Manifest.load(cohort)
        self.readers = {split: SplitReader(cohort, self.manifest, split) for split in SPLITS}
        self.task = build_task(self.recipe, self.manifest)

    def __call__(self, item: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """item: {'split': [1], 'first': int64[1], 'last': int64[1]}; returns one entry a case: 'split' and what `predict` gives."""
        split, rows = str(item["split"][0]), np.arange(item["first"][0], item["last"][0])
        measured = ("hd95", "nsd") if self.recipe.evaluation.surface and self.recipe.task.kind == "segmentation" else ()
        found = self.predict(split, rows, measured)
        return {"split": np.full(len(found["row"]), split), **found}

    def predict(self, split: str, rows: np.ndarray, extras: Collection[str] = ()) -> dict[str, np.ndarray]:
        """Predictions of some cases of a split, all of whose rows are given, in their order; `extras` as Task.predict knows them.

        `row` is a case's first row; `label` is there where rows have one.
        """
        batches = self._batches(split, rows)
        if scores_volumes(self.recipe, self.manifest):
            from hepdist.tasks.volumes import predict_volumes

            parts = list(predict_volumes(cast("Segmentation", self.task), self.model, batches, extras))
        else:
            parts = [keys(batch) | self.task.predict(self.model, batch, extras) for batch in batches]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _batches(self, split: str, rows: np.ndarray) -> Iterator[dict[str, torch.Tensor]]:
        """The rows, normalised, in batches for one forward pass each."""
        from hepdist.augment import normalise

        size, columns = self.recipe.evaluation.batch, columns_of(self.recipe, self.manifest)
        for first in range(0, len(rows), size):
            some = rows[first : first + size]
            arrays = {**self.readers[split].arrays(some, columns), "row": some}
            tensors = {name: tensor_of(values).to(self.device) for name, values in arrays.items()}
            yield normalise(tensors, self.recipe.data.normalise, self.signature.normalisation)


def cases_of(recipe: Recipe, manifest: Manifest, split: str) -> np.ndarray:
    """int64[cases + 1]: the first row of each case, and the number of rows."""
    return manifest.cases(split) if scores_volumes(recipe, manifest) else np.arange(manifest.rows(split) + 1)


def units_of(recipe: Recipe, manifest: Manifest, split: str) -> np.ndarray:
    """int64[units + 1]: the rows at which units of work begin, and the number of rows."""
    if scores_volumes(recipe, manifest):
        return manifest.cases(split)
    rows = manifest.rows(split)
    return np.append(np.arange(0, rows, recipe.evaluation.batch), rows)


def score_splits(run: Path, recipe: Recipe, cohort: str, splits: Collection[str], device: str) -> dict[str, dict[str, np.ndarray]]:
    """Every case of the splits, predicted once, in the order of rows; Ray must be connected.

    Returns by split {'row': int64[n], predictions...}, as Task.predict names them. What falls into a unit is fixed, so the
    predictions are bit-identical on any number of workers.
    """
    import ray.data
    import ray.util.annotations

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    manifest = Manifest.load(cohort)
    units = {split: pairwise(units_of(recipe, manifest, split).tolist()) for split in splits}
    items = [{"split": split, "first": first, "last": last} for split, rows in units.items() for first, last in rows]
    cases = {split: cases_of(recipe, manifest, split)[:-1] for split in splits}
    with warnings.catch_warnings():
        # Not restarting a lost scorer is said by `max_restarts` alone, which Ray Data deprecates without another way to say it.
        warnings.simplefilter("ignore", ray.util.annotations.RayDeprecationWarning)
        scored = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            Scorer,
            fn_constructor_args=(str(run), cohort, device, max(1, int(recipe.train.cpus_per_worker))),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=min(recipe.train.fewest, len(items)), max_size=min(recipe.train.most, len(items))),
            num_cpus=recipe.train.cpus_per_worker - READER_CPUS,
            num_gpus=1 if device == "cuda" else 0,
            max_restarts=0,  # its constructor's arguments are not kept for one; the others take its batches
        )
    parts: dict[str, list[dict[str, np.ndarray]]] = {split: [] for split in splits}
    done = 0
    with progress("evaluate") as report:
        for block in scored.iter_batches(batch_size=None, batch_format="numpy"):
            for split in np.unique(block["split"]):
                chosen = block["split"] == split
                parts[str(split)].append({str(name): values[chosen] for name, values in block.items() if name != "split"})
            done += len(block["split"])
            report(done, sum(map(len, cases.values())))
    return {split: _in_row_order(found, cases[split]) for split, found in parts.items()}


def _in_row_order(parts: list[dict[str, np.ndarray]], first_rows: np.ndarray) -> dict[str, np.ndarray]:
    """first_rows: of the cases that there are."""
    whole = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    order = np.argsort(whole["row"])
    if not np.array_equal(whole["row"][order], first_rows):
        raise RunError(f"{len(first_rows)} cases were to be scored, {len(order)} came back; evaluate the run again")
    return {name: values[order] for name, values in whole.items()}
