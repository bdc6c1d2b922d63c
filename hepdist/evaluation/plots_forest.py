"""Forest plots: a value and its interval in each line, beside a line that stands for no difference; as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from hepdist.evaluation.drawing import INK, LINE, MUTED, SERIES, figure, styled, svg


@dataclass(frozen=True)
class ForestLine:
    label: str
    value: float
    low: float
    high: float
    """nan: no interval."""
    note: str = ""
    """Beside the line, at the right."""
    heading: bool = False
    """A label alone, over the lines that follow."""
    strong: bool = False
    """Drawn in the colour of what stands out."""


@styled
def forest_plot(lines: Sequence[ForestLine], name: str, axis: str, reference: float, description: str, width: float = 9.8) -> Markup:
    """The lines from top to bottom. name: of the svg in its page; reference: where the upright line stands, such as the score of all."""
    made, (axes,) = figure(width, 0.7 + 0.27 * len(lines))
    axes.axvline(reference, color=MUTED, linewidth=1, linestyle=(0, (4, 4)))
    for place, line in enumerate(lines):
        if line.heading or not np.isfinite(line.value):
            continue
        colour = SERIES[1] if line.strong else SERIES[0]
        if np.isfinite(line.low):
            axes.hlines(place, line.low, line.high, color=colour, linewidth=2.2, alpha=0.7)
        axes.plot(line.value, place, "o", color=colour, markersize=5.5)
    for place, line in enumerate(lines):
        axes.annotate(
            line.note, (1.015, place), xycoords=("axes fraction", "data"), va="center", fontsize=8.5, color=INK if line.strong else MUTED
        )
    axes.set_yticks(range(len(lines)), [line.label for line in lines])
    for label, line in zip(axes.get_yticklabels(), lines, strict=True):
        label.set_color(INK)
        label.set_fontweight("bold" if line.heading else "normal")
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_xlabel(axis)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", length=3, color=LINE)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    return svg(made, name, description)
