"""Plots of a classifier: ROC, precision-recall, reliability, net benefit and abstention, each as inline SVG; the numbers come from curves.py."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from numpy.typing import NDArray

from hepdist.evaluation.curves import GRID, INNER, Curve, Reliability
from hepdist.evaluation.drawing import INK, LINE, MUTED, NEGATIVE, PAPER, SERIES, figure, series_colour, styled, svg

MOST_BANDS = 2
"""Curves of one plot whose bands can be told apart."""


@styled
def roc_plot(curves: dict[str, Curve], labels: dict[str, str], point: tuple[float, float] | None) -> Markup:
    """ROC of each class in `curves`. labels: legend by class; point: (1 - specificity, sensitivity) at the decision threshold."""
    made, (axes,) = figure(4.4, 4.2)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 4)))
    for index, (name, curve) in enumerate(curves.items()):
        if len(curves) <= MOST_BANDS:
            axes.fill_between(GRID, curve.low, curve.high, color=series_colour(index), alpha=0.16, linewidth=0)
        axes.plot(curve.x, curve.y, color=series_colour(index), label=labels[name])
    if point is not None:
        axes.plot(*point, "o", markersize=8, markerfacecolor=PAPER, markeredgecolor=INK, markeredgewidth=1.6, label="at the threshold")
    _unit_square(axes, "1 − specificity", "sensitivity")
    axes.legend(loc="lower right")
    return svg(made, "roc", "ROC curve with its 95 % band: " + "; ".join(labels.values()))


@styled
def precision_recall_plot(
    curves: dict[str, Curve], labels: dict[str, str], prevalence: dict[str, float], point: tuple[float, float] | None
) -> Markup:
    """Precision over recall of each class; the dashed line is the class's prevalence, what guessing gives. point: (recall, precision)."""
    made, (axes,) = figure(4.4, 4.2)
    for index, (name, curve) in enumerate(curves.items()):
        colour = series_colour(index)
        axes.axhline(prevalence[name], color=colour if len(curves) > 1 else MUTED, linewidth=1, linestyle=(0, (4, 4)), alpha=0.7)
        if len(curves) <= MOST_BANDS:
            axes.fill_between(GRID, curve.low, curve.high, color=colour, alpha=0.16, linewidth=0)
        axes.plot(curve.x, curve.y, color=colour, label=labels[name], drawstyle="steps-pre")
    if point is not None:
        axes.plot(*point, "o", markersize=8, markerfacecolor=PAPER, markeredgecolor=INK, markeredgewidth=1.6, label="at the threshold")
    _unit_square(axes, "recall (sensitivity)", "precision (PPV)")
    axes.legend(loc="lower left")
    return svg(made, "pr", "Precision-recall curve with its 95 % band: " + "; ".join(labels.values()))


@styled
def reliability_plot(curve: Reliability, stated: str, scaled: Reliability | None = None) -> Markup:
    """Observed over stated frequency with intervals, and below how many rows each bin holds. stated: what is stated, for the axis; scaled: the
    same after temperature scaling."""
    made, (axes, below) = figure(4.4, 4.2, rows=2, sharex=True, height_ratios=(4, 1))
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 4)))
    axes.vlines(curve.stated, curve.low, curve.high, color=SERIES[0], alpha=0.55, linewidth=2)
    axes.plot(curve.stated, curve.observed, "o-", color=SERIES[0], markersize=5, label="as predicted")
    if scaled is not None:
        axes.vlines(scaled.stated, scaled.low, scaled.high, color=SERIES[1], alpha=0.55, linewidth=2)
        axes.plot(scaled.stated, scaled.observed, "s--", color=SERIES[1], markersize=5, label="after temperature scaling")
        axes.legend(loc="upper left")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), ylabel="observed frequency")
    edges = np.linspace(0, 1, len(curve.counts) + 1)
    below.bar(edges[:-1], curve.counts, width=np.diff(edges) * 0.92, align="edge", color=SERIES[0], alpha=0.6, linewidth=0)
    below.set(xlabel=stated, ylabel="rows")
    below.grid(axis="x", visible=False)
    below.locator_params(axis="y", nbins=3, integer=True)
    return svg(made, "reliability", "Reliability curve: observed frequency over stated probability, with the number of rows in each bin")


@styled
def probability_plot(label: NDArray[np.int64], positive: NDArray[np.float64], names: tuple[str, ...], threshold: float) -> Markup:
    """Histogram of the positive class's probability by true class, on both sides of the threshold."""
    made, axes = figure(4.4, 4.2, rows=2, sharex=True, sharey=False)
    for k, panel in enumerate(axes):
        panel.hist(positive[label == k], bins=20, range=(0, 1), color=(NEGATIVE, SERIES[0])[k], alpha=0.75, linewidth=0.8, edgecolor=PAPER)
        panel.axvline(threshold, color=INK, linewidth=1.2)
        panel.set_title(f"truth: {names[k]}", color=INK)
        panel.set(xlim=(0, 1), ylabel="rows")
        panel.grid(axis="x", visible=False)
        panel.locator_params(axis="y", nbins=4, integer=True)
    axes[-1].set_xlabel(f"predicted probability of {names[1]} (line: threshold)")
    return svg(made, "probability", f"Histogram of the predicted probability of {names[1]} for each true class")


@styled
def decision_plot(curves: dict[str, Curve], treat_all: NDArray[np.float64], prevalence: float, positive: str) -> Markup:
    """Net benefit over the probability from which one would act, beside acting on all and on none; positive: the class acted on."""
    made, (axes,) = figure(4.4, 4.2)
    for index, (name, curve) in enumerate(curves.items()):
        if index == 0:
            axes.fill_between(curve.x, curve.low, curve.high, color=series_colour(index), alpha=0.16, linewidth=0)
        axes.plot(curve.x, curve.y, color=series_colour(index), label=name, linestyle="-" if index == 0 else "--")
    axes.plot(INNER, treat_all, color=NEGATIVE, linewidth=1.4, label="act on all")
    axes.axhline(0, color=INK, linewidth=1.2, label="act on none")
    axes.set(
        xlim=(0, 1),
        ylim=(-0.25 * prevalence, 1.1 * prevalence),
        xlabel=f"probability of {positive} from which one would act",
        ylabel="net benefit",
    )
    axes.tick_params(length=3, color=LINE)
    axes.legend(loc="best")
    return svg(made, "decision", "Decision curve: net benefit of the model, of acting on all and of acting on none")


@styled
def abstention_plot(curve: Curve) -> Markup:
    """Share of wrong decisions among the cases that the model is surest of, over the share that it decides."""
    made, (axes,) = figure(4.4, 4.2)
    axes.fill_between(curve.x, curve.low, curve.high, color=SERIES[0], alpha=0.16, linewidth=0)
    axes.plot(curve.x, curve.y, color=SERIES[0])
    axes.axhline(curve.y[-1], color=MUTED, linewidth=1, linestyle=(0, (4, 4)))
    axes.set(
        xlim=(0, 1.01), ylim=(0, max(0.02, 1.15 * float(np.nanmax(curve.high[4:])))), xlabel="share of cases decided, the surest first"
    )
    axes.set_ylabel("share decided wrongly")
    axes.tick_params(length=3, color=LINE)
    return svg(made, "abstention", "Share of wrong decisions over the share of cases decided, the surest first")


def _unit_square(axes: Axes, x: str, y: str) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=x, ylabel=y, aspect="equal")
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.tick_params(length=3, color=LINE)
