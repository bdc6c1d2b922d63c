"""Sample order: a pure function of (row groups, seed, epoch), complete, shuffled, and blind to the number of workers."""

from __future__ import annotations

import numpy as np
import pytest

from hepdist.shards.order import Order, portion, window_batches
from hepdist.shards.plan import Plan


def epoch_of(order: Order, epoch: int) -> np.ndarray:
    return np.concatenate([order.window(epoch, w) for w in range(order.windows)])


@pytest.mark.parametrize(("groups", "batch", "window"), [((7, 3, 9, 1, 5), 4, 2), ((100,) * 13, 64, 4), ((5, 6), 4, 100), ((1,), 8, 4)])
def test_every_row_comes_once_an_epoch(groups, batch, window):
    order = Order(groups, 0, batch, window)
    for epoch in range(3):
        assert sorted(epoch_of(order, epoch)) == list(range(sum(groups)))


def test_order_changes_with_epoch_and_seed_and_with_nothing_else():
    groups = (30,) * 40
    first = epoch_of(Order(groups, 7, 32, 4), 0)
    assert np.array_equal(first, epoch_of(Order(np.array(groups), 7, 32, 4), 0))
    assert not np.array_equal(first, epoch_of(Order(groups, 7, 32, 4), 1))
    assert not np.array_equal(first, epoch_of(Order(groups, 8, 32, 4), 0))


def test_a_window_is_the_same_asked_alone_as_in_sequence():
    order = Order((13, 50, 29, 8) * 9, 3, 16, 4)
    whole, size = epoch_of(order, 2), 4 * 16
    for window in reversed(range(order.windows)):
        assert np.array_equal(order.window(2, window), whole[window * size : (window + 1) * size])


def test_a_split_that_fits_its_window_is_permuted_uniformly():
    counts = np.zeros((12, 12))
    for epoch in range(3000):
        counts[np.arange(12), epoch_of(Order((5, 7), 1, 4, 100), epoch)] += 1
    # each cell is Binomial(3000, 1/12): mean 250, standard deviation 15.1; chi-squared of 121 degrees stays below 186 (p = 1e-4)
    assert ((counts - 250) ** 2 / 250).sum() < 186


def test_a_worker_reads_a_contiguous_part_of_a_window():
    """Read amplification: over the workers of a window, row groups are shared only at the edges of their parts."""
    order = Order((100,) * 400, 0, 64, 16)
    plan = Plan("", (), (100,) * 400, 0, 1, 0, 1, 64, 1, 32, 64 * 16 / 2**20)
    assert plan.order.window_batches == 16
    for window in (0, 7, 24):
        touched = [set(plan.train_rows(0, window, rank, 4)[0] // 100) for rank in range(4)]
        whole = set(order.window(0, window) // 100)
        assert set().union(*touched) == whole
        assert sum(len(t) for t in touched) <= len(whole) + 3


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
def test_global_batches_do_not_depend_on_the_number_of_workers(world):
    plan = Plan("", (), (9, 14, 3, 22), 0, 1, 5, 2, 8, 1, 4, 1e-9)
    line = np.concatenate([plan.order.window(1, w) for w in range(plan.order.windows)])
    batches: dict[int, list[int]] = {}
    for rank in range(world):
        for window in range(plan.order.windows):
            rows, positions = plan.train_rows(1, window, rank, world)
            for row, position in zip(rows, positions, strict=True):
                batches.setdefault(position // 8, []).append((position, row))
    got = [row for b in sorted(batches) for _, row in sorted(batches[b])]
    assert got == line.tolist()


def test_portions_cover_a_batch_and_differ_by_at_most_one():
    for rows in range(20):
        for world in range(1, 9):
            parts = [portion(rows, rank, world) for rank in range(world)]
            assert [i for low, high in parts for i in range(low, high)] == list(range(rows))
            sizes = [high - low for low, high in parts]
            assert max(sizes) - min(sizes) <= 1


def test_items_of_a_plan_lead_from_any_cursor_to_the_end():
    plan = Plan("", (), (9, 14, 3, 22), 11, 1, 5, 3, 8, 2, 4, 1e-9)
    for rank, world in ((0, 1), (1, 2), (2, 3)):
        located = [plan.locate(i, rank, world) for i in range(plan.items(rank, world))]
        assert [e for kind, e, part in located if kind == "train" and part == 0] == [0, 1, 2]
        assert sorted({e for kind, e, _ in located if kind == "val"}) == [1, 2]
        for cursor in range(0, plan.samples, 8):
            epoch, position = divmod(cursor, 48)
            assert located[plan.first_item(cursor, rank, world)] == ("train", epoch, position // (plan.order.window_batches * 8))


def test_planning_a_hundred_million_samples_is_lazy():
    order = Order(np.full(10**6, 100), 0, 4096, window_batches(50_176, 4096, 64, 10**8))
    window = order.window(3, order.windows - 1)
    assert order.rows == 10**8
    assert len(np.unique(window)) == len(window)
    assert len(window) == order.rows - (order.windows - 1) * order.window_batches * 4096
