"""Plots of a restoration model over its images: quality after against before, by degradation, as inline SVG."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from hepdist.evaluation.drawing import MUTED, figure, series_colour, styled, svg

Floats = NDArray[np.float64]


@styled
def before_and_after_plot(before: Floats, after: Floats, kinds: tuple[str, ...], measure: str) -> Markup:
    """A point an image and degradation: `measure` of the degraded one [n, kinds] against that of the restored one; equal on the line."""
    made, (axes,) = figure(4.6, 3.9)
    axes.axline((before[0, 0], before[0, 0]), slope=1, color=MUTED, linewidth=1, linestyle=(0, (4, 4)))
    for k, kind in enumerate(kinds):
        axes.plot(before[:, k], after[:, k], "o", color=series_colour(k), alpha=0.45, markersize=3.5, markeredgewidth=0, label=kind)
    axes.set(xlabel=f"{measure}, degraded", ylabel=f"{measure}, restored")
    axes.legend(loc="lower right")
    return svg(made, measure.split()[0].lower(), f"{measure} of every image, degraded and restored, by degradation")
