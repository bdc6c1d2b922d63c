"""The stream: what arrives, through Ray Data or a thread, is exactly what the plan says, on any number of workers and from any cursor."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from cohorts import tiny_classification_cohort
from hepdist.errors import CohortError
from hepdist.recipe import Recipe
from hepdist.shards.plan import Plan
from hepdist.shards.read import SplitReader
from hepdist.shards.stream import Stream
from hepdist.spec import parse
from hepdist.training.worker import readers_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory, ray_cluster):
    folder = tmp_path_factory.mktemp("cohorts") / "eleven"
    return folder, tiny_classification_cohort(folder, {"train": 53, "val": 11, "test": 11})


def plan_for(cohort, epochs=3, batch=8, validation=4, window_mib=1e-3):
    folder, manifest = cohort
    groups = tuple(int(r) for s in manifest.of("train") for r in s.row_groups)
    return Plan(
        str(folder), ("image", "label"), groups, manifest.rows("val"), manifest.row_bytes(), 4, epochs, batch, 1, validation, window_mib
    )


RAY, THREAD = 1, 0
"""Readers of a stream."""


def drain(cohort, plan, world, cursor=0, readers=RAY):
    """Rows by (epoch, global batch) in position order, and validation rows by epoch, over all workers."""
    train, validation = {}, {}
    for rank in range(world):
        stream = Stream(plan, cohort[1], cursor, rank, world, CPU, readers=readers)
        while stream.cursor < plan.samples:
            epoch, before = divmod(stream.cursor, plan.order.rows)
            for index, batch in enumerate(stream.epoch(), start=before // plan.global_batch):
                train.setdefault((epoch, index), []).extend(zip(batch["position"].tolist(), batch["row"].tolist(), strict=True))
            validation.setdefault(epoch, []).extend(row for batch in stream.validation() for row in batch["row"].tolist())
        stream.close()
    return {k: [row for _, row in sorted(v)] for k, v in train.items()}, {k: sorted(v) for k, v in validation.items()}


@pytest.mark.parametrize("readers", [RAY, THREAD])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_workers_together_see_the_plan_and_nothing_else(cohort, world, readers):
    plan = plan_for(cohort)
    assert plan.order.windows > 1  # lanes are dealt
    train, validation = drain(cohort, plan, world, readers=readers)
    for epoch in range(3):
        line = np.concatenate([plan.order.window(epoch, w) for w in range(plan.order.windows)])
        assert [row for index in range(7) for row in train[epoch, index]] == line.tolist()
        assert validation[epoch] == list(range(11))


@pytest.mark.parametrize("readers", [RAY, THREAD])
def test_a_resumed_stream_goes_on_where_the_cursor_stands(cohort, readers):
    plan = plan_for(cohort)
    whole, _ = drain(cohort, plan, 2, readers=readers)
    for cursor in (8, 40, 53, 53 + 16, 2 * 53 + 48):
        rest, validation = drain(cohort, plan, 2, cursor, readers)
        epoch, index = cursor // 53, cursor % 53 // 8
        assert rest == {k: v for k, v in whole.items() if k >= (epoch, index)}
        assert sorted(validation) == list(range(epoch, 3))


@pytest.mark.parametrize(
    ("reader", "changes", "readers"),
    [
        ("auto", {}, THREAD),
        ("auto", {"row_bytes": 4 << 20}, THREAD),  # 64 rows: 256 MiB
        ("auto", {"row_bytes": (4 << 20) + 1}, 3),
        ("auto", {"cohort": "s3://bucket/cohort"}, 3),
        ("ray", {}, 3),
        ("worker", {"row_bytes": 1 << 30}, THREAD),
    ],
)
def test_workers_read_themselves_what_is_small_and_in_a_folder(cohort, reader, changes, readers):
    data = {"cohort": str(cohort[0]), "reader": reader, "readers": 3}
    recipe = parse(Recipe, {"name": "r", "data": data, "task": {"kind": "classification"}, "model": {"family": "resnet"}})
    assert readers_of(recipe, dataclasses.replace(plan_for(cohort), **changes)) == readers


def test_batches_hold_the_bytes_of_the_rows_they_name(cohort):
    folder, manifest = cohort
    plan = plan_for(cohort, epochs=1)
    truth = SplitReader(folder, manifest, "train").arrays(np.arange(53), ("image", "label"))
    for batch in Stream(plan, manifest, 0, 0, 1, CPU).epoch():
        rows = batch["row"].numpy()
        assert batch["image"].dtype == torch.uint8
        assert np.array_equal(batch["image"].numpy(), truth["image"][rows])
        assert np.array_equal(batch["label"].numpy(), truth["label"][rows])


def test_eleven_rows_on_three_workers_leave_none_out(cohort, tmp_path):
    folder = tmp_path / "c"
    manifest = tiny_classification_cohort(folder, {"train": 11, "val": 11, "test": 11})
    plan = plan_for((folder, manifest), epochs=2, batch=4, validation=2)
    train, validation = drain((folder, manifest), plan, 3)
    for epoch in range(2):
        assert sorted(row for (e, _), rows in train.items() for row in rows if e == epoch) == list(range(11))
        assert validation[epoch] == list(range(11))


def test_rows_come_in_the_order_asked_for_from_any_row_group(cohort):
    folder, manifest = cohort
    reader = SplitReader(folder, manifest, "train")
    everything = reader.arrays(np.arange(53), ("image",))["image"]
    rows = np.random.default_rng(0).permutation(53)[:20]
    assert np.array_equal(reader.arrays(rows, ("image",))["image"], everything[rows])
    ids = reader.strings(("sample_id",))["sample_id"].to_pylist()
    assert len(set(ids)) == 53


def test_a_shard_of_another_size_is_named(tmp_path):
    folder = tmp_path / "c"
    manifest = tiny_classification_cohort(folder, 20)
    shard = manifest.of("train")[0]
    with open(folder / shard.path, "ab") as file:
        file.write(b"x")
    with pytest.raises(
        CohortError, match=rf"shard '{shard.path}' has {shard.bytes + 1} bytes instead of {shard.bytes}; ingest the cohort again"
    ):
        SplitReader(folder, manifest, "train").arrays(np.arange(1), ("image",))
