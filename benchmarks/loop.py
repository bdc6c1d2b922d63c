"""Our training loop's samples/s over a plain PyTorch loop's: same model, batch, precision and threads, no augmentation.

Ours is the whole road: shards on disk, the stream, DeepSpeed, `hepdist train` as a command with the Ray that it starts, after its first
epoch. Cohorts are so small here that each worker reads them itself; --reader ray has Ray Data read them. The plain loop has normalised
float32 tensors in memory and nothing else; with 2 workers it is DistributedDataParallel over gloo, as torchrun starts it. Both run all
the time, and take turns while all processes of the other one are stopped (SIGSTOP): the speed of a shared machine changes from minute to
minute by more than what is measured. After a stop Ray makes up for its sleep, which turns of a few seconds would count as training.

    python benchmarks/loop.py [--turns 8] [--seconds 25] [--only resnet-1 ...] [--reader ray]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import torch.distributed as dist
import torch.multiprocessing
from common import hepdist_command, machine, markdown, median, random_cohort, spread, without_ray

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
EPOCHS = 400
"""More than there is time for."""
SETTLE_S = 1.0
"""After each resumption, until caches are warm again and time counts."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=25.0, help="of a turn")
    parser.add_argument("--only", nargs="+", default=[], metavar="CASE", help="such as resnet-1 or unet-2")
    parser.add_argument("--reader", choices=["auto", "ray", "worker"], default="auto", help="data.reader of the recipe")
    arguments = parser.parse_args()
    print(machine(), flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for case in CASES:
            for workers in (1, 2):
                if not arguments.only or f"{case}-{workers}" in arguments.only:
                    rows.append(compare(Path(name), case, workers, arguments))
    header = ["model", "workers", "ours, samples/s", "plain, samples/s", "ours / plain, turn by turn", "ours waits for data"]
    print(markdown(header, rows))
    print(machine())


def compare(folder: Path, case: str, workers: int, asked: argparse.Namespace) -> list[str]:
    """A row of the table: the median of the ratios of neighbouring turns."""
    facts = CASES[case]
    mask = facts["task"]["kind"] == "segmentation"
    random_cohort(folder / case, {"train": facts["rows"], "val": facts["batch"]}, facts["image"], mask=mask)
    recipe = recipe_of(folder, case, workers, f"{case}-{workers}")
    recipe["data"]["reader"] = asked.reader
    with ours(folder, recipe) as our_process, plain(recipe) as plain_process:
        sides = {"ours": our_process, "plain": plain_process}
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(asked.turns):
            for name in sorted(sides, reverse=bool(turn % 2)):
                rates[name].append(sides[name].turn(asked.seconds))
            print(f"  {case}, {workers} workers: ours {rates['ours'][-1]:.1f}, plain {rates['plain'][-1]:.1f}", flush=True)
    waits = [line["data_wait_share"] for line in reports(folder / "runs" / recipe["name"]) if line["epoch"] > 1]
    ratios = [one / other for one, other in zip(rates["ours"], rates["plain"], strict=True)]
    return [case, str(workers), spread(rates["ours"], 1), spread(rates["plain"], 1), spread(ratios, 2), f"{median(waits):.1%}"]


class Side:
    """One of the two, stopped but in its turn."""

    def __init__(self, pids: Callable[[], list[int]], samples: Callable[[], float]) -> None:
        """pids: of all its processes; samples: how many it has trained on so far."""
        self._pids, self._samples = pids, samples
        self._signal(signal.SIGSTOP)

    def turn(self, seconds: float) -> float:
        """Samples/s between the first and the last step that ends within so many seconds."""
        self._signal(signal.SIGCONT)
        time.sleep(SETTLE_S)
        seen = [(time.perf_counter(), self._samples())]
        while time.perf_counter() - seen[0][0] < seconds:
            time.sleep(0.01)
            now = time.perf_counter(), self._samples()
            if now[1] != seen[-1][1]:
                seen.append(now)
        self._signal(signal.SIGSTOP)
        (began, first), (ended, last) = seen[1], seen[-1]
        return (last - first) / (ended - began)

    def _signal(self, number: int) -> None:
        for pid in self._pids():
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def recipe_of(folder: Path, case: str, workers: int, name: str) -> dict[str, Any]:
    facts = CASES[case]
    return {
        "name": name, "data": {"cohort": str(folder / case)}, "task": facts["task"], "model": facts["model"],
        "train": {"workers": workers, "global_batch": facts["batch"], "epochs": EPOCHS, "validate_every": EPOCHS}, "evaluation": {"splits": [], "batch": facts["batch"]},
    }  # fmt: skip


@contextmanager
def ours(folder: Path, recipe: dict[str, Any]) -> Iterator[Side]:
    """`hepdist train` after its first epoch, with its Ray."""
    run = folder / "runs" / recipe["name"]
    process = subprocess.Popen(hepdist_command(folder, recipe), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=without_ray())
    pids = partial(tree, process.pid)
    try:
        while not any(line["epoch"] > 1 for line in reports(run)):
            assert process.poll() is None, "hepdist train ended"
            time.sleep(0.5)
        yield Side(pids, partial(trained, run))
    finally:
        for pid in pids():
            os.kill(pid, signal.SIGCONT)
        process.send_signal(signal.SIGINT)
        process.wait()


def tree(pid: int) -> list[int]:
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def reports(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [found for line in lines if line.endswith("\n") and "samples_per_s" in (found := json.loads(line))]


def trained(run: Path) -> float:
    """Samples of the newest report."""
    with open(run / "metrics.jsonl", "rb") as file:
        file.seek(-min(4096, file.seek(0, os.SEEK_END)), os.SEEK_END)
        return float(json.loads(file.read().rpartition(b"\n")[0].rpartition(b"\n")[2])["samples"])


@contextmanager
def plain(recipe: dict[str, Any]) -> Iterator[Side]:
    """The plain loop in as many processes, after a few steps."""
    workers = recipe["train"]["workers"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    steps = torch.zeros(1, dtype=torch.int64).share_memory_()
    started = torch.multiprocessing.spawn(_plain_worker, (recipe, port, steps), nprocs=workers, join=False)
    try:
        while steps.item() < 5:
            assert all(process.is_alive() for process in started.processes), "the plain loop ended"
            time.sleep(0.1)
        yield Side(started.pids, lambda: float(steps.item() * recipe["train"]["global_batch"]))
    finally:
        for process in started.processes:
            process.kill()


def _plain_worker(rank: int, values: dict[str, Any], port: int, steps: torch.Tensor) -> None:
    """The loop that a careful person writes: data in memory, AdamW, clipping, DDP where there are more workers than one; it has no end."""
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
    while True:
        order = torch.randperm(len(reader))[rank::world]
        for first in range(0, len(order) - size + 1, size):
            batch = {name: values[order[first : first + size]] for name, values in data.items()}
            loss = task.loss(model, batch).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            steps += rank == 0


if __name__ == "__main__":
    main()
