"""Learning curves from metrics.jsonl: losses, validation scores, learning rate and throughput, as inline SVG."""

from __future__ import annotations

from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from hepdist.evaluation.drawing import INK, PAPER, SERIES, figure, series_colour, styled, svg

Reports = list[dict[str, Any]]


@styled
def loss_plot(reports: Reports) -> Markup:
    """Training loss (each report, and smoothed) and validation loss over epochs."""
    made, (axes,) = figure(4.6, 3.2)
    x, y = series(reports, "loss")
    if len(x):
        axes.plot(x, y, color=SERIES[0], alpha=0.3, linewidth=1)
        axes.plot(x, smooth(y), color=SERIES[0], label="train")
    x, y = series(reports, "val_loss")
    if len(x):
        axes.plot(x, y, "o-", color=SERIES[1], markersize=3.5, label="validation")
    axes.set(xlabel="epoch", ylabel="loss")
    axes.legend(loc="upper right")
    return svg(made, "loss", "Training and validation loss over epochs")


@styled
def score_plot(reports: Reports, select: str) -> Markup:
    """Every scalar validation score over epochs (those between 0 and 1 on the left), the best of `select` marked."""
    made, (axes,) = figure(4.6, 3.2)
    names = sorted(
        {key for report in reports for key in report if key.startswith("val_")} - {"val_loss"}, key=lambda n: (n != f"val_{select}", n)
    )
    shares = [name for name in names if _is_share(series(reports, name)[1])][:4]
    for index, name in enumerate(shares or names[:1]):
        x, y = series(reports, name)
        chosen = name == f"val_{select}"
        axes.plot(
            x, y, color=series_colour(index), linewidth=2 if chosen else 1.2, alpha=1 if chosen else 0.75, label=name.removeprefix("val_")
        )
        if chosen:
            best = int(np.argmax(y))
            axes.plot(x[best], y[best], "o", markersize=8, markerfacecolor=PAPER, markeredgecolor=INK, markeredgewidth=1.6)
    axes.set(xlabel="epoch", ylabel="validation score")
    if shares:
        axes.legend(loc="lower right", ncols=2)
    return svg(made, "score", f"Validation scores over epochs; the best {select} is marked")


@styled
def rate_plot(reports: Reports) -> Markup:
    """Learning rate over epochs."""
    made, (axes,) = figure(4.6, 2.6)
    axes.plot(*series(reports, "lr"), color=SERIES[2])
    axes.set(xlabel="epoch", ylabel="learning rate")
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    return svg(made, "rate", "Learning rate over epochs")


@styled
def throughput_plot(reports: Reports) -> Markup:
    """Samples a second, and the share of time spent waiting for data."""
    made, (axes, below) = figure(4.6, 2.6, rows=2, sharex=True, height_ratios=(3, 2))
    axes.plot(*series(reports, "samples_per_s"), color=SERIES[0])
    axes.set(ylabel="samples/s")
    axes.set_ylim(bottom=0)
    x, y = series(reports, "data_wait_share")
    below.fill_between(x, 100 * y, color=SERIES[3], alpha=0.5, linewidth=0)
    below.set(xlabel="epoch", ylabel="wait (%)", ylim=(0, max(5.0, 110 * float(y.max(initial=0)))))
    return svg(made, "throughput", "Samples a second and share of time spent waiting for data, over epochs")


def series(reports: Reports, key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Epochs and values of the reports that hold a finite number under `key`."""
    pairs = [(r["epoch"], r[key]) for r in reports if isinstance(r.get(key), (int, float)) and np.isfinite(r[key])]
    both = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def smooth(values: NDArray[np.float64], window: int = 0) -> NDArray[np.float64]:
    """Centred moving average that shortens at the ends; by default over a twentieth of the reports."""
    half = max((window or len(values) // 20) // 2, 1)
    total = np.r_[0.0, values.cumsum()]
    centre = np.arange(len(values))
    low, high = np.maximum(centre - half, 0), np.minimum(centre + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def _is_share(values: NDArray[np.float64]) -> bool:
    return len(values) > 0 and bool(((values >= 0) & (values <= 1)).all())
