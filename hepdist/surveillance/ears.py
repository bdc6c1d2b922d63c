"""The CDC's Early Aberration Reporting System: C1, C2 and C3 (Hutwagner et al., J Urban Health 2003, 80:i89; Fricker et al., Stat Med
2008, 27:3407), for series with no past to speak of: seven weeks are all they look at."""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from hepdist.surveillance.judgement import Judgement, Method, exceedance

BASELINE = 7
GAP = 2
"""Weeks between the baseline and the judged week in C2 and C3, so that an outbreak's own start doesn't raise the baseline."""
LIMIT = 3.0
"""C1, C2: standard deviations above the mean."""
C3_LIMIT = 2.0
NEEDS: dict[str, int] = {"ears_c1": BASELINE, "ears_c2": BASELINE + GAP, "ears_c3": BASELINE + GAP + 2}
"""Weeks before the judged one."""


def ears(counts: NDArray[np.float64], week: int, method: Method, least_sd: float) -> Judgement | None:
    """Judge counts[week]; None with less history than the method needs.

    C1 and C2 alert above mean + 3 standard deviations of their seven weeks. C3 adds up what exceeds one deviation in C2 over this week
    and the two before, and alerts above 2; its threshold is the count that brings the sum there.
    """
    if week < NEEDS[method]:
        return None
    gap = 0 if method == "ears_c1" else GAP
    mean, sd = _moments(counts, week, gap, least_sd)
    count = float(counts[week])
    if method == "ears_c3":
        carried = sum(max(0.0, _deviation(counts, week - back, least_sd) - 1) for back in (1, 2))
        upper = mean + sd * (1 + max(0.0, C3_LIMIT - carried))
        alert = carried + max(0.0, (count - mean) / sd - 1) > C3_LIMIT
        return Judgement(method, mean, upper, alert, exceedance(count, mean, upper))
    upper = mean + LIMIT * sd
    # the next of eight draws lies (count - mean) / (sd sqrt(1 + 1/7)) from the other seven's mean, a Student's t of 6 degrees
    p = float(t.sf((count - mean) / (sd * sqrt(1 + 1 / BASELINE)), BASELINE - 1))
    return Judgement(method, mean, upper, count > upper, exceedance(count, mean, upper), p)


def _deviation(counts: NDArray[np.float64], week: int, least_sd: float) -> float:
    """The C2 statistic."""
    mean, sd = _moments(counts, week, GAP, least_sd)
    return (float(counts[week]) - mean) / sd


def _moments(counts: NDArray[np.float64], week: int, gap: int, least_sd: float) -> tuple[float, float]:
    window = counts[week - gap - BASELINE : week - gap]
    return float(window.mean()), max(least_sd, float(window.std(ddof=1)))
