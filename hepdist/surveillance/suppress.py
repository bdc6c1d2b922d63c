"""Small cells: which weekly counts are hidden, so that none can be derived from those that are shown, whoever knows how it is done."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHOWN, SMALL, COMPANION = 0, 1, 2
"""A cell that is shown; one of 1 to k-1; one that would give a small one away."""


@dataclass(frozen=True)
class Hidden:
    cells: NDArray[np.int8]
    """[sites, weeks]."""
    total: NDArray[np.int8]
    """[weeks], of all sites together."""


def hide(counts: NDArray[np.int64], k: int, keep: NDArray[np.bool_] | None = None) -> Hidden:
    """Which of counts[sites, weeks] and of their weekly sums to hide; k = 1 hides nothing.

    Small cells (1 to k-1) always. A week with small cells whose sum S = total - shown would narrow them down needs more: the site that
    has the fewest cases in all among those with k or more in this week is hidden with them, and the total too where even then S leaves
    too little. What decides is the set of small cells and S, which readers know; so knowing these rules tells them nothing more, and
    each small cell keeps at least two possible values (tests/test_surveillance_suppress.py tries every table of three sites).
    keep: cells (those with an alert, which readers know) that are taken for this only where there is no other.
    """
    small = (counts >= 1) & (counts < k)
    cells = np.where(small, SMALL, SHOWN).astype(np.int8)
    total = np.zeros(counts.shape[1], dtype=np.int8)
    if len(counts) == 1:  # the total is the site itself, and isn't shown beside it
        return Hidden(cells, cells[0].copy())
    by_size = np.argsort(counts.sum(axis=1), kind="stable")
    for week in np.flatnonzero(small.any(axis=0)):
        number, hidden_sum = int(small[:, week].sum()), int(counts[small[:, week], week].sum())
        # from here to there each cell can be anything from 1 to k-1, the others making up for it
        if number + k - 2 <= hidden_sum <= (k - 1) * number - (k - 2):
            continue
        large = [int(site) for site in by_size if counts[site, week] >= k]
        companion = min(large, key=lambda site: keep[site, week], default=None) if keep is not None else next(iter(large), None)
        if companion is not None:
            cells[companion, week] = COMPANION
            hidden_sum += int(counts[companion, week])
        # the companion has k or more: with so large a sum the small cells can still be anything
        if companion is None or hidden_sum < k + number * (k - 1):
            total[week] = COMPANION
    return Hidden(cells, total)
