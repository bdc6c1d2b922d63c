"""Seconds from the kill of a worker, or of a node, to the next optimiser step, where they go, what work is lost, and what saving costs.

The run is hippocampus-unet on the Decathlon's hippocampus set, ingested first, or on noise of its shape where the set is not at hand
(--data). Each kill is SIGKILL in mid-epoch; the times are those that the run writes itself (startup.json) and those at which processes go.

    python benchmarks/recovery.py [--kills 3] [--every 10] [--data ../shared/data/msd_hippocampus/hippocampus_train.tar] [--only worker node saving]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
from common import hepdist_command, machine, markdown, random_cohort, spread, without_ray
from loop import ours

from hepdist.recipe import load_recipe
from hepdist.training.run_folder import LOCK

DATA = Path("../shared/data/msd_hippocampus/hippocampus_train.tar")
NOISE = (1, 40, 64, 48)
STEPS_BEFORE = 15
"""Steps of an attempt before it is killed."""
NOTICE = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 10_000,
    "health_check_failure_threshold": 3,
}
"""As docs/reliability.md recommends for a cluster's head; Ray's own settings notice a lost node after 15 s and more."""
PHASES = {
    "noticed": "kill noticed, other workers ended",
    "worker": "new processes, process group",
    "imported": "imports in the workers",
    "engine": "checkpoint, model, DeepSpeed engine",
    "first_step": "first batch, first step",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--every", type=int, default=10, help="train.checkpoint_every, steps")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--only", nargs="+", choices=["worker", "node", "saving"], default=["worker", "node", "saving"])
    asked = parser.parse_args()
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cohort(folder / "cohort", asked.data)
        for what, kills in (("worker", worker_kills), ("node", node_kills)):
            if what in asked.only:
                found = kills(folder, recipe(folder, what, asked.every), asked.kills)
                print(markdown([f"after the kill of a {what}", f"seconds, median of {len(found)} (least-most)"], table(found)), flush=True)
        if "saving" in asked.only:
            print(markdown(["checkpoint_every", "samples/s", "of without, turn by turn"], saving(folder, asked.every)))
    print(machine())


def cohort(folder: Path, data: Path) -> None:
    if data.exists():
        subprocess.run(
            [str(Path(sys.executable).with_name("hepdist")), "ingest", str(data), str(folder)],
            check=True,
            stdout=subprocess.DEVNULL,
            env=without_ray(),
        )
    else:
        random_cohort(folder, {"train": 156, "val": 52}, NOISE, dtype="float32", mask=True, classes=3)


def recipe(folder: Path, name: str, every: int) -> dict[str, Any]:
    """hippocampus-unet for more epochs than there is time for, without its evaluation."""
    values = load_recipe("hippocampus-unet").model_dump(mode="json")
    values["data"]["cohort"] = str(folder / "cohort")
    values["train"] |= {"epochs": 400, "validate_every": 400, "checkpoint_every": every, "max_failures": 100}
    return values | {"name": name, "evaluation": {"splits": []}}


def worker_kills(folder: Path, values: dict[str, Any], kills: int) -> list[dict[str, float]]:
    """A run with a Ray of its own, one of its workers killed again and again."""
    with command(folder, values, without_ray()) as process:
        run = folder / "runs" / values["name"]

        def kill_writer(found: list[psutil.Process]) -> None:
            os.kill(int((run / LOCK).read_text().split()[1]), signal.SIGKILL)  # rank 0

        return [recovery(run, lambda: workers(psutil.Process(process.pid)), kill_writer) for _ in range(kills)]


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def node_kills(folder: Path, values: dict[str, Any], kills: int) -> list[dict[str, float]]:
    """Two workers on three nodes of one CPU each beside a head; after each kill of a node that trains, another one is added."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": NOTICE})
    addresses = (f"127.0.0.{number}" for number in range(2, 255))  # others than the head's, which the driver is to join
    for _ in range(3):
        cluster.add_node(num_cpus=1, node_ip_address=next(addresses))
    raylets = {node.all_processes["raylet"][0].process.pid: node for node in cluster.worker_nodes}

    def everywhere() -> list[psutil.Process]:
        return [worker for pid in raylets for worker in workers(psutil.Process(pid))]

    def kill_node(_: list[psutil.Process]) -> None:
        pid = next(pid for pid in raylets if workers(psutil.Process(pid)))
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            process.send_signal(signal.SIGKILL)
        cluster.remove_node(raylets.pop(pid), allow_graceful=False)

    found = []
    try:
        with command(folder, values, os.environ | {"RAY_ADDRESS": cluster.address}):
            for number in range(kills):
                found.append(recovery(folder / "runs" / values["name"], everywhere, kill_node))
                if number + 1 < kills:
                    node = cluster.add_node(num_cpus=1, node_ip_address=next(addresses))
                    raylets[node.all_processes["raylet"][0].process.pid] = node
    finally:
        cluster.shutdown()
    return found


def recovery(run: Path, alive: Callable[[], list[psutil.Process]], kill: Callable[[list[psutil.Process]], None]) -> dict[str, float]:
    """Wait for some steps of an attempt, kill, and return the seconds of each phase and the steps that are done again."""
    while not _startup(run):
        time.sleep(0.05)
    base = _resumed_at(run)
    while _last(run).get("step", 0) < base + STEPS_BEFORE:
        time.sleep(0.05)
    before, first = alive(), _startup(run)
    steps, killed = _last(run)["step"], time.time()
    kill(before)
    while any(_lives(process) for process in before):
        time.sleep(0.01)
    times = {"killed": killed, "noticed": time.time()}
    while not (again := _startup(run)) or again == first:
        time.sleep(0.02)
    times |= {name: at for name, at in again.items() if name in PHASES and at > killed}
    reached = ["killed", *(phase for phase in PHASES if phase in times)]
    seconds = {after: times[after] - times[before] for before, after in pairwise(reached)}
    return {**seconds, "total": times["first_step"] - killed, "lost": steps - _resumed_at(run)}


def table(found: list[dict[str, float]]) -> list[list[str]]:
    rows = [[PHASES[phase], spread([one[phase] for one in found], 1)] for phase in PHASES if all(phase in one for one in found)]
    rows.append(["**kill to next step**", spread([one["total"] for one in found], 1)])
    rows.append(["steps done again (no seconds)", spread([one["lost"] for one in found])])
    return rows


def saving(folder: Path, every: int) -> list[list[str]]:
    """Samples/s with checkpoints every `every` steps beside none, both runs taking turns on the machine."""
    with ours(folder, recipe(folder, "saves", every)) as saves, ours(folder, recipe(folder, "plain", 0)) as plain:
        rates = [(saves.turn(25.0), plain.turn(25.0)) for _ in range(6)]
    shares = [one / other for one, other in rates]
    return [
        ["0", spread([plain for _, plain in rates], 2), ""],
        [str(every), spread([saves for saves, _ in rates], 2), spread(shares, 3)],
    ]


@contextmanager
def command(folder: Path, values: dict[str, Any], environment: dict[str, str]) -> Iterator[subprocess.Popen]:
    """`hepdist train` as a process that is ended with the block."""
    process = subprocess.Popen(hepdist_command(folder, values), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        yield process
    finally:
        process.kill()  # its Ray ends with it
        process.wait()


def workers(process: psutil.Process) -> list[psutil.Process]:
    """Training workers below a process."""
    children = [child for child in process.children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in children if any("RayTrainWorker" in part for part in child.cmdline()[:1])]


def _startup(run: Path) -> dict[str, float]:
    try:
        return json.loads((run / "startup.json").read_text())
    except (OSError, ValueError):  # not there yet, or being written
        return {}


def _lines(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")] if path.exists() else []


def _last(run: Path) -> dict[str, Any]:
    """The newest line of the log."""
    return (_lines(run) or [{}])[-1]


def _resumed_at(run: Path) -> int:
    """Steps at which the newest attempt went on; asked when it has just taken its first, so that the newest checkpoint is the one it loaded."""
    newest = max((run / "checkpoints").glob("samples-*"), default=None)
    if newest is None:
        return 0
    cursor = json.loads((newest / "progress.json").read_text())["cursor"]
    return next((line["step"] for line in _lines(run) if line["samples"] == cursor), 0)


if __name__ == "__main__":
    main()
