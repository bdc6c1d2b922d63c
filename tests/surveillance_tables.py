"""Tables of made-up visits for the tests of surveillance; the truth of each is in its arguments. Asserts nothing."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from hepdist.surveillance.weeks import monday, week_of

LAST = date(2024, 11, 24)
"""A Sunday."""


def visits(
    means: dict[str, float],
    weeks: int,
    *,
    outbreak: tuple[str, int, int] | None = None,
    last: date = LAST,
    seed: int = 0,
    tests: float = 4.0,
) -> list[dict[str, str]]:
    """A row a visit: Poisson cases of a mean by site and week, `tests` times as many without, each a patient of its own.

    outbreak: site, further cases a week, and how many of the last weeks have them.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for back in range(weeks):
        start = monday(week_of(last) - back)
        for site, mean in means.items():
            season = 1 + 0.3 * np.sin(2 * np.pi * start.timetuple().tm_yday / 365)
            cases = int(rng.poisson(mean * season))
            if outbreak and outbreak[0] == site and back < outbreak[2]:
                cases += outbreak[1]
            for case in [1] * cases + [0] * int(rng.poisson(mean * tests)):
                day = start + timedelta(days=int(rng.integers(7)))
                rows.append({"date": day.isoformat(), "site": site, "case": str(case), "patient": f"QXKZJVWP{len(rows):06d}"})
    return rows


def write_csv(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
