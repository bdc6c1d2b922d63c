"""What a method says of one week of one series; the same for all methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Method = Literal["farrington", "cusum", "ears_c1", "ears_c2", "ears_c3"]
TITLES: dict[str, str] = {
    "farrington": "Farrington flexible", "cusum": "CUSUM", "ears_c1": "EARS C1", "ears_c2": "EARS C2", "ears_c3": "EARS C3",
}  # fmt: skip


@dataclass(frozen=True)
class Judgement:
    """Expected count, threshold and verdict; counts above `upper` are alerts, unless the method has a reason not to."""

    method: Method
    expected: float
    upper: float
    alert: bool
    score: float | None = None
    """How far the count is on the way from expected to upper: 1 is at the threshold. None where upper isn't above expected."""
    p: float | None = None
    """Chance of such a count or a higher one, where the method knows it."""


def exceedance(count: float, expected: float, upper: float) -> float | None:
    """(count - expected) / (upper - expected), the exceedance score of Farrington et al. (1996)."""
    return (count - expected) / (upper - expected) if upper > expected + 1e-9 else None
