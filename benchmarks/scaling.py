"""What grows with the cohort and with the cluster, measured as far as one machine can; and the capacity plan that follows from it.

Times are CPU seconds of the process but where it says so: they hold on a machine that has other work, too.

    python benchmarks/scaling.py                  all tables of docs/scaling.md, about 2 minutes
    python benchmarks/scaling.py --only plan read

Nothing here starts Ray, but for the demand of the autoscaler, whose planner is called as it is. No GPU is needed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from capacity import Measured, capacity
from common import machine, markdown, median, random_cohort

from hepdist.shards.manifest import Manifest, Shard
from hepdist.shards.plan import Plan

GROUPS_A_SHARD = 64
IMAGE = {"dtype": "uint8", "shape": [1, 224, 224]}
COHORTS = {10**4: 100, 10**6: 10**4, 10**8: 10**6}
"""Row groups by rows; of 10^8 rows in groups of 100, so that there are as many groups as the worst case has."""
NODES, A_NODE = 200, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--plan-of", type=Path, help=argparse.SUPPRESS)  # one cohort, in this process
    arguments = parser.parse_args()
    if arguments.plan_of:
        print(json.dumps(plan_once(arguments.plan_of)))
        return
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        found = {name: PARTS[name](Path(folder)) for name in PARTS if name in arguments.only}
    if {"read", "save"} <= found.keys():
        print("\n## The plan\n\n" + capacity(Measured(found["read"], found["save"])))
    print(machine())


# --- planning ---


def plan(folder: Path) -> float:
    """Manifest, first batch and a later epoch's, of the last of 1,024 workers, in a process of its own."""
    rows = []
    for samples, groups in COHORTS.items():
        cohort = folder / f"planned-{samples}"
        began = time.process_time()
        write_manifest(cohort, samples, groups)
        wrote = time.process_time() - began
        done = subprocess.run([sys.executable, __file__, "--plan-of", str(cohort)], capture_output=True, text=True, check=True)
        told = json.loads(done.stdout.splitlines()[-1])
        size = (cohort / "manifest.json").stat().st_size / 1e6
        rows.append(
            [f"{samples:,}", f"{groups:,}", f"{size:.1f}", f"{wrote:.2f}", f"{told['load_s']:.2f}", f"{told['first_s'] * 1e3:.0f}"]
            + [f"{told['next_s'] * 1e3:.1f}", f"{told['late_s'] * 1e3:.0f}", f"{told['peak_mb']:.0f} ({told['base_mb']:.0f} before it)"]
        )
    head = ["samples", "row groups", "manifest, MB", "written, s", "loaded, s", "plan and first batch, ms", "next window, ms"]
    print("\n## Planning, worker 1,023 of 1,024; CPU time, since the machine has other work\n")
    print(markdown([*head, "first window of epoch 89, ms", "peak memory, MB"], rows), flush=True)
    return 0.0


def write_manifest(cohort: Path, samples: int, groups: int) -> None:
    """A cohort's manifest without its shards: planning reads nothing else."""
    cohort.mkdir()
    size = samples // groups
    shards, left = [], groups
    while left:
        here = min(left, GROUPS_A_SHARD)
        shards.append(Shard(f"shards/train-{len(shards):05d}.parquet", "train", (size,) * here, here * size * 50_176, "ab" * 32))
        left -= here
    shards.append(Shard("shards/val-00000.parquet", "val", (size,), size * 50_176, "ab" * 32))
    Manifest("planned", "images", {"image": IMAGE}, tuple(shards), label_names=("no", "yes")).save(cohort)


def plan_once(cohort: Path) -> dict[str, float]:
    from hepdist.recipe import Recipe
    from hepdist.shards.plan import plan_of
    from hepdist.shards.read import manifest_of
    from hepdist.spec import parse

    recipe = parse(
        Recipe,
        {
            "name": "r",
            "data": {"cohort": str(cohort)},
            "task": {"kind": "classification"},
            "model": {"family": "resnet"},
            "train": {"global_batch": 4096, "epochs": 90, "workers": 1024},
        },
    )
    base = peak_mb()
    clock = [time.process_time()]

    def lap() -> float:
        clock.append(time.process_time())
        return clock[-1] - clock[-2]

    manifest = manifest_of(str(cohort))
    load = lap()
    made = plan_of(recipe, manifest)
    _, epoch, window = made.locate(made.first_item(0, 1023, 1024), 1023, 1024)
    made.train_rows(epoch, window, 1023, 1024)
    first = lap()
    made.train_rows(epoch, min(1, made.order.windows - 1), 1023, 1024)
    following = lap()
    made.train_rows(89, 0, 1023, 1024)  # no epoch before it is laid out
    return {"load_s": load, "first_s": first, "next_s": following, "late_s": lap(), "peak_mb": peak_mb(), "base_mb": base}


def peak_mb() -> float:
    """Of this process alone; getrusage counts the one that it was forked from."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


# --- lanes ---


def lanes(folder: Path) -> float:
    """All workers of 200 nodes plan the same windows: is every row there once, and how many row groups are read twice?"""
    rows, batch, row_bytes = [], 8192, 50_176
    per_group = 8 * 100 * row_bytes / 2**20  # eight row groups a worker
    wide = [(world, per_group * world) for world in (NODES, NODES * A_NODE)]
    for world, window_mib in [(8, 64), (NODES, 64), (NODES * A_NODE, 64), *wide]:
        made = Plan("", (), np.full(10**6, 100), 0, row_bytes, 0, 1, batch, 1, 32, window_mib)
        made.order.window(0, 0)  # the epoch's permutation of row groups, which each process makes once
        began, parts, touched = time.process_time(), [], 0
        for rank in range(world):
            mine, _ = made.train_rows(0, 3, rank, world)
            parts.append(mine)
            touched += len(np.unique(mine // 100))
        seconds = time.process_time() - began
        window = np.concatenate(parts)
        assert np.array_equal(np.sort(window), np.sort(made.order.window(0, 3))), "a row is missing or there twice"
        distinct = len(np.unique(window // 100))
        row = [
            f"{world:,}",
            f"{window_mib:,.0f}",
            f"{len(window):,}",
            f"{distinct:,}",
            f"{touched / distinct:.2f}",
            f"{seconds / world * 1e3:.2f}",
        ]
        rows.append([*row, f"{batch / world:g}"])
    print("\n## Lanes of a window, 10^8 samples in 10^6 row groups, global batch 8,192\n")
    header = [
        "workers",
        "data.window_mib",
        "samples of a window",
        "row groups",
        "read, times",
        "planning a worker, ms",
        "samples of a batch a worker",
    ]
    print(markdown(header, rows), flush=True)
    return 0.0


# --- bytes ---


def read(folder: Path) -> float:
    """Bytes a second that one core takes from mapped shards in shuffled order: the page cache is warm, so that no disk is measured."""
    from hepdist.shards.read import SplitReader

    rows, rates = [], []
    for name, shape, count in (("1x224x224", (1, 224, 224), 8000), ("1x96x160x160", (1, 96, 160, 160), 160)):
        cohort = folder / name
        manifest = random_cohort(cohort, {"train": count}, shape)
        verified = _seconds(lambda cohort=cohort, manifest=manifest: SplitReader(cohort, manifest, "train").arrays(np.arange(1), ["image"]))
        reader = SplitReader(cohort, manifest, "train", verify=False)
        order = np.random.default_rng(0).permutation(count)
        window = max(16, 64 * 2**20 // manifest.row_bytes())
        some = [order[first : first + window] for first in range(0, count - window + 1, window)]
        size = window * manifest.row_bytes()
        seconds = [_seconds(lambda part=part, reader=reader: reader.arrays(part, ["image", "label"])) for part in some for _ in range(2)]
        rate = size / median(seconds)
        rates.append(rate)
        total = count * manifest.row_bytes()
        rows.append(
            [name, f"{total / 1e6:,.0f}", f"{rate / 1e9:.2f}", f"{rate / manifest.row_bytes():,.0f}", f"{verified / total * 2**30:.2f}"]
        )
        shutil.rmtree(cohort)
    print("\n## Reading, one core; by CPU time, page cache warm\n")
    print(markdown(["image, uint8", "cohort, MB", "GB/s", "images/s", "sha256 at first touch, s a GiB"], rows), flush=True)
    return min(rates)


def save(folder: Path) -> float:
    """Checkpoints of models of 1 to 100 million parameters: bytes, and seconds to write and to load with sha256."""
    import torch

    from hepdist.training import checkpoint as checkpoints

    rows, per_second = [], 0.0
    for millions in (1, 10, 50):
        one = {f"layer{number}": torch.randn(millions * 10**6 // 10) for number in range(10)}
        moments = {f"{name}.{kind}": tensor for name, tensor in one.items() for kind in ("exp_avg", "exp_avg_sq")}
        moments = {name: tensor.clone() for name, tensor in moments.items()}
        state = checkpoints.Checkpoint(checkpoints.Progress(cursor=millions), one, moments, None)
        target = folder / "checkpoints"
        began, busy = time.perf_counter(), time.process_time()
        written = checkpoints.save(target, state, {})
        wrote, busy = time.perf_counter() - began, time.process_time() - busy
        size = sum(path.stat().st_size for path in written.iterdir())
        loaded = _seconds(lambda written=written: checkpoints.load(written))
        per_second = size / wrote
        rows.append([f"{millions} M", f"{size / 1e6:,.0f}", f"{wrote:.2f}", f"{busy:.2f}", f"{per_second / 1e6:,.0f}", f"{loaded:.2f}"])
        shutil.rmtree(target)
    print("\n## Checkpoints (fp32 weights and two moments), this disk\n")
    print(markdown(["parameters", "MB", "written, s on the clock", "of it CPU, s", "MB/s", "verified and loaded, CPU s"], rows), flush=True)
    return per_second


# --- the head ---


def demand(folder: Path) -> float:
    """How long the autoscaler thinks: its own planner over a gang of workers, each one GPU and 16 CPUs, on an empty cluster."""
    import logging

    from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil
    from ray.core.generated.autoscaler_pb2 import GangResourceRequest

    logging.getLogger("ray").setLevel(logging.ERROR)
    rows = []
    for workers in (8, 64, 256, 1024):
        types = {
            name: NodeTypeConfig(name=name, min_worker_nodes=0, max_worker_nodes=2048, resources={"CPU": 16, "GPU": 1}, priority=priority)
            for name, priority in (("gpu-l4", 30), ("gpu-a10g", 20), ("gpu-l40s", 10), ("gpu-l4-on-demand", 0))
        }
        gang = GangResourceRequest(requests=[ResourceRequestUtil.make({"CPU": 15.9, "GPU": 1}) for _ in range(workers)])
        request = SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=types,
            max_num_nodes=2048,
            gang_resource_requests=[gang],
        )
        logger = logging.getLogger("planner")
        logger.setLevel(logging.ERROR)
        reply = None

        def think(request: SchedulingRequest = request) -> None:
            nonlocal reply
            reply = ResourceDemandScheduler(None).schedule(request)

        seconds = _seconds(think)
        assert reply is not None
        asked = {launch.instance_type: launch.count for launch in reply.to_launch}
        rows.append([f"{workers:,}", ", ".join(f"{count} {name}" for name, count in asked.items()), f"{seconds:.2f}"])
    print("\n## The autoscaler's planner, one round\n")
    print(markdown(["workers asked for at once", "machines that it starts", "CPU seconds"], rows), flush=True)
    return 0.0


def _seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process: what one core takes, whatever else the machine does."""
    began = time.process_time()
    work()
    return time.process_time() - began


PARTS: dict[str, Callable[[Path], float]] = {"plan": plan, "lanes": lanes, "read": read, "save": save, "demand": demand}

if __name__ == "__main__":
    main()
