"""Intervals of shares, such as a sensitivity, that stay honest at 0 and 1 and with several rows a patient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hepdist.evaluation.bootstrap import LEVEL


@dataclass(frozen=True)
class Proportion:
    value: float
    low: float
    high: float
    n: int
    """Rows."""
    worth: float
    """As many independent rows as they are worth."""


@dataclass(frozen=True)
class Difference:
    """Of two shares, the first minus the second; nan where one of them has no rows."""

    value: float
    low: float
    high: float
    p: float
    """Two-sided."""


def proportion(hit: NDArray[np.bool_], patient: NDArray[np.str_], level: float = LEVEL) -> Proportion:
    """The share of rows that are hits, with Wilson's interval for as many rows as the patients are worth; nan without rows.

    The bootstrap's interval of 20 hits in 20 is 1 to 1, Wilson's 0.84 to 1. Rows of a patient that go together are worth fewer
    independent ones: n is divided by the design effect, the variance between patients over that of independent rows (Korn &
    Graubard, 1998). All alike they show no variance, so then a patient counts once.
    """
    from scipy.stats import norm

    rows = len(hit)
    if not rows:
        return Proportion(float("nan"), float("nan"), float("nan"), 0, 0.0)
    _, owner = np.unique(patient, return_inverse=True)
    patients = int(owner.max()) + 1
    share = float(hit.mean())
    if share in (0.0, 1.0) or patients == 1:
        worth = float(patients)
    else:
        total = np.bincount(owner, hit - share)
        between = patients / (patients - 1) * float((total**2).sum()) / rows**2
        worth = rows / max(1.0, between / (share * (1 - share) / rows))
    z = float(norm.ppf((1 + level) / 2))
    centre = (share + z**2 / (2 * worth)) / (1 + z**2 / worth)
    reach = z / (1 + z**2 / worth) * float(np.sqrt(share * (1 - share) / worth + z**2 / (4 * worth**2)))
    return Proportion(share, max(0.0, centre - reach), min(1.0, centre + reach), rows, worth)


def difference(first: Proportion, second: Proportion) -> Difference:
    """Two shares of different patients: Newcombe's interval (1998, from both Wilson intervals) and the pooled test, with what rows are worth.

    Where the two share patients, whose rows go together, both err on the careful side.
    """
    from scipy.stats import norm

    value = first.value - second.value
    down = np.hypot(first.value - first.low, second.high - second.value)
    up = np.hypot(first.high - first.value, second.value - second.low)
    if not first.n or not second.n:
        return Difference(value, float("nan"), float("nan"), float("nan"))
    pooled = (first.worth * first.value + second.worth * second.value) / (first.worth + second.worth)
    error = float(np.sqrt(pooled * (1 - pooled) * (1 / first.worth + 1 / second.worth)))
    p = float(2 * norm.sf(abs(value) / error)) if error else 1.0
    return Difference(value, float(value - down), float(value + up), p)
