"""Operating points: thresholds that reach a wanted sensitivity or specificity on validation, and what they give on the rows scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepdist.evaluation.metrics import Floats
from hepdist.evaluation.proportions import proportion


def choose_points(
    positive: Floats, label: NDArray[np.int64], sensitivities: Sequence[float], specificities: Sequence[float]
) -> list[dict[str, Any]]:
    """The `operating_points` of result.json: for each wanted value the threshold that reaches it on validation at the least cost of the other.

    positive: float[n], probability of class 1; label: int64[n] of 0 and 1. Empty where a class is missing. A threshold lies midway
    between two neighbouring probabilities, so that rounding can't flip a case.
    """
    wanted = [("sensitivity", target) for target in sensitivities] + [("specificity", target) for target in specificities]
    if len(np.unique(label)) < 2:
        return []
    points = []
    for rule, target in wanted:
        threshold = _threshold(positive, label, rule, target)
        called = positive >= threshold
        validation = {"sensitivity": float(called[label == 1].mean()), "specificity": float((~called[label == 0]).mean())}
        points.append({"rule": rule, "target": target, "threshold": threshold, "validation": validation})
    return points


def apply_points(
    points: Sequence[dict[str, Any]], positive: Floats, label: NDArray[np.int64], patient: NDArray[np.str_]
) -> list[dict[str, Any]]:
    """What each threshold gives on labelled rows: sensitivity, specificity, ppv, npv and the share called positive, each with `<name>_ci`."""
    found = []
    for point in points:
        called, ill = positive >= point["threshold"], label == 1
        shares = {"sensitivity": (called, ill), "specificity": (~called, ~ill), "ppv": (ill, called), "npv": (~ill, ~called)}
        shares["called"] = (called, np.ones(len(label), bool))
        entry: dict[str, Any] = {name: point[name] for name in ("rule", "target", "threshold")}
        for name, (hit, among) in shares.items():
            share = proportion(hit[among], patient[among])
            entry |= {name: share.value, f"{name}_ci": [share.low, share.high]}
        found.append(entry)
    return found


def _threshold(positive: Floats, label: NDArray[np.int64], rule: str, target: float) -> float:
    values = np.unique(positive)
    if rule == "sensitivity":
        highest = np.sort(positive[label == 1])[::-1]
        last = highest[_count(target, len(highest)) - 1]  # the lowest probability that must still be called
        below = values[values < last]
        return float((last + (below[-1] if len(below) else 0.0)) / 2)
    lowest = np.sort(positive[label == 0])
    last = lowest[_count(target, len(lowest)) - 1]  # the highest that must not be called
    above = values[values > last]
    return float((last + above[0]) / 2) if len(above) else float(np.nextafter(max(1.0, last), 2.0))


def _count(share: float, of: int) -> int:
    """The fewest of so many that are at least this share."""
    return int(np.ceil(share * of - 1e-9))  # 0.95 * 20 is 19.000000000000004 in some roundings
