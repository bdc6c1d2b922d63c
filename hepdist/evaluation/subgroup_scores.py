"""Scores of subgroups: is a model worse for some patients? Each group with its interval, and tested against all others together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hepdist.evaluation.bootstrap import percentile_interval, resampled_weights
from hepdist.evaluation.delong import auroc_covariance
from hepdist.evaluation.metrics import Floats, auroc, segmentation_scores
from hepdist.evaluation.proportions import difference, proportion
from hepdist.evaluation.result import CLASSIFYING, by_class, labels_and_probabilities, plain
from hepdist.evaluation.subgroups import Groups

FEWEST_PATIENTS = 10
"""A score of fewer says more about chance than about the group, and a group so small may point at people."""

Rows = NDArray[np.bool_]
Score = Callable[[Floats], Floats]
"""From weight float64[r, n] to float64[r]."""


def subgroup_scores(
    task_kind: str, predictions: pd.DataFrame, threshold: float, names: tuple[str, ...], groups: Groups, resamples: int, seed: int
) -> dict[str, Any]:
    """The `subgroups` block of a split: how many `tests` were made, and of each of `groups` its `column`, `group`, `n`, `patients` and `scores`,
    or a `note` why it has none.

    predictions: as `summarise` takes them; groups: of `groups_of`. A score has `value`, `ci`, its `difference` to all other rows,
    `difference_ci`, `p` (two-sided) and `p_holm`, corrected over all tests of the block; two groups that share a column's rows between
    them are one comparison and count as one. auroc, dice and psnr are resampled by patient, and `p` is that of the difference over its
    standard error, of two classes' AUROC by DeLong's variance; sensitivity and specificity have Wilson's intervals and the pooled test.
    """
    table = predictions.sort_values("sample_id").reset_index(drop=True)
    if task_kind in CLASSIFYING:
        table = table[table["label_0" if "label_0" in table else "label"].notna()].reset_index(drop=True)
    weights = [np.ones((1, len(table))), *resampled_weights(table["patient"].to_numpy(dtype=str), resamples, seed)]
    found: list[dict[str, Any]] = []
    tests: list[list[dict[str, Any]]] = []  # scores that are one test: those of both groups where there are two

    for column, members in groups.items():
        group_of = table["sample_id"].map(members).fillna("").to_numpy()
        present = sorted(set(group_of) - {""})
        scored = []
        for group in present if len(present) > 1 else ():
            inside = group_of == group
            entry: dict[str, Any] = {"column": column, "group": group}
            if note := _too_small(task_kind, table[inside], table, names):
                entry["note"] = note
            else:
                entry |= {"n": int(inside.sum()), "patients": int(table["patient"][inside].nunique())}
                entry["scores"] = _scores(task_kind, table, inside, threshold, names, weights)
                scored.append(entry["scores"])
            found.append(entry)
        one_comparison = len(present) == len(scored) == 2 and not (group_of == "").any()
        for name in scored[0] if scored else ():
            same = [scores[name] for scores in scored]
            tests += [same] if one_comparison else [[score] for score in same]
    tests = [test for test in tests if test[0]["p"] is not None]
    for test, adjusted in zip(tests, holm([test[0]["p"] for test in tests]), strict=True):
        for score in test:
            score["p_holm"] = adjusted
    return dict(plain({"tests": len(tests), "groups": found}))


def holm(p: Sequence[float]) -> list[float]:
    """p values corrected for as many tests as there are (Holm, 1979): the chance of any false alarm among them stays below the level."""
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, i in enumerate(np.argsort(p)):
        highest = max(highest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = highest
    return adjusted


def _too_small(task_kind: str, some: pd.DataFrame, table: pd.DataFrame, names: tuple[str, ...]) -> str | None:
    """Why these rows of the table can't be scored."""
    if some["patient"].nunique() < FEWEST_PATIENTS:
        return f"fewer than {FEWEST_PATIENTS} patients"
    if task_kind in CLASSIFYING and "label_0" not in some:
        lacking = [name for k, name in enumerate(names) if (table["label"] == k).any() and not (some["label"] == k).any()]
        return f"without {', '.join(lacking)}" if lacking else None
    return None


def _scores(
    task_kind: str, table: pd.DataFrame, inside: Rows, threshold: float, names: tuple[str, ...], weights: list[Floats]
) -> dict[str, dict[str, Any]]:
    """The scores of the rows inside, and their differences to the rest where that can be scored."""
    sides = [inside] if _too_small(task_kind, table[~inside], table, names) else [inside, ~inside]
    fewest = min(int(table["patient"][rows].nunique()) for rows in sides)
    if task_kind not in CLASSIFYING:
        name = "psnr" if task_kind == "restoration" else "dice"
        each = by_class(table, name, names)
        assert each is not None, "summarise has read it"
        return {name: _resampled([_case_score(name, each[rows]) for rows in sides], sides, weights, fewest)}
    label, probability = labels_and_probabilities(table, len(names))
    found = {"auroc": _resampled([ranking(label[rows], probability[rows]) for rows in sides], sides, weights, fewest)}
    if label.ndim == 1 and len(names) == 2:
        called, patient = probability[:, 1] >= threshold, table["patient"].to_numpy(dtype=str)
        if len(sides) == 2:
            found["auroc"]["p"] = _by_logits([(label[rows] == 1, probability[rows, 1], patient[rows]) for rows in sides])
        for name, k in (("sensitivity", 1), ("specificity", 0)):
            found[name] = _rate([((called == k)[rows & (label == k)], patient[rows & (label == k)]) for rows in sides])
    return found


def _resampled(scores: list[Score], sides: list[Rows], weights: list[Floats], fewest: int) -> dict[str, Any]:
    """The score of the first side, and its difference to the second where there is one, with Student's p for `fewest` patients, those of the
    smaller side; the first weight is that of the rows as they are."""
    from scipy.stats import t

    values = [np.concatenate([score(weight[:, rows]) for weight in weights]) for score, rows in zip(scores, sides, strict=True)]
    entry = _entry(float(values[0][0]), _bounds(values[0][1:]))
    if len(values) == 2:
        apart = values[0] - values[1]
        entry |= {"difference": float(apart[0]), "difference_ci": _bounds(apart[1:])}
        spreads = [float(np.std(drawn[np.isfinite(drawn)])) if np.isfinite(drawn).sum() > 1 else 0.0 for drawn in (*values, apart)]
        if min(spreads) > 0:
            entry["p"] = float(2 * t.sf(abs(apart[0]) / (spreads[2] * np.sqrt(fewest / (fewest - 1))), fewest - 1))
    return entry


def _by_logits(sides: list[tuple[Rows, Floats, NDArray[np.str_]]]) -> float | None:
    """p of two AUROCs of different patients, by DeLong's variance on the logit scale; None where one has none.

    On the scale itself, groups of 40 patients gave p < 0.005 in 2 % of 300 equally good sets, since their spread is larger and skewed. Where
    the two share patients, whose rows go together, it errs on the careful side.
    """
    from scipy.special import logit
    from scipy.stats import norm

    found = [auroc_covariance(truth, positive[None], patient) for truth, positive, patient in sides]
    areas, variances = (np.array([float(np.ravel(pair[i])[0]) for pair in found]) for i in (0, 1))
    if not (
        (areas > 0) & (areas < 1) & (variances > 0)
    ).all():  # an AUROC of 1 has no spread: how far below it the truth may be is not known
        return None
    error = np.sqrt((variances / (areas * (1 - areas)) ** 2).sum())
    return float(2 * norm.sf(abs(logit(areas[0]) - logit(areas[1])) / error))


def _rate(sides: list[tuple[NDArray[np.bool_], NDArray[np.str_]]]) -> dict[str, Any]:
    """A share, and its difference to that of the second side where there is one; sides: hits and their patients."""
    shares = [proportion(hit, patient) for hit, patient in sides]
    entry = _entry(shares[0].value, [shares[0].low, shares[0].high])
    if len(shares) == 2:
        apart = difference(*shares)
        entry |= {"difference": apart.value, "difference_ci": [apart.low, apart.high], "p": apart.p}
    return entry


def _entry(value: float, bounds: list[float]) -> dict[str, Any]:
    return {"value": value, "ci": bounds, "difference": None, "difference_ci": None, "p": None, "p_holm": None}


def _bounds(drawn: Floats) -> list[float]:
    bound = percentile_interval(drawn)
    return [float(bound.low), float(bound.high)]


def ranking(label: NDArray[np.int64], probability: Floats) -> Score:
    """AUROC of two classes, or the mean of each class or finding against the rest."""
    truth = label == 1 if label.ndim == 2 else label[:, None] == np.arange(probability.shape[1])
    held = [k for k in range(truth.shape[1]) if truth[:, k].any() and not truth[:, k].all()]
    if label.ndim == 1 and len(held) == 2:
        held = held[1:]
    return lambda weight: np.mean([auroc(truth[:, k], probability[:, k], weight) for k in held] or [np.full(len(weight), np.nan)], axis=0)


def _case_score(name: str, each: Floats) -> Score:
    """The mean over classes or degradations of the mean over cases, each[n, C]."""
    if name == "dice":
        return lambda weight: segmentation_scores(each, None, None, None, weight)["dice"]
    mean = each.mean(axis=1)

    def psnr(weight: Floats) -> Floats:
        total = weight.sum(axis=1)
        return np.divide(weight @ mean, total, out=np.full(len(weight), np.nan), where=total > 0)

    return psnr
