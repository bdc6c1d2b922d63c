"""One dimension of a search: the values that a recipe key may take, how they are drawn, cut into a grid and written for people."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from hepdist.models.specs import Choice, Range

DIGITS = 4
"""Significant digits of drawn numbers, so that a configuration can be read."""


@dataclass(frozen=True)
class Dimension:
    """Something that a search varies; it exists in a trial of `family`, or in all where that is empty."""

    key: str
    """Of the recipe, such as 'optim.lr' or 'model.depth'."""
    values: Choice | Range
    """Options are plain JSON values: lists, not tuples."""
    family: str = ""

    @property
    def name(self) -> str:
        """Unique in a space, as `search.space` writes it: 'densenet.growth' for the key 'model.growth' of DenseNets, else the key."""
        return self.family + self.key.removeprefix("model") if self.family else self.key


def plain(value: Any) -> Any:
    """Tuples as lists, also inside."""
    return [plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def is_whole(values: Choice | Range) -> bool:
    """Whether a range is one of whole numbers."""
    return isinstance(values, Range) and isinstance(values.low, int) and isinstance(values.high, int)


def count(values: Choice | Range) -> float:
    """How many different values there are; inf for a range of real numbers."""
    if isinstance(values, Choice):
        return len(values.options)
    return int(values.high) - int(values.low) + 1 if is_whole(values) else math.inf


def draw(values: Choice | Range, rng: np.random.Generator) -> Any:
    """One value, all as likely (in the logarithm where the range says so)."""
    if isinstance(values, Choice):
        return values.options[int(rng.integers(len(values.options)))]
    if is_whole(values):
        if not values.log:
            return int(rng.integers(int(values.low), int(values.high) + 1))
        # each whole number has its share of the logarithmic axis, from half below to half above it
        place = math.exp(rng.uniform(math.log(values.low - 0.5), math.log(values.high + 0.5)))
        return min(max(round(place), int(values.low)), int(values.high))
    if values.log:
        return rounded(math.exp(rng.uniform(math.log(values.low), math.log(values.high))), values)
    return rounded(float(rng.uniform(values.low, values.high)), values)


def rounded(number: float, values: Range) -> float:
    """To DIGITS, never beyond the range's ends."""
    return min(max(float(f"{number:.{DIGITS}g}"), float(values.low)), float(values.high))


def cut(values: Choice | Range, points: int) -> list[Any]:
    """All options of a choice; of a range `points` values from end to end, evenly spaced (in the logarithm where the range says so)."""
    if isinstance(values, Choice):
        return list(values.options)
    low, high = values.low, values.high
    if points == 1:
        places = [math.sqrt(low * high) if values.log else (low + high) / 2]
    else:
        places = (np.geomspace if values.log else np.linspace)(low, high, points).tolist()
    if is_whole(values):
        return sorted({round(place) for place in places})
    return list(dict.fromkeys(rounded(place, values) for place in places))


def holds(values: Choice | Range, value: Any) -> bool:
    """Whether the dimension can give this value."""
    if isinstance(values, Choice):
        return any(value == option and isinstance(value, bool) == isinstance(option, bool) for option in values.options)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return values.low <= value <= values.high and not (is_whole(values) and value != int(value))


def including(values: Choice | Range, own: Any) -> Choice | Range:
    """The values and the recipe's own one, so that a search can always give what it started from."""
    if holds(values, own) or (isinstance(values, Range) and (isinstance(own, bool) or not isinstance(own, (int, float)))):
        return values
    if isinstance(values, Choice):
        return Choice((own, *values.options))
    return Range(min(values.low, own), max(values.high, own), values.log)


def said(values: Choice | Range) -> str:
    """`0.0001 to 0.01, logarithmic`, or the options one after another."""
    if isinstance(values, Choice):
        return ", ".join(_word(option) for option in values.options)
    kind = (
        ("whole numbers" if is_whole(values) else "")
        + (", " if is_whole(values) and values.log else "")
        + ("logarithmic" if values.log else "")
    )
    return f"{values.low:g} to {values.high:g}" + (f", {kind}" if kind else "")


def _word(option: Any) -> str:
    if isinstance(option, bool) or option is None:
        return {True: "true", False: "false", None: "null"}[option]
    return f"{option:g}" if isinstance(option, float) else str(option)
