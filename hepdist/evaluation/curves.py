"""ROC, precision-recall, reliability, net benefit and risk by coverage: the curve of all rows and a 95 % band over resampled patients; no drawing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hepdist.evaluation.bootstrap import percentile_interval, resampled_weights
from hepdist.evaluation.metrics import Floats, bin_of, equal_width_edges, weight_by_level

GRID = np.linspace(0, 1, 101)
INNER = GRID[1:-1]
"""Without 0 and 1."""


@dataclass(frozen=True)
class Curve:
    """y over x for all rows, and the band of y at each x of GRID."""

    x: Floats
    y: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Reliability:
    """Stated against observed frequency in equal-width bins of the stated probability; empty bins are left out of the first four."""

    stated: Floats
    observed: Floats
    low: Floats
    high: Floats
    counts: NDArray[np.int64]
    """Rows of every bin."""


def roc_curve(truth: NDArray[np.bool_], score: Floats, patient: NDArray[np.str_], resamples: int, seed: int) -> Curve:
    """Sensitivity (y) over 1 - specificity (x); the band is that of sensitivity at each false positive rate."""
    x, y = (values[0] for values in _roc(truth, score, np.ones((1, len(score)))))
    drawn = []
    for weight in resampled_weights(patient, resamples, seed):
        drawn += [np.interp(GRID, fpr, tpr) for fpr, tpr in zip(*_roc(truth, score, weight), strict=True)]
    band = percentile_interval(np.array(drawn))
    return Curve(x, y, band.low, band.high)


def precision_recall_curve(truth: NDArray[np.bool_], score: Floats, patient: NDArray[np.str_], resamples: int, seed: int) -> Curve:
    """Precision (y) over recall (x), a step that holds from the recall before; the band is that of precision at each recall."""
    x, y = (values[0] for values in _precision_recall(truth, score, np.ones((1, len(score)))))
    drawn = []
    for weight in resampled_weights(patient, resamples, seed):
        for recall, precision in zip(*_precision_recall(truth, score, weight), strict=True):
            reached = np.searchsorted(recall, GRID - 1e-12)  # the step that first reaches this recall
            drawn.append(precision[np.minimum(reached, len(recall) - 1)])
    band = percentile_interval(np.array(drawn))
    return Curve(np.r_[0.0, x], np.r_[y[:1], y], band.low, band.high)


def reliability(stated: Floats, observed: Floats, patient: NDArray[np.str_], resamples: int, seed: int, bins: int = 10) -> Reliability:
    """Mean stated probability, observed frequency and its band in `bins` bins; see metrics.stated_and_observed."""
    member = (bin_of(stated, equal_width_edges(stated, bins))[:, None] == np.arange(bins)).astype(np.float64)
    counts = member.sum(axis=0)
    full = counts > 0
    member, size = member[:, full], counts[full]
    drawn = []
    for weight in resampled_weights(patient, resamples, seed):
        rows = weight @ member
        drawn.append(np.divide((weight * observed) @ member, rows, out=np.full(rows.shape, np.nan), where=rows > 0))
    band = percentile_interval(np.concatenate(drawn))
    return Reliability(stated @ member / size, observed @ member / size, band.low, band.high, counts.astype(np.int64))


def net_benefit(truth: NDArray[np.bool_], positive: Floats, patient: NDArray[np.str_], resamples: int, seed: int) -> Curve:
    """Net benefit (y) of acting where the probability is at least x, for each x of INNER (Vickers & Elkin, 2006), and its band.

    True positives a row, minus false ones at what x says that they cost: who acts from 10 % on takes 9 needless actions for 1 needed.
    """
    called = positive[:, None] >= INNER
    worth = called * np.where(truth[:, None], 1.0, -INNER / (1 - INNER))
    drawn = [(weight @ worth) / weight.sum(axis=1, keepdims=True) for weight in resampled_weights(patient, resamples, seed)]
    band = percentile_interval(np.concatenate(drawn))
    return Curve(INNER, worth.mean(axis=0), band.low, band.high)


def net_benefit_of_all(prevalence: float) -> Floats:
    """That of acting on everybody, at each x of INNER; that of acting on nobody is 0."""
    return prevalence - (1 - prevalence) * INNER / (1 - INNER)


def risk_by_coverage(wrong: NDArray[np.bool_], sureness: Floats, patient: NDArray[np.str_], resamples: int, seed: int) -> Curve:
    """Share of wrong decisions (y) among the surest share x of rows, for each x of GRID but 0; equally sure ones are taken in an order of chance.

    El-Yaniv & Wiener, 2010. wrong, sureness: [n].
    """
    order = np.lexsort((np.random.default_rng(seed).permutation(len(wrong)), -sureness))
    ranked = wrong[order].astype(np.float64)

    def curve(weight: Floats) -> Floats:
        kept, errors = (np.cumsum(values, axis=1) for values in (weight, weight * ranked))
        share = kept / kept[:, -1:]
        place = [np.minimum(np.searchsorted(row, GRID[1:] - 1e-12), len(row) - 1) for row in share]
        return np.stack([e[i] / k[i] for e, k, i in zip(errors, kept, place, strict=True)])

    drawn = np.concatenate([curve(weight[:, order]) for weight in resampled_weights(patient, resamples, seed)])
    band = percentile_interval(drawn)
    return Curve(GRID[1:], curve(np.ones((1, len(wrong))))[0], band.low, band.high)


def _roc(truth: NDArray[np.bool_], score: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """False and true positive rate [resamples, levels + 1], from (0, 0); nan where a resample has one class only."""
    found, wrong = (np.cumsum(counts[:, ::-1], axis=1) for counts in weight_by_level(truth, score, weight))
    start = np.zeros((len(weight), 1))
    with np.errstate(invalid="ignore"):
        return np.hstack([start, wrong]) / wrong[:, -1:], np.hstack([start, found]) / found[:, -1:]


def _precision_recall(truth: NDArray[np.bool_], score: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Recall and precision [resamples, levels], from the highest score down; nan where nothing is known yet."""
    found, wrong = (np.cumsum(counts[:, ::-1], axis=1) for counts in weight_by_level(truth, score, weight))
    with np.errstate(invalid="ignore"):
        return found / found[:, -1:], found / (found + wrong)
