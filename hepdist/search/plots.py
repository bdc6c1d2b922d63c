"""Plots of a search as inline SVG: quality over what was spent, learning curves, trade-offs, which parameters matter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from hepdist.evaluation.drawing import INK, LINE, MUTED, PAPER, SERIES, figure, series_colour, styled, svg
from hepdist.search.importance import Importances
from hepdist.search.record import Trial
from hepdist.search.standing import best_score, objective, state, usable

MOST_PARAMETERS = 12
"""Bars of one importance plot; what comes after them is noise in any search that a person pays for."""
RING: dict[str, Any] = {"markerfacecolor": PAPER, "markeredgecolor": INK, "markeredgewidth": 1.6, "linestyle": "none"}


@styled
def spending_plot(trials: Sequence[Trial], metric: str, higher_is_better: bool) -> Markup:
    """Best score so far over device-hours: of each family over what that family has cost, of all over what all have."""
    made, (axes,) = figure(4.6, 3.4)
    families = families_of(trials)
    groups = [(family, [t for t in trials if t.family == family], series_colour(index)) for index, family in enumerate(families)]
    if len(families) > 1:
        groups.insert(0, ("all", list(trials), INK))
    drawn: list[list[float]] = []
    for name, group, colour in groups:
        x, y = best_so_far(group, higher_is_better)
        if x:
            drawn.append(y)
            alone = name == "all"
            axes.plot(
                x,
                y,
                color=colour,
                label=name or "search",
                drawstyle="steps-post",
                linewidth=1.2 if alone else 1.9,
                linestyle=(0, (4, 3)) if alone else "-",
            )
    axes.set(xlabel="device-hours spent", ylabel=f"best validation {metric}")
    axes.set_xlim(left=0)
    if drawn:
        _hide_bad_start(axes, drawn, higher_is_better)
        axes.legend(loc="lower right" if higher_is_better else "upper right")
    return svg(made, "spending", f"Best validation {metric} so far over device-hours, by family")


def best_so_far(trials: Sequence[Trial], higher_is_better: bool) -> tuple[list[float], list[float]]:
    """Device-hours that `trials` had cost at each of their improvements, and the score; the last point is where they are now."""
    spent: dict[str, float] = {}
    x: list[float] = []
    y: list[float] = []
    events = sorted((event for trial in trials for event in trial.events), key=lambda event: event.time)
    for event in events:
        spent[event.trial] = max(spent.get(event.trial, 0.0), event.device_s)
        score = event.facts.get("score") if event.kind == "result" else None
        if usable(score) and (not y or (score > y[-1] if higher_is_better else score < y[-1])):  # type: ignore[operator]
            x.append(sum(spent.values()) / 3600)
            y.append(float(score))  # type: ignore[arg-type]
    if x:
        x.append(sum(spent.values()) / 3600)
        y.append(y[-1])
    return x, y


@styled
def curves_plot(trials: Sequence[Trial], metric: str, higher_is_better: bool, best: Trial | None) -> Markup:
    """Validation score over epochs, a line a trial coloured by family; stopped and failed ones fade, the best one's best epoch is ringed."""
    made, (axes,) = figure(4.6, 3.4)
    shown = []
    for index, family in enumerate(families_of(trials)):
        axes.plot([], [], color=series_colour(index), label=family or "search")
        for trial in (t for t in trials if t.family == family):
            points = [(e.facts["epoch"], e.facts["score"]) for e in trial.results if usable(e.facts["score"])]
            if not points:
                continue
            x, y = [list(values) for values in zip(*points, strict=True)]
            faded = state(trial) in ("stopped", "failed")
            mark, alpha = "-o" if len(x) == 1 else "-", 0.35 if faded else 0.95
            axes.plot(x, y, mark, markersize=3, color=series_colour(index), alpha=alpha, linewidth=1 if faded else 1.6)
            shown.append(y)
    if best is not None and (at := best.best(higher_is_better)) is not None and usable(at.facts["score"]):
        axes.plot(at.facts["epoch"], at.facts["score"], "o", markersize=8, **RING)
    axes.set(xlabel="epoch", ylabel=f"validation {metric}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if shown:
        _hide_bad_start(axes, shown, higher_is_better)
        axes.legend(loc="lower right" if higher_is_better else "upper right")
    return svg(made, "curves", f"Validation {metric} of every trial over epochs")


@styled
def importance_plot(found: Importances, number: int) -> Markup:
    """Bars with whiskers, the most important on top. number: of the plot in the page."""
    rows = (found.rows or ())[:MOST_PARAMETERS]
    made, (axes,) = figure(4.6, 0.7 + 0.27 * len(rows))
    places = list(range(len(rows)))
    colours = [SERIES[0] if row.low > 0 else SERIES[7] for row in rows]
    axes.barh(places, [max(row.value, 0.0) for row in rows], color=colours, alpha=0.75, height=0.62, linewidth=0)
    axes.hlines(places, [row.low for row in rows], [row.high for row in rows], color=INK, linewidth=1.1)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set_yticks(places, [row.key for row in rows])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.set_xlim(min(-0.05, *(max(row.low, -0.5) for row in rows)), max(0.2, *(min(row.high, 2.0) for row in rows)) * 1.04)
    axes.set_xlabel("error added, as a share of the variance")
    return svg(made, f"importance{number}", "Importance of " + ", ".join(f"{row.key} {row.value:.2f}" for row in rows))


@styled
def tradeoff_plot(trials: Sequence[Trial], front: Sequence[Trial], cost: str, metric: str, higher_is_better: bool) -> Markup:
    """Best score over one cost of a model, a point a trial; the trials of the front are ringed and named. cost: 'parameters' or 'seconds'."""
    made, (axes,) = figure(4.6, 3.4)
    spots = {trial.id: (objective(trial, cost, higher_is_better), best_score(trial, higher_is_better)) for trial in trials}
    for index, family in enumerate(families_of(trials)):
        points = [spots[t.id] for t in trials if t.family == family and None not in spots[t.id]]
        if points:
            axes.plot(*zip(*points, strict=True), "o", color=series_colour(index), markersize=5, alpha=0.75, label=family)
    for trial in front:
        x, y = (float(value or 0.0) for value in spots[trial.id])
        axes.plot([x], [y], "o", markersize=9, **(RING | {"markerfacecolor": "none"}))
        axes.annotate(trial.id, (x, y), xytext=(5, 5), textcoords="offset points", fontsize=7.5, color=MUTED)
    costs = [x for x, _ in spots.values() if x is not None]
    if costs and min(costs) > 0 and max(costs) / min(costs) > 10:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: brief(value)))
    unit = {"parameters": "parameters", "seconds": "seconds an image"}.get(cost, cost)
    axes.set(xlabel=unit, ylabel=f"best validation {metric}")
    axes.legend(loc="best")
    return svg(made, f"tradeoff-{cost}", f"Best validation {metric} over {unit}, a point a trial")


def families_of(trials: Sequence[Trial]) -> list[str]:
    """In alphabetical order, which gives each the same colour in every plot of a page."""
    return sorted({trial.family for trial in trials})


def brief(value: float) -> str:
    """1200000 as '1.2M', 0.0031 as '0.0031'."""
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{sign}"
    return f"{value:.3g}"


def _hide_bad_start(axes: Axes, curves: Sequence[Sequence[float]], higher_is_better: bool) -> None:
    """Cut the axis where a tenth of the scores are worse: one diverged trial would press all others into a line."""
    values = sorted((v for curve in curves for v in curve), reverse=higher_is_better)
    best, worst = values[0], values[math.ceil(0.9 * len(values)) - 1]
    if best == worst or abs(values[-1] - best) <= 1.6 * abs(worst - best):
        return
    room = 0.08 * abs(best - worst)
    if higher_is_better:
        axes.set_ylim(worst - room, best + room)
    else:
        axes.set_ylim(best - room, worst + room)
    axes.spines["bottom"].set_color(LINE)
