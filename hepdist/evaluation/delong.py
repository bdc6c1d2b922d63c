"""DeLong's variance of AUROCs: intervals and the test of two models on the same cases, with one row or several rows a patient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hepdist.evaluation.bootstrap import LEVEL
from hepdist.evaluation.metrics import Floats


@dataclass(frozen=True)
class PairedAurocs:
    """Two AUROCs on the same cases; `difference` is the first minus the second."""

    first: float
    second: float
    difference: float
    low: float
    high: float
    """95 % interval of the difference; nan where it has no variance."""
    p: float
    """Two-sided; 1 where both rank all cases alike."""


def auroc_covariance(truth: NDArray[np.bool_], scores: Floats, patient: NDArray[np.str_]) -> tuple[Floats, Floats]:
    """AUROC float64[m] of each of m models, and their covariance float64[m, m].

    truth: [n]; scores: [m, n] on the same rows. Rows of a patient may be of either class and count as dependent (Obuchowski, 1997);
    with one row a patient this is DeLong et al., 1988. Placements come from midranks, n log n (Sun & Xu, 2014). The covariance is nan where
    a class has fewer than two patients.
    """
    _, owner = np.unique(patient, return_inverse=True)
    patients = int(owner.max()) + 1
    placed = [_placements(truth, score) for score in scores]
    area = np.array([above.mean() for above, _ in placed])
    found = np.stack([_by_patient(above, owner[truth], patients) for above, _ in placed])
    spared = np.stack([_by_patient(below, owner[~truth], patients) for _, below in placed])
    positives, negatives = int(truth.sum()), int((~truth).sum())
    with_positive, with_negative = len(np.unique(owner[truth])), len(np.unique(owner[~truth]))
    if min(with_positive, with_negative) < 2:
        return area, np.full((len(scores), len(scores)), np.nan)
    both = found @ spared.T * patients / (patients - 1)
    covariance = (
        found @ found.T * with_positive / (with_positive - 1) / positives**2
        + spared @ spared.T * with_negative / (with_negative - 1) / negatives**2
        + (both + both.T) / (positives * negatives)
    )
    return area, covariance


def auroc_interval(area: float, variance: float, level: float = LEVEL) -> tuple[float, float]:
    """The interval of an AUROC, symmetric on the logit scale so that it stays within 0 and 1 and holds its level near 1 (Pepe, 2003).

    nan where the classes are separated without error: a variance of 0 says nothing of how far below 1 the truth may be.
    """
    from scipy.special import expit, logit
    from scipy.stats import norm

    if not 0 < area < 1 or not variance > 0:
        return float("nan"), float("nan")
    reach = norm.ppf((1 + level) / 2) * np.sqrt(variance) / (area * (1 - area))
    return float(expit(logit(area) - reach)), float(expit(logit(area) + reach))


def compare_aurocs(truth: NDArray[np.bool_], first: Floats, second: Floats, patient: NDArray[np.str_]) -> PairedAurocs:
    """DeLong's test of two models' scores float[n] on the same rows."""
    from scipy.stats import norm

    area, covariance = auroc_covariance(truth, np.stack([first, second]), patient)
    difference = float(area[0] - area[1])
    error = float(np.sqrt(max(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1], 0.0)))
    if np.isnan(covariance).any() or error < 1e-12:  # rounding of three sums that cancel
        p = 1.0 if difference == 0 else float("nan")
        return PairedAurocs(float(area[0]), float(area[1]), difference, float("nan"), float("nan"), p)
    reach = float(norm.ppf((1 + LEVEL) / 2)) * error
    p = float(2 * norm.sf(abs(difference) / error))
    return PairedAurocs(float(area[0]), float(area[1]), difference, difference - reach, difference + reach, p)


def _placements(truth: NDArray[np.bool_], score: Floats) -> tuple[Floats, Floats]:
    """Of each positive the share of negatives below it, and of each negative the share of positives above it; ties count half."""
    from scipy.stats import rankdata

    positive, negative = score[truth], score[~truth]
    rank = rankdata(np.concatenate([positive, negative]))
    above = (rank[: len(positive)] - rankdata(positive)) / len(negative)
    return above, 1 - (rank[len(positive) :] - rankdata(negative)) / len(positive)


def _by_patient(placement: Floats, owner: NDArray[np.int64], patients: int) -> Floats:
    """Sum over each patient's rows of placement minus its mean over all rows."""
    return np.bincount(owner, placement - placement.mean(), minlength=patients).astype(np.float64)
