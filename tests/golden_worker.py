"""What the process of test_golden.py does: the first steps of every shipped recipe, by the worker that trains it, on generated data.

Run as a program it writes tests/golden anew, which is right after a change that is meant to change training, and only then:

    PYTHONPATH=. python tests/golden_worker.py [RECIPE ...]

It runs everything twice, with the machine's own kernels and with those for SSE4.1, whose sums have another order: what they differ by is
what another machine may differ by, and is stored beside the losses.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file
from visits import cohort_of_visits

from cohorts import tiny_classification_cohort, tiny_segmentation_cohort
from hepdist.ingest.statistics import column_statistics
from hepdist.recipe import Recipe, load_recipe, shipped_recipes
from hepdist.shards.manifest import Manifest
from hepdist.shards.read import SplitReader
from hepdist.spec import parse

GOLDEN = Path(__file__).parent / "golden"
STEPS = 8


def images(folder: Path, side: int, batch: int = 4, axes: int = 2, emr: bool = False) -> Path:
    """Seven whole batches and one that lacks a row."""
    manifest = tiny_classification_cohort(folder, {"train": STEPS * batch - 1, "val": 8, "test": 3}, emr=emr, side=side, axes=axes)
    if emr:  # what ingest finds of the columns, quantiles among it
        found = SplitReader(folder, manifest, "train").arrays(np.arange(manifest.rows("train")), ("emr", "emr_missing"))
        statistics = column_statistics(np.where(found["emr_missing"] > 0, np.nan, found["emr"]), manifest.emr)
        dataclasses.replace(manifest, normalisation={**manifest.normalisation, "emr": statistics}).save(folder)
    return folder


def volumes(folder: Path, shape: tuple[int, ...], batch: int = 2) -> Path:
    tiny_segmentation_cohort(folder, {"train": STEPS * batch - 1, "val": 2, "test": 2}, shape=shape)
    return folder


def visits(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return cohort_of_visits(folder)


def cohort_of(name: str) -> Callable[[Path], Path]:
    """What makes the cohort for a recipe: of the shape that it is for, smaller where its network allows."""
    kinds: dict[str, Callable[[Path], Path]] = {
        "adrenal": lambda folder: images(folder, 24, axes=3),
        "breast": lambda folder: images(folder, 28),
        "pneumonia": lambda folder: images(folder, 28),
        "restore": lambda folder: images(folder, 28),
        "demo": lambda folder: images(folder, 64, emr=True),
        "fusion": lambda folder: images(folder, 64, emr=True),
        "emr-mlp": lambda folder: images(folder, 8, batch=16, emr=True),
        "emr-rnn": visits,
        "hippocampus": lambda folder: volumes(folder, (36, 50, 35)),
        "liver": lambda folder: volumes(folder, (16, 32, 32)),
        "lung": lambda folder: volumes(folder, (64, 64), batch=4),
        "outline": lambda folder: volumes(folder, (64, 64), batch=4),
    }
    return next(make for start, make in kinds.items() if name.startswith(start))


def small(name: str, folder: Path, overrides: dict[str, Any]) -> Recipe:
    """The shipped recipe for STEPS steps of one epoch on its generated cohort; all else is as shipped. overrides: of `train`."""
    cohort = cohort_of(name)(folder / "cohort")
    rows = Manifest.load(cohort).rows("train")
    values = load_recipe(name).model_dump(mode="json")
    values |= {"runs": str(folder), "data": {**values["data"], "cohort": str(cohort)}}
    values["train"] |= {"epochs": 1, "global_batch": -(-rows // STEPS), "workers": 1, "device": "cpu", **overrides}
    return parse(Recipe, values)


def first_steps(recipe: Recipe) -> dict[str, Any]:
    """Train by the worker's own function; returns what a golden file holds."""
    from hepdist.training.checkpoint import newest_first
    from hepdist.training.metrics_file import read_metrics
    from hepdist.training.worker import work

    recipe.folder.mkdir(parents=True)
    work({"recipe": recipe.model_dump(mode="json"), "folder": str(recipe.folder), "device": "cpu", "phases": {}})
    steps = [line for line in read_metrics(recipe.folder) if "loss" in line]
    newest = newest_first(recipe.folder / "checkpoints")[0]
    found = {key: [line[key] for line in steps] for key in ("loss", "critic_loss", "lr") if key in steps[0]}
    for file in sorted(newest.glob("*.safetensors")):
        found[file.stem] = norm(load_file(file))
    return found | {"ema_decay": recipe.optim.ema}  # eight steps end before the decay has risen to it


def norm(tensors: dict[str, torch.Tensor]) -> float:
    """The L2 norm of all tensors, whole numbers and the count of steps left out."""
    return math.sqrt(sum(t.double().square().sum().item() for t in tensors.values() if t.is_floating_point() and t.ndim))


def worker(rank: int, port: int, names: list[str], out: str) -> None:
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=1)
    found = {name: first_steps(small(name, Path(out) / name, {})) for name in names}
    (Path(out) / "found.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def run(names: list[str], folder: Path) -> dict[str, dict[str, Any]]:
    """By recipe: what its first steps gave, all in one new process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(worker, (port, names, str(folder)), nprocs=1)
    found: dict[str, dict[str, Any]] = json.loads((folder / "found.json").read_text())
    return found


def spread(found: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The relative differences of two sets of kernels, in the places of what differs: in a list the largest so far."""
    keys = [key for key in found if key not in ("lr", "ema_decay")]
    differ = {key: np.abs(np.array(other[key]) / np.array(found[key]) - 1) for key in keys}
    return {key: np.maximum.accumulate(values).tolist() if values.ndim else float(values) for key, values in differ.items()}


def write(names: list[str]) -> None:
    own, others = ({}, {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"})
    runs = []
    for environment in (own, others):
        os.environ.update(environment)  # for the process that `run` starts
        with tempfile.TemporaryDirectory() as place:
            runs.append(run(names, Path(place)))
    GOLDEN.mkdir(exist_ok=True)
    for name in names:
        found = {"machine": platform.machine(), "torch": torch.__version__.split("+")[0], **runs[0][name]}
        text = json.dumps({**found, "spread": spread(runs[0][name], runs[1][name])}, indent=1)
        (GOLDEN / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    write(sys.argv[1:] or shipped_recipes())
