"""One plot a series: counts, what was expected, the threshold, alerts; only numbers that the alerts table shows are drawn."""

from __future__ import annotations

import matplotlib.dates as dates
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from hepdist.evaluation.drawing import INK, LINE, MUTED, SERIES, figure, styled, svg
from hepdist.surveillance.alerts import NOT_OVER

BARS, EXPECTED, UPPER, ALERT = SERIES[0], MUTED, SERIES[1], SERIES[1]


@styled
def series_plot(rows: pd.DataFrame, name: str, small_cell: int, *, wide: bool = False) -> Markup:
    """rows: of one series, in order of weeks. name: unique in the page."""
    made, (axes,) = figure(9.6 if wide else 4.7, 2.9 if wide else 2.5)
    days = dates.date2num(pd.to_datetime(rows["monday"])) + 3.5  # the middle of the week
    observed, expected, upper = (rows[column].to_numpy(dtype=float, na_value=np.nan) for column in ("observed", "expected", "upper"))
    alert = rows["alert"].fillna(False).to_numpy(dtype=bool)
    hidden = (rows["hidden"] != "").to_numpy(dtype=bool)
    unfinished = (rows["note"] == NOT_OVER).to_numpy(dtype=bool)

    whole = np.where(unfinished, np.nan, observed)
    axes.bar(days, np.nan_to_num(whole), width=5.6, color=BARS, linewidth=0)
    if unfinished.any():
        axes.bar(days[unfinished], np.nan_to_num(observed[unfinished]), width=5.6, fill=False, edgecolor=BARS, linewidth=1)
    if hidden.any():  # the same box for all: its height tells nothing
        axes.bar(days[hidden], small_cell - 1, width=5.6, color=LINE, linewidth=0)
    axes.plot(days, expected, color=EXPECTED, linewidth=1.3)
    axes.plot(days, upper, color=UPPER, linewidth=1.3, linestyle=(0, (4, 2)))
    top = np.nanmax(np.concatenate([observed, upper, [small_cell, 4.0]])) * 1.16
    height = np.where(hidden, small_cell - 1, np.nan_to_num(observed))
    axes.plot(days[alert], height[alert] + top * 0.045, linestyle="none", marker="v", markersize=6, color=ALERT, markeredgewidth=0)
    axes.set_ylim(0, top)
    _time(axes, days)
    shown = f"{int(alert.sum())} alerts, {int(hidden.sum())} weeks hidden"
    return svg(made, name, f"Weekly counts of {rows['site'].iloc[0]} with expected counts and threshold: {shown}")


def _time(axes: Axes, days: np.ndarray) -> None:
    locator = dates.AutoDateLocator(minticks=3, maxticks=8)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator, show_offset=False))
    axes.set_xlim(days.min() - 4, days.max() + 4)
    axes.grid(False, axis="x")
    axes.tick_params(colors=LINE, labelcolor=MUTED)
    axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.title.set_color(INK)
