"""Parallel coordinates: each trial a line through its parameters to its score, coloured by score; drawn as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from hepdist.evaluation.drawing import INK, MUTED, PAPER, figure, styled, svg
from hepdist.search.plots import brief
from hepdist.search.record import Trial
from hepdist.search.standing import FAMILY, best_score, config_now, ranked, short, shown, state, usable

STEPS = 16
TONES = tuple(f"#0b{step:02x}01" for step in range(STEPS))
"""Stand-ins for colours between the page's --cold and --hot, which Matplotlib can't write."""
MOST_AXES = 9
FEWEST_LINES = 3
DECADE = 10.0
"""An axis is logarithmic where its ends are further apart than this factor: learning rates, widths by powers of two."""


@dataclass(frozen=True)
class Axis:
    """One parameter's place for each of its values, from 0 to 1, and the ticks with their labels."""

    title: str
    """Its recipe key."""
    places: dict[str, float]
    ticks: list[tuple[float, str]]


def parallel_plots(trials: Sequence[Trial], metric: str, higher_is_better: bool) -> list[tuple[Markup, str, str]]:
    """(picture, what it is of, caption): what all families share, with the family; then each family's own parameters.

    Failed trials are left out.
    """
    scored = [trial for trial in trials if state(trial) != "failed" and best_score(trial, higher_is_better) is not None]
    families = sorted({trial.family for trial in scored})
    shared = sorted({key for trial in scored for key in config_now(trial) if not key.startswith("model.")})
    groups = [("All families", scored, [FAMILY, *shared])] if len(families) > 1 else []
    for family in families:
        own = [trial for trial in scored if trial.family == family]
        keys = sorted({key for trial in own for key in config_now(trial) if key != FAMILY}, key=lambda k: (not k.startswith("optim.lr"), k))
        groups.append((family, own, keys))
    plots = []
    for number, (name, group, keys) in enumerate(groups):
        axes = [axis for key in keys if (axis := axis_of(key, group)) is not None]
        without = f"Without {', '.join(axis.title for axis in axes[MOST_AXES:])}, for want of room." if len(axes) > MOST_AXES else ""
        if len(group) >= FEWEST_LINES and axes:
            plots.append((_plot(group, axes[:MOST_AXES], metric, higher_is_better, number), name, without))
    return plots


def axis_of(key: str, trials: Sequence[Trial]) -> Axis | None:
    """The axis of a parameter, None where all trials have the same value."""
    values = {_text(config_now(trial)[key]): config_now(trial)[key] for trial in trials if key in config_now(trial)}
    if len(values) < 2:
        return None
    if all(usable(value) for value in values.values()):
        low, high = float(min(values.values())), float(max(values.values()))
        log = low > 0 and high / low >= DECADE

        def place(value: float) -> float:
            return math.log(value / low) / math.log(high / low) if log else (value - low) / (high - low)

        middle = math.sqrt(low * high) if log else (low + high) / 2
        whole = all(float(value).is_integer() for value in values.values())
        marks = sorted(float(v) for v in values.values()) if whole and len(values) <= 6 else [low, middle, high]
        ticks = [(place(mark), brief(mark)) for mark in marks]
        return Axis(key, {text: place(float(value)) for text, value in values.items()}, ticks)
    names = sorted(values, key=lambda text: shown(values[text]))
    places = {text: index / (len(names) - 1) for index, text in enumerate(names)}
    return Axis(key, places, [(places[text], shown(values[text])[:18]) for text in names])


@styled
def _plot(trials: Sequence[Trial], axes: Sequence[Axis], metric: str, higher_is_better: bool, number: int) -> Markup:
    made, (panel,) = figure(9.6, 3.0)
    panel.set_axis_off()
    scores = {trial.id: float(best_score(trial, higher_is_better) or 0.0) for trial in trials}
    low, high = min(scores.values()), max(scores.values())
    last = len(axes)
    order = ranked(trials, higher_is_better)[::-1]
    for rank, trial in enumerate(order):  # the best ones on top
        config = config_now(trial)
        points = [(index, axis.places[_text(config[axis.title])]) for index, axis in enumerate(axes) if axis.title in config]
        score = (scores[trial.id] - low) / (high - low) if high > low else 1.0
        points.append((last, score))
        tone = TONES[round(rank / max(1, len(order) - 1) * (STEPS - 1))]
        best = rank == len(order) - 1
        panel.plot(*zip(*points, strict=True), color=tone, linewidth=2.6 if best else 1.3, alpha=1 if best else 0.8)
    score_ticks = [(0.0, f"{low:.3f}"), (1.0, f"{high:.3f}")] if high > low else [(1.0, f"{high:.3f}")]
    for index, (title, ticks) in enumerate([*((short(axis.title), axis.ticks) for axis in axes), (metric, score_ticks)]):
        panel.plot([index, index], [0, 1], color=MUTED, linewidth=1.1, zorder=3)
        panel.text(index, 1.1, title, ha="center", va="bottom", fontsize=9, color=INK, fontweight="bold")
        for place, label in ticks:
            box = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.82, "pad": 0.8}
            panel.text(index + 0.03, place, label, ha="left", va="center", fontsize=8, color=INK, zorder=4, bbox=box)
    panel.set(xlim=(-0.15, last + 0.35), ylim=(-0.08, 1.22))
    drawn = svg(
        made, f"parallel{number}", f"Parallel coordinates of {len(trials)} trials: " + ", ".join([*(axis.title for axis in axes), metric])
    )
    for step, tone in enumerate(TONES):
        drawn = Markup(drawn.replace(tone, f"color-mix(in srgb, var(--hot) {100 * step / (STEPS - 1):.0f}%, var(--cold))"))
    return drawn


def _text(value: Any) -> str:
    return repr(value)
