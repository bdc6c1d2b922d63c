"""Seconds from the command to the first optimiser step of a local run of 2 workers on a tiny cohort, and where they go.

Every run is the command `hepdist train` in a process of its own; it writes the times itself (runs/<name>/startup.json).

    python benchmarks/startup.py [--runs 5] [--workers 2]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from itertools import pairwise
from pathlib import Path

from common import hepdist_train, machine, markdown, random_cohort, spread

PHASES = {
    "connected": "imports of the command, checks, Ray up",
    "fit": "Ray Train imported",
    "worker": "controller, worker processes, process group",
    "imported": "imports in the workers",
    "engine": "manifest, plan, model, DeepSpeed engine",
    "first_step": "log, first batch, first step",
}
"""What ends at each time in startup.json, in order; the clock starts at 'command', the start of the process."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random_cohort(folder / "cohort", {"train": 256, "val": 32}, (1, 28, 28))
        runs = [startup(folder, number, arguments.workers) for number in range(arguments.runs)]
    table = [[PHASES[phase], spread([run[phase] for run in runs], 1)] for phase in PHASES if all(phase in run for run in runs)]
    table.append(["**command to first step**", spread([run["total"] for run in runs], 1)])
    table.append(["of it waiting for the first batch", spread([run["waited"] for run in runs], 1)])
    print(markdown(["phase", f"seconds, median of {len(runs)} (least-most)"], table))
    print(machine())


def startup(folder: Path, number: int, workers: int) -> dict[str, float]:
    """Seconds of each phase of one run."""
    recipe = {
        "name": f"startup-{number}", "data": {"cohort": str(folder / "cohort")}, "task": {"kind": "classification"},
        "model": {"family": "resnet", "depth": 10, "width": 8}, "train": {"epochs": 1, "workers": workers, "global_batch": 64},
        "evaluation": {"splits": []},
    }  # fmt: skip
    run = hepdist_train(folder, recipe)
    times = json.loads((run / "startup.json").read_text())
    reached = ["command", *(phase for phase in PHASES if phase in times)]
    seconds = {after: times[after] - times[before] for before, after in pairwise(reached)}
    return {**seconds, "total": times["first_step"] - times["command"], "waited": times["waited_for_first_batch_s"]}


if __name__ == "__main__":
    main()
