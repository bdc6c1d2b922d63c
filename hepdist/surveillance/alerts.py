"""The table of weeks, sites and alerts, as it may be published.

Alerts are judged on the counts as they are. Every number beside them is computed from counts that the table shows: where a series has
hidden counts, its expected counts and thresholds are those of a series with stand-ins in their place. So no number tells of a hidden one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hepdist.surveillance.judge import Series, control, judge
from hepdist.surveillance.judgement import TITLES, Judgement
from hepdist.surveillance.prevalence import Accuracy, corrected
from hepdist.surveillance.spec import SurveilSpec
from hepdist.surveillance.suppress import COMPANION, SHOWN, SMALL, Hidden, hide
from hepdist.surveillance.table import ALL_SITES
from hepdist.surveillance.weekly import Weekly
from hepdist.surveillance.weeks import monday, name_of

DIGITS = 4
"""After the point, of published numbers."""
TOO_SHORT, NOT_OVER, EARLIER = "too little history", "week not over", "before the judged weeks"
COLUMNS: dict[str, str] = {
    "week": "string", "monday": "object", "site": "string", "observed": "Int64", "hidden": "string", "expected": "Float64", "upper": "Float64",
    "score": "Float64", "p": "Float64", "method": "string", "alert": "boolean", "note": "string", "tested": "Int64", "hidden_tested": "string",
    "share": "Float64", "prevalence": "Float64", "prevalence_low": "Float64", "prevalence_high": "Float64",
}  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """All series with their judgements, from the counts as they are; not for publishing."""

    series: tuple[Series, ...]
    """All sites together first, unless there is one site; then the sites."""
    by_week: Mapping[str, Mapping[int, Judgement]]
    """By series, then by week of the table."""
    last: int
    """The newest whole week, in weeks of the table; -1: no week is whole."""

    def latest(self) -> dict[str, Judgement]:
        """Judgements of the newest whole week, by series."""
        return {name: judged[self.last] for name, judged in self.by_week.items() if self.last in judged}


def judge_all(weekly: Weekly, spec: SurveilSpec) -> Judged:
    counts = weekly.cases.astype(np.float64)
    series = [Series(site, counts[i, weekly.starts[i] :], int(weekly.starts[i])) for i, site in enumerate(weekly.sites)]
    if len(series) > 1:
        series.insert(0, Series(ALL_SITES, counts.sum(axis=0), 0))
    last = weekly.whole - 1
    by_week = {one.name: judge(one, last, spec) for one in series}
    for week in range(max(0, last - spec.judge_weeks + 1), last + 1):
        sites = {name: judged[week] for name, judged in by_week.items() if name != ALL_SITES and week in judged}
        for name, one in control(sites, spec.false_discovery).items():
            by_week[name][week] = one
    return Judged(tuple(series), by_week, last)


def alerts_table(weekly: Weekly, judged: Judged, spec: SurveilSpec, accuracy: Accuracy | None) -> pd.DataFrame:
    """A row a week and series, with the columns of COLUMNS (docs/surveillance.md), the newest week last."""
    alerted = np.zeros(weekly.cases.shape, dtype=bool)
    for i, site in enumerate(weekly.sites):
        for week, verdict in judged.by_week[site].items():
            alerted[i, week] = verdict.alert
    states = _states(hide(weekly.cases, spec.small_cell, keep=alerted), weekly.sites)
    shown = {one.name: judge(public(one, states[one.name], spec.small_cell), judged.last, spec) for one in judged.series}
    tested = _states(hide(weekly.tested, spec.small_cell), weekly.sites) if weekly.tested is not None else {}
    numbers = _numbers(weekly.tested, weekly.sites) if weekly.tested is not None else {}
    rows = []
    for week in range(weekly.weeks):
        for one in judged.series:
            if week < one.first:
                continue
            state, name = int(states[one.name][week]), one.name
            row: dict[str, Any] = dict.fromkeys(COLUMNS)
            number = weekly.first_week + week
            row |= {
                "week": name_of(number),
                "monday": monday(number),
                "site": name,
                "hidden": _marker(state, spec.small_cell),
                "hidden_tested": "",
                "note": "",
            }
            row["observed"] = int(one.counts[week - one.first]) if state == SHOWN else None
            row |= _verdict(judged.by_week[name].get(week), shown[name].get(week), state)
            if row["method"] is None:
                row["note"] = NOT_OVER if week > judged.last else EARLIER if week <= judged.last - spec.judge_weeks else TOO_SHORT
            if weekly.tested is not None:
                row |= _tested(row["observed"], int(numbers[name][week]), int(tested[name][week]), spec.small_cell, accuracy)
            rows.append(row)
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def public(series: Series, states: NDArray[np.int8], k: int) -> Series:
    """The series that readers know: for counts from 1 to k-1 their middle, for other hidden ones the line between their shown neighbours."""
    states = states[series.first :]
    if not states.any():
        return series
    counts = np.where(states == SMALL, k / 2, series.counts)
    known, weeks = states != COMPANION, np.arange(len(counts))
    if not known.all():
        counts = np.interp(weeks, weeks[known], counts[known]) if known.any() else np.full(len(counts), float(k))
    return replace(series, counts=counts)


def _verdict(true: Judgement | None, shown: Judgement | None, state: int) -> dict[str, Any]:
    """What is published of a judgement: its alert, and the numbers of the one on the public series."""
    if true is None:
        return {}
    found: dict[str, Any] = {"method": TITLES[true.method], "alert": true.alert}
    if shown is None:  # the regression settles on the counts as they are alone
        return found
    found |= {"expected": round(shown.expected, DIGITS), "upper": round(shown.upper, DIGITS)}
    if state == SHOWN:
        found |= {name: None if value is None else round(value, DIGITS) for name, value in (("score", shown.score), ("p", shown.p))}
    return found


def _tested(observed: int | None, tested: int, state: int, k: int, accuracy: Accuracy | None) -> dict[str, Any]:
    """Those tested and prevalence, which gives a count away and is hidden with it."""
    if state != SHOWN:
        return {"hidden_tested": _marker(state, k)}
    found: dict[str, Any] = {"tested": tested}
    if observed is not None and tested:
        found["share"] = round(observed / tested, DIGITS)
        if accuracy is not None:
            true = corrected(observed, tested, accuracy)
            names = ("prevalence", "prevalence_low", "prevalence_high")
            found |= {name: round(value, DIGITS) for name, value in zip(names, (true.value, true.low, true.high), strict=True)}
    return found


def _states(hidden: Hidden, sites: tuple[str, ...]) -> dict[str, NDArray[np.int8]]:
    return dict(zip(sites, hidden.cells, strict=True)) | {ALL_SITES: hidden.total}


def _numbers(counts: NDArray[np.int64], sites: tuple[str, ...]) -> dict[str, NDArray[np.int64]]:
    return dict(zip(sites, counts, strict=True)) | {ALL_SITES: counts.sum(axis=0)}


def _marker(state: int, k: int) -> str:
    return {SHOWN: "", SMALL: f"<{k}"}.get(state, "hidden")
