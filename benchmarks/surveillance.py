"""How often `hepdist surveil` cries wolf and how often it sees one: simulated series with outbreaks of known size and onset.

The 28 scenarios of Noufaily et al. (Stat Med 2013, 32:1206): weekly counts, negative binomial with variance phi times the mean, of mean
exp(theta + beta t + gamma1 cos(2 pi t / 52) + gamma2 sin(2 pi t / 52)), 624 weeks, the last 49 judged. Parameters as in the replication
by Telkamp, Christiansen and Moller (github.com/telkamp7/AEDDO), since the paper is not open; outbreaks as described there.

    python benchmarks/surveillance.py [--series 200] [--processes 2] [--only noufaily|short|salmonella|prevalence]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from common import machine, markdown
from numpy.typing import NDArray

from hepdist.surveillance.cusum import cusum
from hepdist.surveillance.ears import ears
from hepdist.surveillance.farrington import Rules, farrington_of_many
from hepdist.surveillance.judgement import Method
from hepdist.surveillance.prevalence import Accuracy, corrected

WEEKS, CURRENT, BASELINE = 624, 49, range(312, 575)
"""As there: outbreaks are put into weeks 313 to 575, one into the last 49."""
CLUSTERS = (  # theta, beta, gamma1, gamma2, phi
    (0.1, 0.0025, 0.6, 0.6, 1.5), (-2.0, 0.005, 0.1, 0.3, 2.0), (1.5, 0.003, 0.2, -0.4, 1.0), (0.5, 0.002, 0.5, 0.5, 5.0),
    (2.5, 0.001, 1.0, 0.1, 3.0), (3.75, 0.001, 0.1, -0.1, 1.1), (5.0, 0.0001, 0.05, 0.01, 1.2),
)  # fmt: skip
SIZES = range(1, 11)
"""Of the current outbreak: cases over the baseline's standard deviation; each series has one, of the next size."""
RULES = Rules(weeks_per_year=52)
REPLICATED = {2: 0.127, 4: 0.328, 6: 0.682, 8: 0.822, 10: 0.913}
"""Mean over scenarios of the probability of detection by size, R package surveillance, in the replication's draft article (its Table of
POD, method 'Noufaily'); its mean false positive rate is 0.009, the median 0."""

Counts = NDArray[np.float64]


@dataclass(frozen=True)
class Scenario:
    number: int
    theta: float
    beta: float
    gamma1: float
    gamma2: float
    phi: float

    def means(self) -> Counts:
        t = np.arange(1, WEEKS + 1)
        angle = 2 * np.pi * t / 52
        result: Counts = np.exp(self.theta + self.beta * t + self.gamma1 * np.cos(angle) + self.gamma2 * np.sin(angle))
        return result


def scenarios() -> Iterator[Scenario]:
    number = 0
    for theta, beta, gamma1, gamma2, phi in CLUSTERS:
        for trend in (0.0, beta):
            for season in (0, 1):
                number += 1
                yield Scenario(number, theta, trend, season * gamma1, season * gamma2, phi)


def draw(mean: Counts, phi: float, rng: np.random.Generator) -> Counts:
    return (rng.poisson(mean) if phi == 1 else rng.negative_binomial(mean / (phi - 1), 1 / phi)).astype(np.float64)


def outbreak(size: float, start: int, mean: Counts, phi: float, rng: np.random.Generator) -> tuple[Counts, int]:
    """Its cases by week and its last week: Poisson(size standard deviations) of them, spread as the whole part of a lognormal(0, 0.5)."""
    cases = rng.poisson(size * np.sqrt(phi * mean[start]))
    when = start + np.floor(rng.lognormal(0, 0.5, cases)).astype(int)
    added = np.bincount(when[when < WEEKS], minlength=WEEKS).astype(np.float64)
    return added, int(when[when < WEEKS].max(initial=start))


def one_scenario(scenario: Scenario, number: int) -> dict[str, Any]:
    """Share of current weeks without outbreak that alert, and of outbreaks by size that are seen, with the rule of five reports and without.

    Weeks of the baseline have four outbreaks.
    """
    rng = np.random.default_rng([2013, scenario.number])
    mean = scenario.means()
    quiet, sick, spans = [], [], []
    for i in range(number):
        counts = draw(mean, scenario.phi, rng)
        for size in rng.choice([2, 3, 5, 10], 4):
            counts = counts + outbreak(size, int(rng.choice(BASELINE)), mean, scenario.phi, rng)[0]
        start = int(rng.integers(WEEKS - CURRENT, WEEKS))
        added, end = outbreak(SIZES[i % len(SIZES)], start, mean, scenario.phi, rng)
        quiet.append(counts)
        sick.append(counts + added)
        spans.append((start, end))
    alerts, seen = np.zeros(2), np.zeros((number, 2), dtype=bool)
    for week in range(WEEKS - CURRENT, WEEKS):
        alerts += above(np.array(quiet), week).sum(axis=0)
        now = [i for i, (start, end) in enumerate(spans) if start <= week <= end]
        if now:
            seen[now] |= above(np.array([sick[i] for i in now]), week)
    sizes = np.array([SIZES[i % len(SIZES)] for i in range(number)])
    found: dict[str, Any] = {"scenario": scenario.number, "series": number}
    for column, name in enumerate(("with", "without")):
        found[f"rate_{name}"] = alerts[column] / number / CURRENT
        found[f"seen_{name}"] = {k: float(seen[sizes == k, column].mean()) for k in SIZES}
    return found


def above(counts: Counts, week: int) -> NDArray[np.bool_]:
    """[series, 2]: whether the week alerts, and whether it is above its threshold, whatever the rule of five reports says."""
    judged = farrington_of_many(counts, week, RULES)
    return np.array([[one.alert, series[week] > one.upper] if one else [False, False] for one, series in zip(judged, counts, strict=True)])


def noufaily(series: int, processes: int) -> None:
    began, every = time.perf_counter(), list(scenarios())
    with ProcessPoolExecutor(processes) as pool:
        done = list(pool.map(one_scenario, every, [series] * len(every)))
    print(f"\n{series} series a scenario, alpha {RULES.alpha}, {time.perf_counter() - began:.0f} s with {processes} processes")
    report(done)


def report(done: list[dict[str, Any]]) -> None:
    """The tables of all scenarios and of their means, beside the replication's."""
    sizes = [f"POD, k = {k}" for k in REPLICATED]
    rows = []
    for scenario, one in zip(scenarios(), done, strict=True):
        mean, season = scenario.means()[-CURRENT:].mean(), "yes" if scenario.gamma1 else "no"
        seen = [f"{one['seen_with'][k]:.2f}" for k in REPLICATED]
        rows.append([scenario.number, scenario.theta, scenario.beta, season, scenario.phi, f"{mean:.1f}", f"{one['rate_with']:.4f}", *seen])
    print("\n" + markdown(["scenario", "theta", "beta", "season", "phi", "mean of judged weeks", "FPR", *sizes], rows))
    summary: list[list[object]] = []
    for name in ("with", "without"):
        rates = [one[f"rate_{name}"] for one in done]
        means = [f"{np.mean([one[f'seen_{name}'][k] for one in done]):.3f}" for k in REPLICATED]
        shown = [f"{value:.4f}" for value in (np.median(rates), np.mean(rates), max(rates))]
        summary.append([f"hepdist, {name} the rule of five reports", *shown, *means])
    summary.append(["R surveillance, as replicated", "0.000", "0.009", "0.125, of a series", *REPLICATED.values()])
    print("\n" + markdown([f"over {len(done)} scenarios", "median FPR", "mean FPR", "largest FPR", *sizes], summary))


def short_histories(series: int) -> None:
    """Quiet weeks that alert, and outbreaks of a fourfold mean for three weeks that are seen, for the methods without seasons."""
    rows = []
    methods: list[Method] = ["ears_c1", "ears_c2", "ears_c3", "cusum"]
    for mean, phi in ((2.0, 1.0), (10.0, 1.0), (10.0, 2.0), (50.0, 1.0), (50.0, 3.0)):
        row: list[object] = [f"{mean:g}", f"{phi:g}"]
        for method in methods:
            rng = np.random.default_rng(int(10 * mean + phi))
            quiet, seen = [], []
            for _ in range(series):
                counts = draw(np.full(100, mean), phi, rng)
                quiet += _alerts(counts, range(60, 100), method)
                sick = counts.copy()
                sick[90:93] += rng.poisson(3 * np.sqrt(phi * mean), 3)
                seen.append(any(_alerts(sick, range(90, 93), method)))
            row.append(f"{np.mean(quiet):.3f} / {np.mean(seen):.2f}")
        rows.append(row)
    print(f"\nFalse positive rate / detection of 3 standard deviations more for 3 weeks, {series} series of 100 weeks\n")
    print(markdown(["mean", "phi", "EARS C1", "EARS C2", "EARS C3", "CUSUM"], rows))


def _alerts(counts: Counts, weeks: range, method: Method) -> list[bool]:
    if method == "cusum":
        judged = cusum(counts[: weeks.stop], 1.04, 2.26)
        return [bool(one and one.alert) for one in judged[weeks.start :]]
    return [bool((one := ears(counts, week, method, 0.5)) and one.alert) for week in weeks]


def salmonella(series: int) -> None:
    """The point-source series of R surveillance's vignette: a seasonal baseline and a hidden chain that starts and ends outbreaks."""
    p, r, factor = 0.99, 0.5, 1.7
    rng = np.random.default_rng(2007)
    t = np.arange(1, WEEKS + 1)
    sick = np.zeros((series, WEEKS), dtype=bool)
    for week in range(1, WEEKS):
        sick[:, week] = rng.random(series) < np.where(sick[:, week - 1], r, 1 - p)
    counts = rng.poisson(np.exp(np.sin(2 * np.pi * t / 52) + 1 + factor * sick)).astype(np.float64)
    first = WEEKS - 104
    alerts = np.array([[bool(one and one.alert) for one in farrington_of_many(counts, week, RULES)] for week in range(first, WEEKS)]).T
    late = sick[:, first:]
    seen = []
    for i, start in zip(*np.nonzero(late & ~sick[:, first - 1 : -1]), strict=True):
        rest = late[i, start:]
        end = start + (int(np.argmin(rest)) if not rest.all() else len(rest))
        seen.append(bool(alerts[i, start:end].any()))
    print(f"\nSalmonella-like point sources, {series} series, last 104 weeks judged by Farrington flexible\n")
    header = ["quiet weeks", "false positive rate", "outbreaks", "detected", "outbreak weeks that alert"]
    print(
        markdown(header, [[(~late).sum(), f"{alerts[~late].mean():.4f}", len(seen), f"{np.mean(seen):.2f}", f"{alerts[late].mean():.2f}"]])
    )


def prevalence(tables: int) -> None:
    """Coverage of the 95 % interval of corrected prevalence: sensitivity 0.9 of 100 cases, specificity 0.95 of 200 others, both estimated."""
    rng = np.random.default_rng(2014)
    rows = []
    for tested in (50, 200, 1000):
        for true in (0.02, 0.1, 0.3):
            inside = 0
            for _ in range(tables):
                sick = rng.binomial(tested, true)
                positive = rng.binomial(sick, 0.9) + rng.binomial(tested - sick, 0.05)
                accuracy = Accuracy(rng.binomial(100, 0.9) / 100, rng.binomial(200, 0.95) / 200, 100, 200)
                interval = corrected(int(positive), tested, accuracy)
                inside += interval.low <= true <= interval.high
            rows.append([tested, true, f"{inside / tables:.3f}"])
    print(
        f"\nCoverage of the interval of corrected prevalence, {tables:,} tables\n\n{markdown(['tested', 'true prevalence', 'coverage'], rows)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=200)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", choices=["noufaily", "short", "salmonella", "prevalence"])
    options = parser.parse_args()
    print(machine())
    parts = {
        "prevalence": lambda: prevalence(50 * options.series), "short": lambda: short_histories(options.series),
        "salmonella": lambda: salmonella(options.series), "noufaily": lambda: noufaily(options.series, options.processes),
    }  # fmt: skip
    for name, part in parts.items():
        if options.only in (None, name):
            part()


if __name__ == "__main__":
    main()
