"""The run that is killed, as a recipe and as a command; what is compared at its end, and what is noted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import psutil

from chaos import evidence
from chaos.moments import Moment
from chaos.watch import Killed, Watch

MOMENTS = int(os.environ.get("CHAOS_MOMENTS", "2"))
"""Kills of each kind."""
COSTLY_MOMENTS = MOMENTS if "CHAOS_MOMENTS" in os.environ else 1
"""Of the kinds whose every kill costs the start of a command, or of a cluster."""
SEED = int(os.environ.get("CHAOS_SEED", "0"))
TIMEOUT_S = 900 if MOMENTS < 6 else 7200
ROWS, EPOCHS = 75, 3
ATTEMPTS = 8
"""Runs in which a round's moments must have come about."""


def values(cohort: Path, runs: Path, name: str) -> dict:
    return {
        "name": name, "runs": str(runs), "data": {"cohort": str(cohort)}, "task": {"kind": "classification"},
        "model": {"family": "resnet", "depth": 10, "width": 8, "dropout": 0.2},
        "augment": {"rotate": 10, "noise": 0.1, "mixup": 0.2}, "optim": {"lr": 1e-3, "ema": 0.9},
        "train": {"epochs": EPOCHS, "global_batch": 8, "checkpoint_every": 4, "record_samples": True, "max_failures": 100},
        "evaluation": {"splits": [], "batch": 8},
    }  # fmt: skip


def assert_as_undisturbed(run: Path, undisturbed: Path) -> None:
    assert evidence.state(run) == evidence.state(undisturbed)
    assert evidence.curve(run) == evidence.curve(undisturbed)
    assert evidence.batches(run) == evidence.batches(undisturbed)
    assert evidence.times_consumed(run, ROWS) == {epoch: Counter(range(ROWS)) for epoch in range(EPOCHS)}
    assert evidence.files(run) == evidence.files(undisturbed)


def watch(run: Path, undisturbed: Path, workers: Callable[[], list[psutil.Process]]) -> Watch:
    """A watch whose start-ups take as long as the undisturbed run's: from a worker's first line of code to its first step, and as long before it."""
    times = json.loads((undisturbed / "startup.json").read_text())
    return Watch(run, ROWS * EPOCHS, ROWS, 2 * (times["first_step"] - times["worker"]), workers)


def until_all_came(moments: list[Moment], run: Callable[[str, list[Moment]], list[Killed]]) -> list[Killed]:
    """The kills of as many runs as it takes until each of the moments has come about: what it waits for may be over too soon to be seen, and
    the end of a run comes before the moments that are left. Each next run strikes sooner after a phase has begun.

    run: of a name and the moments that are left, in their order; returns those that came about.
    """
    kills: list[Killed] = []
    for attempt in range(ATTEMPTS):
        came = {_drawn(killed.moment) for killed in kills}
        left = [replace(moment, delay=moment.delay / 2**attempt) for moment in moments if _drawn(moment) not in came]
        if not left:
            break
        kills += run(f"run{attempt}", left)
    assert {_drawn(killed.moment) for killed in kills} == {_drawn(moment) for moment in moments}
    return kills


def _drawn(moment: Moment) -> tuple[str, float, float]:
    return moment.phase, moment.progress, moment.whom


def noted(kind: str, seed: int, kills: list[Killed]) -> None:
    """For docs/reliability.md: a line a kill."""
    for killed in kills:
        line = {"kind": kind, "seed": seed, **asdict(killed), "moment": asdict(killed.moment)}
        print(json.dumps(line))
        if out := os.environ.get("CHAOS_OUT"):
            with open(out, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


class Command:
    """`hepdist train`, or another verb, on a recipe as a process, with all that it starts."""

    def __init__(self, recipe: Path | list[str], log: Path, address: str = "", verb: str = "train") -> None:
        """recipe: or all words that follow the verb; address: of a Ray that is there; empty: the command starts its own."""
        self.mark = uuid.uuid4().hex
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {evidence.MARK: self.mark}
        if address:
            environment["RAY_ADDRESS"] = address
        self.log = log
        self._log = open(log, "ab")  # noqa: SIM115  the process's as long as it runs
        words = recipe if isinstance(recipe, list) else [str(recipe)]
        command = [sys.executable, "-c", "import sys; from hepdist.cli import main; sys.exit(main())", verb, *words]
        self.process = subprocess.Popen(command, env=environment, stdout=self._log, stderr=self._log)

    def processes(self) -> list[psutil.Process]:
        return evidence.marked(self.mark)

    def ended(self) -> bool:
        return self.process.poll() is not None
