"""Scores of subgroups: is a model worse for some patients? Each group with its interval, and tested against all others together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hepdist.evaluation.bootstrap import percentile_interval, resampled_weights
from hepdist.evaluation.metrics import Floats, auroc, segmentation_scores
from hepdist.evaluation.result import CLASSIFYING, by_class, labels_and_probabilities, plain
from hepdist.evaluation.subgroups import Groups

FEWEST_PATIENTS = 10
"""A score of fewer says more about chance than about the group, and a group so small may point at people."""

Scores = Callable[[Floats], dict[str, Floats]]
"""From weight float64[r, n] to float64[r] by name."""


def subgroup_scores(
    task_kind: str, predictions: pd.DataFrame, threshold: float, names: tuple[str, ...], groups: Groups, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """The `subgroups` block of a split: `column`, `group`, `n`, `patients` and `scores` of each group, or a `note` why it has none.

    predictions: as `summarise` takes them; groups: of `groups_of`. Each score has `value`, `ci`, `difference` to all other rows, its `ci` over
    resampled patients, `p` (difference over the bootstrap's standard error, two-sided) and `p_holm`, corrected over all tests of the block. Two
    groups that share a column's rows between them are one comparison, and count as one.
    """
    table = predictions.sort_values("sample_id").reset_index(drop=True)
    if task_kind in CLASSIFYING:
        table = table[table["label_0" if "label_0" in table else "label"].notna()].reset_index(drop=True)
    patient = table["patient"].to_numpy(dtype=str)
    weights = [np.ones((1, len(table))), *resampled_weights(patient, resamples, seed)]
    found, tests = [], []
    for column, members in groups.items():
        group_of = table["sample_id"].map(members).to_numpy()
        present = sorted({str(group) for group in group_of if isinstance(group, str)})
        first: dict[str, Any] = {}
        for group in present if len(present) > 1 else ():
            inside = group_of == group
            entry: dict[str, Any] = {"column": column, "group": group}
            note = _too_small(task_kind, table, inside, names)
            if note:
                found.append(entry | {"note": note})
                continue
            entry |= {"n": int(inside.sum()), "patients": len(np.unique(patient[inside]))}
            sides = [(rows, _scores_of(task_kind, table[rows], threshold, names)) for rows in (inside, ~inside)]
            rest = _too_small(task_kind, table, ~inside, names)
            entry["scores"] = _compared(sides, weights, rest is None)
            found.append(entry)
            if len(present) == 2 and first:
                for name, score in entry["scores"].items():
                    score["same"] = first.get(name)
            else:
                tests += [score for score in entry["scores"].values() if score["p"] is not None]
                first = entry["scores"]
    for score, adjusted in zip(tests, holm([score["p"] for score in tests]), strict=True):
        score["p_holm"] = adjusted
    for entry in found:
        for score in entry.get("scores", {}).values():
            twin = score.pop("same", None)
            score.setdefault("p_holm", twin["p_holm"] if twin and score["p"] is not None else None)
    return list(plain(found))


def holm(p: Sequence[float]) -> list[float]:
    """p values corrected for as many tests as there are (Holm, 1979): the chance of any false alarm among them stays below the level."""
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = highest
    return [float(value) for value in adjusted]


def _compared(sides: list[tuple[NDArray[np.bool_], Scores]], weights: list[Floats], tested: bool) -> dict[str, dict[str, Any]]:
    """The scores of the first side, and where `tested` their difference to the second; the first weight is that of the rows as they are."""
    from scipy.stats import norm

    blocks = [[scores(weight[:, rows]) for weight in weights] for rows, scores in (sides if tested else sides[:1])]
    found = {}
    for name in blocks[0][0]:
        values = [np.concatenate([block[name] for block in side]) for side in blocks]
        bound = percentile_interval(values[0][1:])
        entry: dict[str, Any] = {
            "value": values[0][0],
            "ci": [float(bound.low), float(bound.high)],
            "difference": None,
            "difference_ci": None,
            "p": None,
        }
        if tested:
            difference = values[0] - values[1]
            bound, drawn = percentile_interval(difference[1:]), difference[1:][np.isfinite(difference[1:])]
            entry |= {"difference": difference[0], "difference_ci": [float(bound.low), float(bound.high)]}
            error = float(drawn.std(ddof=1)) if len(drawn) > 1 else 0.0
            if error > 0 and np.isfinite(difference[0]):
                entry["p"] = float(2 * norm.sf(abs(difference[0]) / error))
        found[name] = entry
    return found


def _too_small(task_kind: str, table: pd.DataFrame, rows: NDArray[np.bool_], names: tuple[str, ...]) -> str | None:
    """Why a group can't be scored."""
    some = table[rows]
    if some["patient"].nunique() < FEWEST_PATIENTS:
        return f"fewer than {FEWEST_PATIENTS} patients"
    if task_kind in CLASSIFYING and "label_0" not in some:
        lacking = [name for k, name in enumerate(names) if (table["label"] == k).any() and not (some["label"] == k).any()]
        if lacking:
            return f"without {', '.join(lacking)}"
    return None


def _scores_of(task_kind: str, table: pd.DataFrame, threshold: float, names: tuple[str, ...]) -> Scores:
    """What is looked at by group: how well cases are ranked, and of two classes also both kinds of right decisions; else the main score."""
    if task_kind in CLASSIFYING:
        label, probability = labels_and_probabilities(table, len(names))
        return partial(_classifying, label, probability, threshold)
    if task_kind == "restoration":
        restored = by_class(table, "psnr", names)
        assert restored is not None, "summarise has read it"
        each = restored.mean(axis=1)
        return lambda weight: {"psnr": _mean(each, weight)}
    dice = by_class(table, "dice", names)
    assert dice is not None, "summarise has read it"
    return lambda weight: {"dice": segmentation_scores(dice, None, None, None, weight)["dice"]}


def _classifying(label: NDArray[np.int64], probability: Floats, threshold: float, weight: Floats) -> dict[str, Floats]:
    several, classes = label.ndim == 2, probability.shape[1]
    if not several and classes == 2:
        called = probability[:, 1] >= threshold
        scores = {"auroc": auroc(label == 1, probability[:, 1], weight)}
        for name, k in (("sensitivity", 1), ("specificity", 0)):
            scores[name] = _mean((called == k)[label == k].astype(np.float64), weight[:, label == k])
        return scores
    truth = label == 1 if several else label[:, None] == np.arange(classes)
    held = [k for k in range(classes) if truth[:, k].any() and not truth[:, k].all()]
    each = [auroc(truth[:, k], probability[:, k], weight) for k in held]
    return {"auroc": np.mean(each, axis=0) if each else np.full(len(weight), np.nan)}


def _mean(value: Floats, weight: Floats) -> Floats:
    """Weighted mean of value[n] in each resample; nan where none of its rows was drawn."""
    total = weight.sum(axis=1)
    return np.divide(weight @ value, total, out=np.full(len(weight), np.nan), where=total > 0)
