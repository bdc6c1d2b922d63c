"""What must hold of a run that was killed again and again: the same model, every sample once, nothing left behind. Facts, no assertions."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil
from safetensors.torch import load_file

from hepdist.training.checkpoint import digest, newest_first, verify
from hepdist.training.consumption import read_consumed
from hepdist.training.metrics_file import read_metrics

CHANGING = ("tensorboard", "startup.json")
"""What differs between two undisturbed runs: event files carry times in their names."""
CHECKPOINT = re.compile(r"^checkpoints/samples-\d+/")
MARK = "HEPDIST_CHAOS"
"""Environment variable that all processes of a command inherit: by it those that outlived the command are found."""


def state(run: Path) -> dict[str, str]:
    """Digests of the newest checkpoint's tensors (weights, moments, average) and of the exported model, all of which verify."""
    newest = newest_first(run / "checkpoints")[0]
    verify(newest)
    verify(run / "model")
    files = {path.stem: load_file(path) for path in sorted(newest.glob("*.safetensors"))}
    return {"at": newest.name, "best": digest(load_file(run / "model" / "model.safetensors")), **{k: digest(v) for k, v in files.items()}}


def curve(run: Path) -> list[tuple[int, float | None, float | None]]:
    """(samples, loss, validation AUROC) of every report of the log; when a checkpoint was written is not the same in any two runs."""
    return [(line["samples"], line.get("loss"), line.get("val_auroc")) for line in read_metrics(run) if "checkpoint" not in line]


def batches(run: Path) -> list[tuple[int, int, list[list[int]]]]:
    """(step, samples, rows by rank) of every global batch on record."""
    return [(batch.step, batch.samples, [rows.tolist() for rows in batch.rows]) for batch in read_consumed(run)]


def times_consumed(run: Path, rows: int) -> dict[int, Counter[int]]:
    """By epoch: how often each row is on record."""
    counts: dict[int, Counter[int]] = {}
    for _, samples, parts in batches(run):
        counts.setdefault((samples - 1) // rows, Counter()).update(row for part in parts for row in part)
    return counts


def files(run: Path) -> set[str]:
    """Every file of the run's folder but those that no two runs have alike; which checkpoints before the last were kept is a matter of how
    fast they were written, so those of all are named alike."""
    names = (path.relative_to(run) for path in run.rglob("*") if path.is_file())
    return {CHECKPOINT.sub("checkpoints/samples/", str(name)) for name in names if name.parts[0] not in CHANGING}


def marked(mark: str) -> list[psutil.Process]:
    """Processes that a command with this mark in its environment started, and the command itself."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return [process for process in found if process.pid != os.getpid()]


def left_in_ray() -> list[str]:
    """Class names of actors that are not dead, and placement groups that are not removed, in the Ray of this process; but the one actor by
    which Ray asks its autoscaler for machines, which stays."""
    import ray
    from ray._private.state import actors

    alive = [actor["ActorClassName"] for actor in actors().values() if actor["State"] != "DEAD"]
    groups = [f"placement group {group['state']}" for group in ray.util.placement_group_table().values() if group["state"] != "REMOVED"]
    return [name for name in alive if name != "_AutoscalingCoordinatorActor"] + groups


def settled(look: Callable[[], Iterable], patience_s: float = 120.0) -> list:
    """What `look` still sees after it has had time to become empty; Ray ends processes in the background."""
    until = time.monotonic() + patience_s
    while (left := list(look())) and time.monotonic() < until:
        time.sleep(0.2)
    return left
