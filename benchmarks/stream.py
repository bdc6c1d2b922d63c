"""Samples a second of our stream and of other loaders: the same images, shuffled, in batches of 64, every byte touched once.

Each run is a process of its own, and loaders take turns (A B C A B C ...), so that a slow minute of the machine hits all alike.
The consumer sums each batch as 64-bit words on one thread: the cheapest way to read every byte (over 100,000 images/s here).

    python benchmarks/stream.py [--rounds 5] [--only NAME ...]     the comparison
    python benchmarks/stream.py --copies                           what each copy of our stream costs
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from common import machine, markdown, median, random_cohort, spread
from peers import CONTESTANTS, Contestant

from hepdist.cluster import connect

IMAGES, SHAPE = 6000, (1, 224, 224)
SECONDS = 5.0
"""A run takes whole epochs, at least one after the first, until this time has passed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "hepdist-bench-stream", help="kept between calls")
    parser.add_argument("--copies", action="store_true")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # one run of one contestant, in this process
    arguments = parser.parse_args()
    if arguments.measure:
        chosen = next(c for c in CONTESTANTS if c.name == arguments.measure)
        print(json.dumps(measure(chosen, arguments.data)))
        return
    cohort = arguments.data / "cohort"
    random_cohort(cohort, {"train": IMAGES}, SHAPE)
    if arguments.copies:
        from copies import report

        report(cohort)
        return
    compare([c for c in CONTESTANTS if not arguments.only or c.name in arguments.only], arguments.data, arguments.rounds)


def measure(contestant: Contestant, data: Path) -> dict[str, float]:
    """One run: seconds from the call to the first batch, images/s of the first epoch from the call, and of the epochs after it.

    `sum` is an epoch's sum of 64-bit words, modulo 2**64: the same for every loader that delivers each image once.
    """
    torch.set_num_threads(1)
    cohort = data / "cohort"
    contestant.prepare(data, cohort)
    with connect() if contestant.on_ray else nullcontext():
        importlib.import_module(contestant.module)
        began = time.perf_counter()
        batches = contestant.batches(data, cohort)
        first, ends, images, total = 0.0, [], 0, 0
        for batch, last in batches:
            assert batch.dtype == torch.uint8, f"{contestant.name} delivers {batch.dtype}"
            total += int(batch.reshape(-1).view(torch.int64).sum())
            images += len(batch)
            now = time.perf_counter() - began
            first = first or now
            if last:
                assert images == IMAGES, f"{contestant.name} delivered {images} images in an epoch"
                ends.append(now)
                checksum, images, total = total % 2**64, 0, 0
                if len(ends) > 1 and now - ends[0] > SECONDS:
                    break
        batches.close()
    rate = (len(ends) - 1) * IMAGES / (ends[-1] - ends[0])
    return {"first_batch_s": first, "first_epoch_per_s": IMAGES / ends[0], "steady_per_s": rate, "sum": checksum}


def compare(contestants: list[Contestant], data: Path, rounds: int) -> None:
    """All contestants in turn, `rounds` times; prints medians and our ratio to each."""
    present = [c for c in contestants if importlib.util.find_spec(c.module)]
    runs: dict[str, list[dict[str, float]]] = {c.name: [] for c in present}
    print(machine(), flush=True)
    for number in range(rounds):
        for contestant in present:
            found = _in_a_process(contestant, data)
            runs[contestant.name].append(found)
            print(f"  round {number + 1} {contestant.name}: {found['steady_per_s']:,.0f}/s", file=sys.stderr, flush=True)
    sums = {name: {run["sum"] for run in found} for name, found in runs.items()}
    assert len(set().union(*sums.values())) == 1, f"the loaders did not deliver the same bytes: {sums}"
    ours = runs.get("hepdist")
    rows = []
    for contestant in present:
        found = runs[contestant.name]
        steady, epoch = ([run[key] for run in found] for key in ("steady_per_s", "first_epoch_per_s"))
        ratio = median([run["steady_per_s"] for run in ours]) / median(steady) if ours else float("nan")
        first = [run["first_batch_s"] for run in found]
        rows.append([contestant.name, spread(steady), spread(epoch), spread(first, 2), f"{ratio:.2f}", contestant.settings])
    header = ["loader", "images/s, steady", "images/s, first epoch with start", "first batch, s", "ours / this", "settings"]
    print(markdown(header, rows))
    for contestant in contestants:
        if contestant not in present:
            print(f"{contestant.name}: skipped, '{contestant.module}' is not installed (benchmarks/README.md says how)")
    print(machine())


def _in_a_process(contestant: Contestant, data: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", contestant.name, "--data", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=600)
    if done.returncode:
        raise SystemExit(f"{contestant.name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
