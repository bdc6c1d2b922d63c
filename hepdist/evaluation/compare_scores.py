"""The paired test of every score of two sets of predictions of the same cases; what is compared, how, and with which correction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hepdist.errors import RunError
from hepdist.evaluation.bootstrap import resampled_weights
from hepdist.evaluation.concordance import concordance
from hepdist.evaluation.delong import compare_aurocs
from hepdist.evaluation.metrics import Floats, classification_scores, decide, multilabel_scores
from hepdist.evaluation.paired import bootstrap_difference, mcnemar, signed_ranks
from hepdist.evaluation.result import CLASSIFYING, by_class, labels_and_probabilities
from hepdist.evaluation.subgroup_scores import holm
from hepdist.evaluation.wording import MEANINGS

SMALLER_IS_BETTER = frozenset({"brier", "log_loss", "mae", "hd95", "volume_error_ml"})
BOOTSTRAP = "paired bootstrap"
DECIDED = ("accuracy", "sensitivity", "specificity")
CLASSIFIED = ("auroc", "average_precision", "balanced_accuracy", *DECIDED, "quadratic_kappa", "mae", "brier", "log_loss")
MEASURED = {"segmentation": ("dice", "nsd", "hd95", "volume_error_ml"), "restoration": ("psnr", "ssim")}

Strings = NDArray[np.str_]


@dataclass(frozen=True)
class Row:
    """One score of both, the first minus the second, and its test; nan where undefined."""

    score: str
    of: str
    """The class, finding or degradation; empty: of all."""
    first: float
    second: float
    difference: float
    low: float
    high: float
    """95 % interval of the difference: of the paired bootstrap over patients, or DeLong's where that is the test."""
    p: float
    test: str
    p_holm: float | None = None
    """Corrected over all scores but the primary one, which was named beforehand."""

    @property
    def title(self) -> str:
        return MEANINGS[self.score].title

    @property
    def label(self) -> str:
        return f"{self.title}, {self.of}" if self.of else self.title

    @property
    def unit(self) -> str:
        return MEANINGS[self.score].unit

    @property
    def higher_is_better(self) -> bool:
        return self.score not in SMALLER_IS_BETTER

    def facts(self) -> dict[str, Any]:
        values = asdict(self)
        return {**values, "difference_ci": [values.pop("low"), values.pop("high")]}

    @classmethod
    def of_facts(cls, entry: dict[str, Any]) -> Row:
        nan = {key: float("nan") if value is None else value for key, value in entry.items() if key not in ("difference_ci", "p_holm")}
        low, high = (float("nan") if value is None else value for value in entry["difference_ci"])
        return cls(**{**nan, "low": low, "high": high, "p_holm": entry["p_holm"]})


@dataclass(frozen=True)
class Comparison:
    rows: list[Row]
    """The primary score first."""
    n: int
    patients: int
    agreement: dict[str, int] | None
    """Rows that both, one or none decided rightly, of exclusive classes."""


def comparison_rows(
    task_kind: str,
    first: pd.DataFrame,
    second: pd.DataFrame,
    names: tuple[str, ...],
    thresholds: tuple[float, float],
    resamples: int,
    seed: int,
    *,
    ordinal: bool = False,
) -> Comparison:
    """Every score that both tables of predictions allow, on rows in the same order.

    Ranking is tested by DeLong's test (of two classes, or each class), decisions by McNemar's, measures of each case by Wilcoxon's signed
    ranks over patients, all else by the paired bootstrap. The first row is the primary score: auroc, concordance, dice or psnr.
    """
    if task_kind in CLASSIFYING:
        found = _classified(task_kind, first, second, names, thresholds, resamples, seed, ordinal)
    else:
        found = _measured(task_kind, first, second, names, resamples, seed)
    rows = found.rows
    tested = [i for i in range(1, len(rows)) if rows[i].p == rows[i].p]
    for i, adjusted in zip(tested, holm([rows[i].p for i in tested]), strict=True):
        rows[i] = replace(rows[i], p_holm=adjusted)
    return found


def _classified(
    task_kind: str,
    first: pd.DataFrame,
    second: pd.DataFrame,
    names: tuple[str, ...],
    thresholds: tuple[float, float],
    resamples: int,
    seed: int,
    ordinal: bool,
) -> Comparison:
    known = first["label_0" if "label_0" in first else "label"].notna().to_numpy()
    if not known.any():
        raise RunError("none of the rows to compare has a label; choose another split")
    label, one = labels_and_probabilities(first[known], len(names))
    other = labels_and_probabilities(second[known], len(names))[1]
    patient = first["patient"].to_numpy(dtype=str)[known]
    several, sides = label.ndim == 2, (one, other)
    weights = [np.ones((1, len(label))), *resampled_weights(patient, resamples, seed)]
    if several:
        drawn = [[multilabel_scores(label, p, w, t) for w in weights] for p, t in zip(sides, thresholds, strict=True)]
    else:
        drawn = [[classification_scores(label, p, w, t, ordinal=ordinal) for w in weights] for p, t in zip(sides, thresholds, strict=True)]
    patients = len(np.unique(patient))
    two = not several and len(names) == 2
    rows = [
        _resampled(name, "", [[block[name] for block in side] for side in drawn], patients) for name in CLASSIFIED if name in drawn[0][0]
    ]
    truth = label == 1 if several else label[:, None] == np.arange(len(names))
    agreement = None
    if two:
        rows[0] = _delong("auroc", "", truth[:, 1], one[:, 1], other[:, 1], patient)
    else:
        held = [k for k in range(len(names)) if truth[:, k].any() and not truth[:, k].all()]
        rows += [_delong("auroc", names[k], truth[:, k], one[:, k], other[:, k], patient) for k in held]
    if not several:
        right = [decide(p, t) == label for p, t in zip(sides, thresholds, strict=True)]
        among = {"accuracy": np.ones(len(label), bool), "sensitivity": label == 1, "specificity": label == 0}
        for i, row in enumerate(rows):
            if row.score in among and not row.of:
                some = among[row.score]
                found = mcnemar(right[0][some], right[1][some], patient[some])
                rows[i] = replace(row, p=found.p, test="McNemar's test, exact" if found.exact else "McNemar's test")
        both, neither = int((right[0] & right[1]).sum()), int((~right[0] & ~right[1]).sum())
        only = [int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())]
        agreement = {"both": both, "only_first": only[0], "only_second": only[1], "neither": neither}
    if task_kind == "survival":
        rows.insert(0, _concordance(first, second, resamples, seed))
    return Comparison(rows, len(label), patients, agreement)


def _measured(task_kind: str, first: pd.DataFrame, second: pd.DataFrame, names: tuple[str, ...], resamples: int, seed: int) -> Comparison:
    patient = first["patient"].to_numpy(dtype=str)
    weights = [np.ones((1, len(first))), *resampled_weights(patient, resamples, seed)]
    rows, by_name = [], []
    for score in MEASURED[task_kind]:
        values = [_cases(table, score, names) for table in (first, second)]
        if values[0] is None or values[1] is None:
            continue
        one, other = _both_known(values[0], values[1], 1.0 if score in ("dice", "nsd") else None)
        rows.append(_signed_ranks(score, "", one, other, patient, weights))
        if len(names) > 1:
            by_name += [_signed_ranks(score, name, one[:, [k]], other[:, [k]], patient, weights) for k, name in enumerate(names)]
    return Comparison(rows + by_name, len(first), len(np.unique(patient)), None)


def _cases(table: pd.DataFrame, score: str, names: tuple[str, ...]) -> Floats | None:
    """float64[n, C]: what was measured on each case and class."""
    if score != "volume_error_ml":
        return by_class(table, score, names)
    volume, truth = by_class(table, "volume_ml", names), by_class(table, "true_volume_ml", names)
    return None if volume is None or truth is None or np.isnan(volume - truth).all() else np.abs(volume - truth)


def _both_known(first: Floats, second: Floats, nothing_found: float | None) -> tuple[Floats, Floats]:
    """The values with nan where either is not known; of overlaps, nan of one alone is a class that was rightly not found: perfect."""
    if nothing_found is not None:
        lone = np.isnan(first) != np.isnan(second)
        first, second = (np.where(lone & np.isnan(values), nothing_found, values) for values in (first, second))
    unknown = np.isnan(first) | np.isnan(second)
    return np.where(unknown, np.nan, first), np.where(unknown, np.nan, second)


def _signed_ranks(score: str, of: str, first: Floats, second: Floats, patient: Strings, weights: list[Floats]) -> Row:
    """Means and bootstrap over cases that are finite in both; the test over all, to which an infinite distance is the largest difference."""
    finite = np.isfinite(first) & np.isfinite(second)
    row = _resampled(
        score, of, [[_mean_of_means(values, finite, w) for w in weights] for values in (first, second)], len(np.unique(patient))
    )
    known = ~np.isnan(first)
    largest = 2 * float(np.abs(np.where(finite, first, 0.0) - np.where(finite, second, 0.0)).max(initial=0.0)) + 1
    beyond = (np.isinf(first).astype(np.float64) - np.isinf(second)) * largest
    apart = np.where(finite, np.where(finite, first, 0.0) - np.where(finite, second, 0.0), beyond)
    mean = np.divide(np.where(known, apart, 0.0).sum(axis=1), known.sum(axis=1), out=np.full(len(apart), np.nan), where=known.any(axis=1))
    return replace(row, p=signed_ranks(mean, patient), test="Wilcoxon's signed-rank test")


def _mean_of_means(values: Floats, there: NDArray[np.bool_], weight: Floats) -> Floats:
    """Mean over columns of the weighted mean over rows, as the scores are defined: [resamples]."""
    total = weight @ there
    means = np.divide(weight @ np.where(there, values, 0.0), total, out=np.full(total.shape, np.nan), where=total > 0)
    defined = ~np.isnan(means)
    count = defined.sum(axis=1)
    return np.divide(np.where(defined, means, 0.0).sum(axis=1), count, out=np.full(len(weight), np.nan), where=count > 0)


def _resampled(score: str, of: str, sides: list[list[Floats]], patients: int) -> Row:
    """sides: of each run the score as it is and then in blocks of resamples, the same for both."""
    first, second = sides
    one, other = float(first[0][0]), float(second[0][0])
    return Row(score, of, one, other, one - other, *bootstrap_difference(one - other, first[1:], second[1:], patients), BOOTSTRAP)


def _delong(score: str, of: str, truth: NDArray[np.bool_], first: Floats, second: Floats, patient: Strings) -> Row:
    if truth.all() or not truth.any():
        nan = float("nan")
        return Row(score, of, nan, nan, nan, nan, nan, nan, "DeLong's test")
    found = compare_aurocs(truth, first, second, patient)
    return Row(score, of, found.first, found.second, found.difference, found.low, found.high, found.p, "DeLong's test")


def _concordance(first: pd.DataFrame, second: pd.DataFrame, resamples: int, seed: int) -> Row:
    followed = (first["days"] > 0).to_numpy()
    days, event = (first[name].to_numpy(np.float64)[followed] for name in ("days", "event"))
    patient = first["patient"].to_numpy(dtype=str)[followed]
    weights = [np.ones((1, len(days))), *resampled_weights(patient, resamples, seed)]
    scores: list[Callable[[Floats], Floats]] = [
        partial(concordance, table["probability_1"].to_numpy(np.float64)[followed], days, event > 0) for table in (first, second)
    ]
    return _resampled("concordance", "", [[score(w) for w in weights] for score in scores], len(np.unique(patient)))
