"""How plots look: Matplotlib figures turned into inline SVG that takes its colours and fonts from the page (light, dark, print)."""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Stand-ins that no plot would use otherwise: Matplotlib can't write var(--ink), so they are replaced in its SVG.
INK, MUTED, LINE, PAPER = "#010101", "#020202", "#030303", "#040404"
SERIES = ("#0a0001", "#0a0002", "#0a0003", "#0a0004", "#0a0005", "#0a0006", "#0a0007", "#0a0008")
NEGATIVE = SERIES[7]
"""The negative class of two, grey: the positive one has the first colour."""
_PAGE_COLOURS = {INK: "--ink", MUTED: "--muted", LINE: "--line", PAPER: "--paper"} | {c: f"--s{i}" for i, c in enumerate(SERIES, 1)}

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "hepdist", "text.parse_math": False, "font.size": 10, "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.edgecolor": LINE, "axes.labelcolor": MUTED, "axes.titlecolor": INK, "text.color": INK,
    "xtick.color": LINE, "ytick.color": LINE, "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED, "axes.grid": True, "grid.color": LINE,
    "grid.linewidth": 0.6, "axes.spines.top": False, "axes.spines.right": False, "axes.facecolor": "none", "figure.facecolor": "none",
    "legend.frameon": False, "legend.fontsize": 9, "lines.linewidth": 1.8, "axes.axisbelow": True, "axes.unicode_minus": True,
}  # fmt: skip

styled = matplotlib.rc_context(_STYLE)
"""Decorator of a function that draws: the style holds inside it and nothing global changes."""


def series_colour(index: int) -> str:
    return SERIES[index % len(SERIES)]


def figure(width: float = 4.6, height: float = 3.6, rows: int = 1, columns: int = 1, **grid: Any) -> tuple[Figure, list[Axes]]:
    """A figure of `width` x `height` inches with its axes in reading order; it belongs to no global state and needs no closing."""
    made = Figure(figsize=(width, height), layout="constrained")
    axes = made.subplots(rows, columns, squeeze=False, **grid)
    return made, list(axes.ravel())


def svg(made: Figure, name: str, description: str) -> Markup:
    """The figure as an inline <svg> for HTML. name: unique in the page, prefixed to every id; description: read to those who can't see."""
    buffer = io.StringIO()
    made.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)  # would hold for the whole page
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    for colour, variable in _PAGE_COLOURS.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
    text = re.sub(r"font: (?:bold|[6-9]00) ([\d.]+px)[^;\"]*", r"font-weight: 600; font-size: \1", text)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{name}-\1"', text)
    box = re.search(r'viewBox="([^"]+)"', text)
    assert box is not None, "Matplotlib writes a viewBox"
    head = f'<svg class="plot" viewBox="{box[1]}" role="img" aria-label="{escape(description)}">'
    return Markup(head + text[text.index(">") + 1 :].strip())
