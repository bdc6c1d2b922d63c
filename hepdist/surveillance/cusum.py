"""A cumulative sum of standardised counts (Rossi et al., Stat Med 1999, 18:2111), for half a year of history up to three years: it finds
small rises that last, which a look at single weeks misses."""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from hepdist.surveillance.judgement import Judgement, exceedance

NEEDS = 26
"""Weeks before the first judged week; from fewer, mean and dispersion are too uncertain."""
BASELINE = 52
"""Most weeks that mean and dispersion are taken from."""
GAP = 4
"""Newest weeks kept out of them: a rise that lasts would become its own baseline."""


def cusum(counts: NDArray[np.float64], k: float, h: float) -> list[Judgement | None]:
    """Judge every week of a series; None for those with fewer than 26 weeks before them.

    Mean and dispersion (variance over mean, at least 1) of each week are those of up to 52 weeks that end 4 weeks before it. Counts and
    mean over the dispersion are like Poisson's, which `standardised` makes nearly standard normal. The sum of what exceeds k begins
    again at 0 after an alert; it alerts above h, and the threshold is the count that brings it there.
    """
    judged: list[Judgement | None] = []
    total = 0.0
    for week, count in enumerate(counts):
        if week < NEEDS:
            judged.append(None)
            continue
        window = counts[max(0, week - GAP - BASELINE) : week - GAP]
        mean = max(float(window.mean()), 1 / len(window))  # with none in the window, as many as one more case would make it
        dispersion = max(1.0, float(window.var(ddof=1)) / mean)
        upper = dispersion * _count(mean / dispersion, max(0.0, h + k - total))
        total = max(0.0, total + standardised(float(count) / dispersion, mean / dispersion) - k)
        alert = total > h
        judged.append(Judgement("cusum", mean, upper, alert, exceedance(float(count), mean, upper)))
        if alert:
            total = 0.0
    return judged


def standardised(count: float, mean: float) -> float:
    """A Poisson count as a nearly standard normal number: (x - 3m + 2 sqrt(x m)) / (2 sqrt(m)), Rossi's transformation."""
    return (count - 3 * mean + 2 * sqrt(count * mean)) / (2 * sqrt(mean))


def _count(mean: float, value: float) -> float:
    """The count whose standardised number is `value`: the square of the positive root of s^2 + 2 s sqrt(m) - 3 m - 2 value sqrt(m)."""
    root = -sqrt(mean) + sqrt(4 * mean + 2 * value * sqrt(mean))
    return root**2
