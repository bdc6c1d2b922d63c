"""Harrell's concordance: of two patients, does the one with the higher predicted risk have the event first?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 512
"""Rows compared with all others at a time: all pairs of 20,000 rows at once would be 3 GB."""


def concordance(
    risk: NDArray[np.float64], days: NDArray[np.float64], event: NDArray[np.bool_], weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    """float64[resamples]: share of comparable pairs in which the risk is higher where the event is earlier; equal risks count half.

    risk, days, event: [n]; weight: float64[resamples, n], how often each row counts. A pair is comparable where the earlier of two
    different days is an event, or where of two equal days one is (Harrell et al., 1982). nan where no pair is.
    """
    right, all_pairs = np.zeros(len(weight)), np.zeros(len(weight))
    earlier = np.flatnonzero(event)
    for start in range(0, len(earlier), BLOCK_ROWS):
        i = earlier[start : start + BLOCK_ROWS]
        comparable = (days[i, None] < days) | ((days[i, None] == days) & ~event)
        better = (risk[i, None] > risk) + 0.5 * (risk[i, None] == risk)
        right += ((weight @ (comparable * better).T) * weight[:, i]).sum(1)
        all_pairs += ((weight @ comparable.T.astype(np.float64)) * weight[:, i]).sum(1)
    return np.divide(right, all_pairs, out=np.full(len(weight), np.nan), where=all_pairs > 0)
