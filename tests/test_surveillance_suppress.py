"""No hidden count can be had from what is shown: every table of three sites is tried, against a reader who knows the rules."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import pytest

from hepdist.surveillance.suppress import COMPANION, SHOWN, SMALL, hide


def published(week: tuple[int, ...], others: list[list[int]], k: int) -> tuple[object, ...]:
    """What a reader sees of one week (the second column keeps the sites' sizes in order): cells, total."""
    counts = np.array([[count, other] for count, (other,) in zip(week, others, strict=True)])
    hidden = hide(counts, k)
    cells = tuple(int(count) if state == SHOWN else f"state {state}" for count, state in zip(counts[:, 0], hidden.cells[:, 0], strict=True))
    return (*cells, int(counts[:, 0].sum()) if hidden.total[0] == SHOWN else "hidden")


@pytest.mark.parametrize("k", [4, 5, 6])
@pytest.mark.parametrize("sites", [2, 3])
def test_each_small_cell_keeps_two_possible_values_for_a_reader_who_knows_the_rules(sites: int, k: int) -> None:
    others = [[100], [200], [300]][:sites]
    seen: dict[tuple[object, ...], list[tuple[int, ...]]] = defaultdict(list)
    most = 4 * k
    for week in itertools.product(range(most), repeat=sites):
        seen[published(week, others, k)].append(week)
    narrowest = k
    for shown, tables in seen.items():
        companions = [table[site] for table in tables for site, cell in enumerate(shown[:-1]) if cell == f"state {COMPANION}"]
        if max(companions, default=0) + 2 * (k - 2) >= most:
            continue  # some tables that show the same hold larger counts than were tried
        for site, cell in enumerate(shown[:-1]):
            if cell == f"state {SMALL}":
                values = {table[site] for table in tables}
                assert values <= set(range(1, k))
                narrowest = min(narrowest, len(values))
    assert narrowest >= 2


def test_a_small_count_takes_the_smallest_shown_site_with_it_and_keeps_the_total() -> None:
    counts = np.array([[3, 60], [20, 60], [90, 60], [0, 0]])
    hidden = hide(counts, 5)
    assert hidden.cells[:, 0].tolist() == [SMALL, COMPANION, SHOWN, SHOWN]
    assert hidden.total.tolist() == [SHOWN, SHOWN]
    assert not hidden.cells[:, 1].any()


def test_two_small_counts_hide_each_other_where_their_sum_leaves_both_open() -> None:
    hidden = hide(np.array([[1, 30], [4, 30], [50, 30]]), 5)  # sum 5: 1+4, 2+3, 3+2, 4+1
    assert hidden.cells[:, 0].tolist() == [SMALL, SMALL, SHOWN] and hidden.total[0] == SHOWN
    hidden = hide(np.array([[1, 30], [1, 30], [50, 30]]), 5)  # sum 2: both are 1
    assert hidden.cells[:, 0].tolist() == [SMALL, SMALL, COMPANION] and hidden.total[0] == SHOWN


def test_the_total_goes_where_nobody_can_hide_the_small_count() -> None:
    assert hide(np.array([[3, 9], [0, 9]]), 5).total[0] == COMPANION
    assert hide(np.array([[1, 9], [5, 9]]), 5).total[0] == COMPANION  # 1 + 5 = 6: a companion is 5 or more


def test_one_site_has_no_total_to_hide_in_and_a_limit_of_one_hides_nothing() -> None:
    assert hide(np.array([[3, 9]]), 5).cells.tolist() == [[SMALL, SHOWN]]
    hidden = hide(np.array([[3, 1], [1, 0]]), 1)
    assert not hidden.cells.any() and not hidden.total.any()
