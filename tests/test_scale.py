"""A cohort of 10^8 samples: what is planned is exact on a thousand workers, and a worker's share of the planning is its own share of the rows."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from cohorts import tiny_classification_cohort
from hepdist.shards.manifest import Manifest, Shard
from hepdist.shards.order import OF_GROUPS, WITHIN_WINDOWS, Order
from hepdist.shards.plan import Plan
from hepdist.shards.read import manifest_of, open_split

WORLD = 1024
RNG = np.random.default_rng(0)
UNEVEN = tuple(RNG.integers(1, 200, 3000).tolist())


def plan_for(groups, *, batch=4096, window_batches=16, val_rows=0, val_volumes=(), validation_batch=32):
    """A plan whose windows have this many global batches; its rows are one byte."""
    return Plan("", (), groups, val_rows, 1, 3, 2, batch, 1, validation_batch, window_batches * batch / 2**20, val_volumes)


def order_by_the_book(groups, seed, epoch, batch, window_batches):
    """The rows of an epoch as docs/architecture.md tells it, in plain loops: a list of windows."""
    starts = np.cumsum(groups) - groups
    shuffled = np.random.default_rng((OF_GROUPS, seed, epoch)).permutation(len(groups))
    line = [int(starts[g]) + i for g in shuffled for i in range(groups[g])]
    windows = []
    for number, first in enumerate(range(0, len(line), window_batches * batch)):
        part = line[first : first + window_batches * batch]
        draws = iter(np.random.default_rng((WITHIN_WINDOWS, seed, epoch, number)).random(len(part)))
        rows, lanes = iter(part), []
        for lane in range(batch):
            length = len(part) // batch + (lane < len(part) % batch)
            lanes.append([row for _, row in sorted((next(draws), next(rows)) for _ in range(length))])
        windows.append([lane[turn] for turn in range(len(lanes[0])) for lane in lanes if turn < len(lane)])
    return windows


@pytest.mark.parametrize(("groups", "batch", "window_batches"), [((9, 14, 0, 3, 22), 4, 4), ((7,) * 30, 8, 4), (UNEVEN[:200], 64, 6)])
def test_the_order_is_the_documented_one(groups, batch, window_batches):
    order = Order(groups, 11, batch, window_batches)
    for epoch in (0, 3):
        told = order_by_the_book(groups, 11, epoch, batch, window_batches)
        assert len(told) == order.windows > 1
        assert [order.window(epoch, w).tolist() for w in range(order.windows)] == told


@pytest.mark.parametrize("window_batches", [16, 1000])
def test_lanes_asked_alone_are_those_of_the_whole_window(window_batches):
    order = Order(UNEVEN, 0, 256, window_batches)
    for window in (0, order.windows // 2, order.windows - 1):
        first, last = order.span(window)
        whole = order.window(1, window)
        assert len(whole) == last - first
        for low, high in ((0, 1), (3, 3), (100, 180), (255, 256)):
            rows, positions = order.lanes(1, window, low, high)
            mine = [p for p in range(first, last) if low <= p % 256 < high]
            assert positions.tolist() == mine
            assert rows.tolist() == whole[np.array(mine, int) - first].tolist()


@pytest.mark.parametrize("batch", [4096, 1500])
def test_1024_workers_train_on_the_batches_of_one_and_on_no_row_twice(batch):
    plan = plan_for(UNEVEN, batch=batch)
    assert plan.order.windows > 1
    assert plan.order.rows % batch  # the last batch of the epoch is short
    epoch = np.full(plan.order.rows, -1)
    for window in range(plan.order.windows):
        for rank in range(WORLD):
            rows, positions = plan.train_rows(1, window, rank, WORLD)
            assert (epoch[positions] == -1).all()
            epoch[positions] = rows
    assert epoch.tolist() == [row for w in range(plan.order.windows) for row in plan.train_rows(1, w, 0, 1)[0].tolist()]
    assert sorted(epoch.tolist()) == list(range(plan.order.rows))


def test_1024_workers_validate_every_row_once():
    plan = plan_for((100,) * 50, val_rows=100_003)
    rows = []
    for rank in range(WORLD):
        located = [plan.locate(item, rank, WORLD) for item in range(plan.items(rank, WORLD))]
        for chunk in [part for kind, epoch, part in located if (kind, epoch) == ("val", 1)]:
            rows += plan.validation_rows(chunk, rank, WORLD).tolist()
    assert rows == list(range(100_003))


def test_a_worker_lays_out_its_own_part_of_a_window_and_no_more(monkeypatch):
    laid, line = [], Order._line
    monkeypatch.setattr(Order, "_line", lambda self, epoch, first, last: laid.append(last - first) or line(self, epoch, first, last))
    plan = plan_for((100,) * 10_000)
    for rank in (0, 511, 1023):
        rows, _ = plan.train_rows(0, 5, rank, WORLD)
        assert laid.pop() == len(rows) == 16 * 4
    assert not laid


def test_a_window_touches_its_own_row_groups_and_neighbours_share_only_the_edges():
    plan = plan_for((100,) * 10_000)
    groups = {int(g) for g in plan.order.window(0, 3) // 100}
    assert len(groups) <= 16 * 4096 // 100 + 2
    touched = [np.unique(plan.train_rows(0, 3, rank, WORLD)[0] // 100) for rank in range(WORLD)]
    assert max(map(len, touched)) <= 16 * 4 // 100 + 2
    assert set().union(*(t.tolist() for t in touched)) == groups
    assert sum(map(len, touched)) <= len(groups) + WORLD - 1  # what docs/scaling.md reckons with


def test_validation_batches_hold_no_two_volumes_wherever_they_end():
    volumes = tuple(RNG.integers(1, 40, 300).tolist())
    plan = plan_for((100,) * 50, val_rows=sum(volumes), val_volumes=volumes, validation_batch=7)
    ends, cuts = np.cumsum(volumes).tolist(), [0]
    for end in ends:
        while cuts[-1] < end:
            cuts.append(min(cuts[-1] + 7, end))
    assert plan.validation_cuts.tolist() == cuts


def test_row_groups_are_listed_in_the_order_of_shards():
    shards = [
        Shard("a", "train", (3, 1), 0, ""),
        Shard("b", "val", (9,), 0, ""),
        Shard("c", "train", (), 0, ""),
        Shard("d", "train", (5,), 0, ""),
    ]
    manifest = Manifest("m", "images", {}, tuple(shards))
    assert manifest.row_groups("train").tolist() == [[0, 0, 3], [0, 1, 1], [2, 0, 5]]
    assert manifest.row_groups("test").shape == (0, 3)


def test_a_plan_travels_at_eight_bytes_a_row_group():
    plan = plan_for(np.full(100_000, 100))
    sent = pickle.dumps(plan, protocol=5)
    assert len(sent) < 8 * 100_000 + 1000
    assert pickle.loads(sent).train_rows(0, 9, 7, 64)[0].tolist() == plan.train_rows(0, 9, 7, 64)[0].tolist()


def test_a_process_lists_a_cohort_once_until_it_changes(tmp_path: Path):
    tiny_classification_cohort(tmp_path / "c", {"train": 20, "val": 5, "test": 5})
    folder = str(tmp_path / "c")
    reader = open_split(folder, "train")
    assert open_split(folder, "train") is reader
    assert open_split(folder, "val").manifest is reader.manifest is manifest_of(folder)
    changed = Manifest(**{**vars(Manifest.load(folder)), "name": "another name"})
    changed.save(folder)
    assert open_split(folder, "train").manifest.name == "another name"


MOST_MB = 500
PLAN = """
import sys
from hepdist.recipe import Recipe
from hepdist.shards.plan import plan_of
from hepdist.shards.read import manifest_of, open_split
from hepdist.spec import parse

recipe = parse(Recipe, {"name": "r", "data": {"cohort": sys.argv[1]}, "task": {"kind": "classification"}, "model": {"family": "resnet"},
                        "train": {"global_batch": 4096, "epochs": 90, "workers": 1024}})
plan = plan_of(recipe, manifest_of(recipe.data.cohort))
_, epoch, window = plan.locate(plan.first_item(0, 1023, 1024), 1023, 1024)
rows, _ = plan.train_rows(epoch, window, 1023, 1024)
assert len(open_split(plan.cohort, "train")) == plan.order.rows
print(plan.order.rows, len(rows), *[line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the peak of a process")
def test_a_hundred_million_samples_in_a_million_row_groups_are_planned_in_500_mb(tmp_path: Path):
    shards = [Shard(f"shards/train-{i:05d}.parquet", "train", (100,) * 64, 64 * 100 * 50_176, "ab" * 32) for i in range(15_625)]
    shards.append(Shard("shards/val-00000.parquet", "val", (100,) * 64, 64 * 100 * 50_176, "ab" * 32))
    image = {"dtype": "uint8", "shape": [1, 224, 224]}
    values = asdict(Manifest("large", "images", {"image": image}, (), label_names=("normal", "hepatitis")))
    (tmp_path / "manifest.json").write_text(json.dumps({**values, "shards": [vars(shard) for shard in shards]}))
    done = subprocess.run([sys.executable, "-c", PLAN, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    samples, planned, peak_kb = map(int, done.stdout.split())
    assert (samples, planned) == (10**8, 4 * 4)  # a window has four global batches, and a worker four rows of each
    assert peak_kb * 1024 < MOST_MB * 10**6
