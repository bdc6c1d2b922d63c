"""Reports to weekly counts by site: arrays without gaps, from the first week of the table to the last."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hepdist.surveillance.table import Reports
from hepdist.surveillance.weeks import sunday, week_of


@dataclass(frozen=True)
class Weekly:
    sites: tuple[str, ...]
    """By name."""
    first_week: int
    """Number of the first column (weeks.py)."""
    cases: NDArray[np.int64]
    """[sites, weeks]; a week without a row has 0."""
    tested: NDArray[np.int64] | None
    starts: NDArray[np.int64]
    """Column of each site's first row: before it, nothing is known."""
    whole: int
    """Columns whose week is over by the last day that the table covers; the rest are shown and not judged."""

    @property
    def weeks(self) -> int:
        return self.cases.shape[1]


def weekly(reports: Reports) -> Weekly:
    sites = tuple(sorted({report.site for report in reports.rows}))
    place = {site: i for i, site in enumerate(sites)}
    at = np.array([[place[report.site], week_of(report.day)] for report in reports.rows])
    first, last = int(at[:, 1].min()), week_of(reports.until)
    at[:, 1] -= first
    shape = (len(sites), last - first + 1)
    cases = np.zeros(shape, dtype=np.int64)
    np.add.at(cases, (at[:, 0], at[:, 1]), [report.cases for report in reports.rows])
    tested = None
    numbers = [report.tested for report in reports.rows if report.tested is not None]
    if len(numbers) == len(reports.rows):
        tested = np.zeros(shape, dtype=np.int64)
        np.add.at(tested, (at[:, 0], at[:, 1]), numbers)
    starts = np.full(len(sites), shape[1])
    np.minimum.at(starts, at[:, 0], at[:, 1])
    return Weekly(sites, first, cases, tested, starts, shape[1] - (sunday(last) > reports.until))
