"""Plots of a segmenter over its cases: overlap and surface distance by class, and agreement of volumes, as inline SVG."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from numpy.typing import NDArray

from hepdist.evaluation.drawing import INK, LINE, MUTED, PAPER, figure, series_colour, styled, svg

Floats = NDArray[np.float64]


@styled
def overlap_plot(overlap: Floats, classes: tuple[str, ...], title: str, name: str) -> Markup:
    """Every case's Dice or surface Dice [n, C] as a point beside the box of its class; nan (both empty) is left out. name: of the svg."""
    made, (axes,) = figure(4.4, 3.9)
    _strips(axes, [column[~np.isnan(column)] for column in overlap.T], classes)
    low = float(np.nanmin(overlap)) if np.isfinite(overlap).any() else 0.0
    axes.set(ylabel=title, ylim=(max(-0.02, min(0.5, low - 0.05)), 1.01))
    return svg(made, name, f"{title} of every case by class")


@styled
def distance_plot(hd95: Floats, classes: tuple[str, ...]) -> Markup:
    """Every case's finite HD95 [n, C] in millimetres beside the box of its class."""
    made, (axes,) = figure(4.4, 3.9)
    _strips(axes, [column[np.isfinite(column)] for column in hd95.T], classes)
    axes.set_ylabel("HD95 (mm)")
    axes.set_ylim(bottom=0)
    return svg(made, "hd95", "95th percentile surface distance of every case by class, in millimetres")


@styled
def bland_altman_plot(volume_ml: Floats, true_volume_ml: Floats, classes: tuple[str, ...]) -> Markup:
    """Predicted minus true volume over their mean, a panel a class, with bias and limits of agreement (Bland & Altman, 1986)."""
    columns = min(len(classes), 3)
    rows = -(-len(classes) // columns)
    made, axes = figure(4.6 if columns == 1 else 9.8, 3.3 * rows, rows=rows, columns=columns)
    for k, (panel, name) in enumerate(zip(axes, classes, strict=False)):
        known = ~(np.isnan(volume_ml[:, k]) | np.isnan(true_volume_ml[:, k]))
        predicted, truth = volume_ml[known, k], true_volume_ml[known, k]
        panel.set_title(name)
        panel.set(xlabel="mean of both volumes (ml)", ylabel="predicted − true (ml)" if k % columns == 0 else "")
        if not len(truth):
            continue
        difference = predicted - truth
        panel.plot((predicted + truth) / 2, difference, "o", color=series_colour(k), alpha=0.65, markersize=5, markeredgewidth=0)
        bias, spread = difference.mean(), 1.96 * difference.std(ddof=1) if len(difference) > 1 else 0.0
        panel.axhline(0, color=LINE, linewidth=1)
        panel.axhline(bias, color=INK, linewidth=1.4)
        for limit in (bias - spread, bias + spread):
            panel.axhline(limit, color=MUTED, linewidth=1, linestyle=(0, (4, 4)))
        for value, text in ((bias, "bias"), (bias - spread, "−1.96 SD"), (bias + spread, "+1.96 SD")):
            label = f"{text}\n{value:+.2g}".replace("-", "−")
            panel.annotate(label, (1.02, value), xycoords=("axes fraction", "data"), va="center", fontsize=8.5, annotation_clip=False)
        panel.margins(y=0.18)
    for panel in axes[len(classes) :]:
        panel.set_visible(False)
    return svg(made, "volumes", "Bland-Altman plots of predicted and true volume by class")


def _strips(axes: Axes, columns: list[Floats], classes: tuple[str, ...]) -> None:
    """A box and its points for each class; points are spread by their rank, so that the same data give the same picture."""
    for k, values in enumerate(columns):
        if not len(values):
            continue
        axes.boxplot(
            values, positions=[k], widths=0.46, showfliers=False, patch_artist=True, boxprops={"facecolor": PAPER, "edgecolor": MUTED},
            medianprops={"color": INK, "linewidth": 1.8}, whiskerprops={"color": MUTED}, capprops={"color": MUTED},
        )  # fmt: skip
        spread = ((np.arange(len(values)) * 0.618034) % 1 - 0.5) * 0.36  # golden ratio: neighbours in rank lie apart
        place = np.empty(len(values))
        place[np.argsort(values, kind="stable")] = spread
        axes.plot(k + place, values, "o", color=series_colour(k), alpha=0.65, markersize=4.5, markeredgewidth=0, zorder=3)
    axes.set_xlim(-0.6, len(classes) - 0.4)
    axes.set_xticks(range(len(classes)), [f"{name}\n(n = {len(values)})" for name, values in zip(classes, columns, strict=True)])
    axes.grid(axis="x", visible=False)
    axes.tick_params(axis="x", length=0, labelcolor=INK)
