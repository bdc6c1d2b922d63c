"""Our training loop's samples/s over a plain PyTorch loop's: same model, batch, precision and threads, no augmentation.

Ours is the whole road: shards on disk, Ray Data, DeepSpeed, `hepdist train` as a command, its rate taken from metrics.jsonl
after the first epoch. The plain loop has normalised float32 tensors in memory and nothing else; with 2 workers it is
DistributedDataParallel over gloo, as torchrun starts it. The two take turns.

    python benchmarks/loop.py [--rounds 3] [--seconds 30] [--only resnet-1 ...]
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing
from common import hepdist_train, machine, markdown, median, random_cohort, spread

from hepdist.augment import normalise
from hepdist.recipe import Recipe
from hepdist.shards.manifest import Manifest
from hepdist.shards.read import SplitReader, columns_of
from hepdist.spec import parse
from hepdist.tasks import build as build_task
from hepdist.training.saved_model import Signature, build_model

CASES: dict[str, dict[str, Any]] = {
    "resnet": {
        "image": (1, 28, 28), "rows": 4096, "task": {"kind": "classification"},
        "model": {"family": "resnet", "depth": 10, "width": 24}, "batch": 64,
    },
    "unet": {
        "image": (1, 32, 48, 32), "rows": 128, "task": {"kind": "segmentation"},
        "model": {"family": "unet", "width": 16, "depth": 4, "stride": 2, "norm": "group"}, "batch": 4,
    },
}  # fmt: skip
LONGEST = 40
"""Most epochs of one of our runs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30.0, help="of steady training a run")
    parser.add_argument("--only", nargs="+", default=[], metavar="CASE", help="such as resnet-1 or unet-2")
    arguments = parser.parse_args()
    print(machine(), flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for case in CASES:
            for workers in (1, 2):
                if not arguments.only or f"{case}-{workers}" in arguments.only:
                    rows.append(compare(Path(name), case, workers, arguments.rounds, arguments.seconds))
    header = ["model", "workers", "ours, samples/s", "plain, samples/s", "ours / plain", "ours waits for data"]
    print(markdown(header, rows))
    print(machine())


def compare(folder: Path, case: str, workers: int, rounds: int, seconds: float) -> list[str]:
    """A row of the table: `rounds` runs of the plain loop and of ours, in turn."""
    facts = CASES[case]
    mask = facts["task"]["kind"] == "segmentation"
    random_cohort(folder / case, {"train": facts["rows"], "val": facts["batch"]}, facts["image"], mask=mask)
    plain, ours, waits = [], [], []
    for number in range(rounds):
        recipe = recipe_of(folder, case, workers, f"{case}-{workers}-{number}")
        plain.append(plain_rate(recipe, seconds))
        epochs = int(np.clip(seconds * plain[-1] / facts["rows"] + 2, 3, LONGEST))
        recipe["train"].update(epochs=epochs, validate_every=epochs)
        rate, wait = our_rate(folder, recipe)
        ours.append(rate)
        waits.append(wait)
        print(f"  {case}, {workers} workers: ours {rate:.1f}, plain {plain[-1]:.1f}, {epochs} epochs", flush=True)
    return [case, str(workers), spread(ours, 1), spread(plain, 1), f"{median(ours) / median(plain):.2f}", f"{median(waits):.1%}"]


def recipe_of(folder: Path, case: str, workers: int, name: str) -> dict[str, Any]:
    facts = CASES[case]
    return {
        "name": name, "data": {"cohort": str(folder / case)}, "task": facts["task"], "model": facts["model"],
        "train": {"workers": workers, "global_batch": facts["batch"]}, "evaluation": {"splits": [], "batch": facts["batch"]},
    }  # fmt: skip


def our_rate(folder: Path, recipe: dict[str, Any]) -> tuple[float, float]:
    """Samples/s of `hepdist train` after its first epoch, and the share of that time it waited for data."""
    run = hepdist_train(folder, recipe)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    reports = [line for line in lines if "samples_per_s" in line]
    samples = seconds = waited = 0.0
    for before, line in pairwise(reports):
        if before["epoch"] >= 1:
            part = line["samples"] - before["samples"]
            samples, seconds = samples + part, seconds + part / line["samples_per_s"]
            waited += line["data_wait_share"] * part / line["samples_per_s"]
    return samples / seconds, waited / seconds


def plain_rate(recipe: dict[str, Any], seconds: float) -> float:
    """Samples/s of the plain loop over all its workers."""
    workers = recipe["train"]["workers"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.NamedTemporaryFile("r") as answer:
        torch.multiprocessing.spawn(_plain_worker, (recipe, seconds, port, answer.name), nprocs=workers)
        return float(answer.read())


def _plain_worker(rank: int, values: dict[str, Any], seconds: float, port: int, answer: str) -> None:
    """The loop that a careful person writes: data in memory, AdamW, clipping, DDP where there are more workers than one."""
    torch.set_num_threads(1)
    recipe: Recipe = parse(Recipe, values)
    world = recipe.train.workers
    manifest = Manifest.load(recipe.data.cohort)
    reader = SplitReader(recipe.data.cohort, manifest, "train")
    arrays = reader.arrays(np.arange(len(reader)), columns_of(recipe, manifest))
    data = normalise({name: torch.from_numpy(values) for name, values in arrays.items()}, "cohort", manifest.normalisation)
    task = build_task(recipe, manifest)
    model = build_model(recipe, Signature.of(manifest))
    inputs = model.inputs
    if world > 1:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        dist.init_process_group("gloo", rank=rank, world_size=world)
        model = torch.nn.parallel.DistributedDataParallel(model)
        model.inputs = inputs
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    size = recipe.train.global_batch // world
    steps = began = done = 0.0
    running = torch.ones(())
    while running:  # rank 0's clock stops all ranks at the same step
        order = torch.randperm(len(reader))[rank::world]
        for first in range(0, len(order) - size + 1, size):
            batch = {name: values[order[first : first + size]] for name, values in data.items()}
            loss = task.loss(model, batch).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            steps += 1
            began = began or (time.perf_counter() if steps == 5 else 0.0)
            done = time.perf_counter()
        running = torch.tensor(float(done - began < seconds))
        if world > 1:
            dist.broadcast(running, 0)
    if rank == 0:
        Path(answer).write_text(str((steps - 5) * recipe.train.global_batch / (done - began)))
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
