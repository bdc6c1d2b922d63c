"""How often `hepdist surveil` cries wolf and how often it sees one: simulated series with outbreaks of known size and onset.

The 28 scenarios of Noufaily et al. (Stat Med 2013, 32:1206): weekly counts, negative binomial with variance phi times the mean, of mean
exp(theta + beta t + gamma1 cos(2 pi t / 52) + gamma2 sin(2 pi t / 52)), 624 weeks, the last 49 judged. Parameters as in the replication
by Telkamp, Christiansen and Moller (github.com/telkamp7/AEDDO), since the paper is not open; outbreaks as described there.

    python benchmarks/surveillance.py [--series 200] [--processes 2] [--only noufaily|short|salmonella|prevalence] [--scenarios 1,2,3]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import machine, markdown
from numpy.typing import NDArray

from hepdist.surveillance.cusum import cusum
from hepdist.surveillance.ears import ears
from hepdist.surveillance.farrington import Rules, farrington
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


def one_series(task: tuple[Scenario, int]) -> tuple[int, int, bool, bool]:
    """Of one series, current weeks without outbreak that alert, and whether the outbreak was seen: with the rule of five reports and without.

    Weeks of the baseline have four outbreaks.
    """
    scenario, number = task
    rng = np.random.default_rng([2013, scenario.number, number])
    mean = scenario.means()
    counts = draw(mean, scenario.phi, rng)
    for size in rng.choice([2, 3, 5, 10], 4):
        counts = counts + outbreak(size, int(rng.choice(BASELINE)), mean, scenario.phi, rng)[0]
    start = int(rng.integers(WEEKS - CURRENT, WEEKS))
    added, end = outbreak(SIZES[number % len(SIZES)], start, mean, scenario.phi, rng)
    quiet = [one for week in range(WEEKS - CURRENT, WEEKS) if (one := above(counts, week))]
    sick = [one for week in range(start, end + 1) if (one := above(counts + added, week))]
    return sum(quiet_week[0] for quiet_week in quiet), len(quiet), any(one[0] for one in sick), bool(sick)


def above(counts: Counts, week: int) -> tuple[bool] | None:
    """Whether a week above its threshold also alerts; None for a week below."""
    judged = farrington(counts, week, RULES)
    return (judged.alert,) if judged is not None and counts[week] > judged.upper else None


def noufaily(series: int, processes: int, only: list[int], results: Path) -> None:
    """Simulates scenarios that RESULTS hasn't yet, a line of JSON each, and prints the tables of all that it has."""
    done = {one["scenario"]: one for one in map(json.loads, results.read_text().splitlines())} if results.exists() else {}
    for scenario in scenarios():
        if scenario.number in done or (only and scenario.number not in only):
            continue
        began = time.perf_counter()
        with ProcessPoolExecutor(processes) as pool:
            found = list(pool.map(one_series, [(scenario, i) for i in range(series)], chunksize=10))
        one = {"scenario": scenario.number, "series": series, "seconds": time.perf_counter() - began}
        for name, alerts, seen in (("with", 0, 2), ("without", 1, 3)):
            one[f"rate_{name}"] = sum(row[alerts] for row in found) / series / CURRENT
            one[f"seen_{name}"] = {
                str(k): float(np.mean([row[seen] for i, row in enumerate(found) if SIZES[i % len(SIZES)] == k])) for k in SIZES
            }
        done[scenario.number] = one
        with results.open("a") as file:
            file.write(json.dumps(one) + "\n")
    rows = []
    for scenario in scenarios():
        if scenario.number in done:
            one = done[scenario.number]
            mean = scenario.means()[-CURRENT:].mean()
            pods = [f"{one['seen_with'][str(k)]:.2f}" for k in REPLICATED]
            season = "yes" if scenario.gamma1 else "no"
            rows.append(
                [scenario.number, scenario.theta, scenario.beta, season, scenario.phi, f"{mean:.1f}", f"{one['rate_with']:.4f}", *pods]
            )
    head = [
        "scenario",
        "theta",
        "beta",
        "season",
        "phi",
        "mean of judged weeks",
        "false positive rate",
        *(f"POD, k = {k}" for k in REPLICATED),
    ]
    seconds = sum(one["seconds"] for one in done.values())
    print(f"\n{series} series a scenario, alpha 0.005, {seconds:.0f} s with {processes} processes\n\n{markdown(head, rows)}")
    summary: list[list[object]] = []
    for name in ("with", "without"):
        rates = [one[f"rate_{name}"] for one in done.values()]
        pods = [f"{np.mean([one[f'seen_{name}'][str(k)] for one in done.values()]):.3f}" for k in REPLICATED]
        summary.append(
            [f"hepdist, {name} the rule of five reports", f"{np.median(rates):.4f}", f"{np.mean(rates):.4f}", f"{max(rates):.4f}", *pods]
        )
    summary.append(["R surveillance, as replicated", "0.000", "0.009", "0.125, of a series", *REPLICATED.values()])
    print(
        "\n"
        + markdown(
            [f"over {len(done)} scenarios", "median FPR", "mean FPR", "largest FPR", *(f"mean POD, k = {k}" for k in REPLICATED)], summary
        )
    )


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
    false, quiet, seen, weeks_seen, weeks_sick = 0, 0, [], 0, 0
    for _ in range(series):
        t = np.arange(1, WEEKS + 1)
        sick = np.zeros(WEEKS, dtype=bool)
        for week in range(1, WEEKS):
            sick[week] = rng.random() < (r if sick[week - 1] else 1 - p)
        counts = rng.poisson(np.exp(np.sin(2 * np.pi * t / 52) + 1 + factor * sick)).astype(np.float64)
        alerts = {week: bool((one := farrington(counts, week, RULES)) and one.alert) for week in range(WEEKS - 104, WEEKS)}
        false += sum(alert for week, alert in alerts.items() if not sick[week])
        quiet += sum(not sick[week] for week in alerts)
        weeks_seen += sum(alert for week, alert in alerts.items() if sick[week])
        weeks_sick += sum(bool(sick[week]) for week in alerts)
        starts = [week for week in alerts if sick[week] and not sick[week - 1]]
        for start in starts:
            end = next((week for week in range(start, WEEKS) if not sick[week]), WEEKS)
            seen.append(any(alerts[week] for week in range(start, end)))
    print(f"\nSalmonella-like point sources, {series} series, last 104 weeks judged by Farrington flexible\n")
    header = ["quiet weeks", "false positive rate", "outbreaks", "detected", "outbreak weeks that alert"]
    print(markdown(header, [[quiet, f"{false / quiet:.4f}", len(seen), f"{np.mean(seen):.2f}", f"{weeks_seen / weeks_sick:.2f}"]]))


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
    parser.add_argument("--scenarios", default="", help="Numbers, such as 1,2,3; empty: all.")
    parser.add_argument(
        "--results", type=Path, default=Path("surveillance-scenarios.jsonl"), help="Scenarios done, so that a long run can be cut."
    )
    parser.add_argument("--only", choices=["noufaily", "short", "salmonella", "prevalence"])
    options = parser.parse_args()
    wanted = [int(number) for number in options.scenarios.split(",") if number]
    print(machine())
    parts = {
        "prevalence": lambda: prevalence(50 * options.series), "short": lambda: short_histories(options.series),
        "salmonella": lambda: salmonella(options.series), "noufaily": lambda: noufaily(options.series, options.processes, wanted, options.results),
    }  # fmt: skip
    for name, part in parts.items():
        if options.only in (None, name):
            part()


if __name__ == "__main__":
    main()
