"""What a search's machinery costs, and what stopping early saves.

overhead: 24 trials of two workers each, stopped early by ASHA, with room for two at a time: seconds from a trial's beginning to its first step,
for the first trials and for those that found workers there; the share of the time in which both places were at work, and of that before first
steps.
asha: 27 configurations sampled once, all trained to the full and under ASHA: best validation score, and epochs trained; how many came to each
rung, and whether what the same trial scored at the same epoch is the same to the bit.

    python benchmarks/search.py [--only overhead asha] [--data ../shared/data/medmnist/breastmnist.npz]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from common import machine, markdown, random_cohort, spread, without_ray

from hepdist.search.record import FINAL, Trial, read_trials
from hepdist.search.standing import overhead as before_first_steps

DATA = Path("../shared/data/medmnist/breastmnist.npz")
PLACES = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=["overhead", "asha"], default=["overhead", "asha"])
    parser.add_argument("--data", type=Path, default=DATA)
    asked = parser.parse_args()
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        if "overhead" in asked.only:
            random_cohort(root / "noise", {"train": 512, "val": 128}, (1, 28, 28), classes=2)
            print(overhead(root), flush=True)
        if "asha" in asked.only:
            command("ingest", str(asked.data), str(root / "real"))
            print(asha(root), flush=True)
    print(machine())


def overhead(root: Path) -> str:
    search = {
        "trials": 24,
        "scheduler": "asha",
        "reduction": 3,
        "space": {"cnn.width": [4, 8, 12, 16], "cnn.depth": 2},
        "vary": ["model", "lr"],
    }
    trials = searched(root, "noise", "overhead", search, {"epochs": 9, "workers": 2, "cpus_per_worker": 0.5})
    firsts = [first for trial in trials if (first := trial.results[0].facts["overhead_s"])]
    times = [event.time for trial in trials for event in trial.events]
    at_work = sum(spell for trial in trials for spell in spells(trial))
    before, whole = before_first_steps(trials)
    stopped = sum(trial.end is not None and trial.end.kind == "stopped" for trial in trials)
    rows = [
        ["trials, stopped early", f"{len(trials)}, {stopped}"],
        ["start to first step, first trial of each place, s", spread(firsts[:PLACES], 1)],
        ["start to first step, later trials, s", spread(firsts[PLACES:], 1)],
        ["both places at work, share of the time", f"{at_work / (PLACES * (max(times) - min(times))):.2f}"],
        ["of it before first steps", f"{before / whole:.2f}"],
    ]
    return markdown(["24 trials of two workers", ""], rows)


def spells(trial: Trial) -> list[float]:
    """Seconds from each start of a trial to its next pause or its end."""
    found, began = [], None
    for event in trial.events:
        if event.kind == "started":
            began = event.time
        elif began is not None and event.kind in ("paused", *FINAL):
            found.append(event.time - began)
            began = None
    return found


def asha(root: Path) -> str:
    """The same 27 configurations: `random` draws them from the seed alone."""
    rows, epochs, found = [], {}, {}
    for scheduler in ("none", "asha"):
        search = {"trials": 27, "scheduler": scheduler, "reduction": 3, "families": ["cnn", "resnet"], "space": SMALL}
        trials = searched(root, "real", f"asha-{scheduler}", search, {"epochs": 27, "workers": 1, "global_batch": 32})
        found[scheduler] = trials
        epochs[scheduler] = sum(trial.results[-1].facts["epoch"] for trial in trials if trial.results)
        best = max(event.facts["score"] for trial in trials for event in trial.results)
        hours = sum(trial.device_s for trial in trials) / 3600
        rows.append([scheduler, f"{best:.4f}", str(epochs[scheduler]), f"{epochs[scheduler] / epochs['none']:.2f}", f"{hours:.2f}"])
    scores = {(trial.id, event.facts["epoch"]): event.facts["score"] for trial in found["none"] for event in trial.results}
    same = [event.facts["score"] == scores[trial.id, event.facts["epoch"]] for trial in found["asha"] for event in trial.results]
    ends = Counter(trial.results[-1].facts["epoch"] for trial in found["asha"])
    said = f"ASHA's trials ended after epochs {dict(sorted(ends.items()))}; {sum(same)} of its {len(same)} scores equal those of the full search."
    return markdown(["scheduler", "best validation AUROC", "epochs", "of full", "device-hours"], rows) + f"\n{said}"


SMALL = {
    "resnet.depth": 10, "resnet.width": [8, 16], "resnet.norm": "group", "resnet.activation": "relu", "cnn.depth": [2, 3], "cnn.width": [8, 16, 32],
}  # fmt: skip


def searched(root: Path, cohort: str, name: str, search: dict[str, Any], train: dict[str, Any]) -> list[Trial]:
    """The trials of a search that a command ran, in a Ray of its own."""
    recipe = root / f"{name}.yaml"
    values = {
        "name": name, "runs": str(root / "runs"), "data": {"cohort": str(root / cohort)}, "task": {"kind": "classification"},
        "model": {"family": "cnn", "depth": 2, "width": 8}, "optim": {"lr": 1e-3}, "train": {"global_batch": 64, **train},
        "search": {"folder": str(root), "families": ["cnn"], "searcher": "random", "confirm": 0, **search},
    }  # fmt: skip
    recipe.write_text(yaml.safe_dump(values))
    command("tune", str(recipe))
    return read_trials(root / name)


def command(*words: str) -> None:
    hepdist = str(Path(sys.executable).with_name("hepdist"))
    subprocess.run([hepdist, *words], check=True, stdout=subprocess.DEVNULL, env=without_ray())


if __name__ == "__main__":
    main()
