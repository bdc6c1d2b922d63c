"""Which method judges which week of which series, and what the looks at many series cost in false alarms."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from hepdist.surveillance import cusum as sums
from hepdist.surveillance.cusum import cusum
from hepdist.surveillance.ears import NEEDS, ears
from hepdist.surveillance.farrington import Rules, baseline, farrington
from hepdist.surveillance.judgement import Judgement, Method
from hepdist.surveillance.spec import SurveilSpec

FALSE_ALARMS = {"cusum": 0.003, "ears_c1": 0.025, "ears_c2": 0.025, "ears_c3": 0.085}
"""Chance of an alert in a quiet week with the default settings, as benchmarks/surveillance.py measured it on Poisson and overdispersed counts;
Farrington's is alpha."""


@dataclass(frozen=True)
class Series:
    """Weekly counts of one site, or of all together, without a gap."""

    name: str
    counts: NDArray[np.float64]
    first: int
    """Week of counts[0] in weeks of the table; the site's first row, before which nothing is known of it."""


def judge(series: Series, last: int, spec: SurveilSpec) -> dict[int, Judgement]:
    """Judgements by week, for the `judge_weeks` weeks up to `last`, both in weeks of the table; weeks with too little history have none."""
    weeks = range(max(series.first, last - spec.judge_weeks + 1), last + 1)
    rules = rules_of(spec)
    running: list[Judgement | None] | None = None
    found: dict[int, Judgement] = {}
    for week in weeks:
        at = week - series.first
        method = spec.method if spec.method != "auto" else choose(at, rules)
        judged: Judgement | None = None
        if method == "farrington":
            judged = farrington(series.counts, at, rules)
        elif method == "cusum":
            running = running or cusum(series.counts, spec.cusum_k, spec.cusum_h)
            judged = running[at]
        elif method is not None:
            judged = ears(series.counts, at, method, spec.least_sd)
        if judged is not None:
            found[week] = judged
    return found


def choose(history: int, rules: Rules) -> Method | None:
    """The method for a week with `history` weeks before it; None: no method can say anything."""
    if baseline(rules, history) is not None:
        return "farrington"
    if history >= sums.NEEDS:
        return "cusum"
    return "ears_c2" if history >= NEEDS["ears_c2"] else None


def rules_of(spec: SurveilSpec) -> Rules:
    return Rules(spec.years, spec.half_window, spec.leave_out_weeks, spec.outlier, spec.alpha, spec.quantile, spec.least_reports)


def false_alarms(judged: list[Judgement], spec: SurveilSpec) -> float:
    """Alerts to be expected of these judgements if none of their weeks has an outbreak."""
    return sum(spec.alpha if one.method == "farrington" else FALSE_ALARMS[one.method] for one in judged)


def control(judged: dict[str, Judgement], rate: float) -> dict[str, Judgement]:
    """The judgements of one week by site, without the alerts that Benjamini and Hochberg's procedure doesn't pass at `rate`."""
    tested = {name: one.p for name, one in judged.items() if one.p is not None}
    if not rate or not tested:
        return judged
    adjusted = dict(zip(tested, false_discovery_control(list(tested.values())), strict=True))
    return {name: replace(one, alert=one.alert and adjusted.get(name, 0.0) <= rate) for name, one in judged.items()}
