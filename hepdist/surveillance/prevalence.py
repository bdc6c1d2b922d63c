"""Prevalence corrected for a classifier's errors: the estimator of Rogan and Gladen, the interval of Lang and Reiczigel."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt

from scipy.stats import norm


@dataclass(frozen=True)
class Accuracy:
    """A classifier's accuracy at its threshold, and how many it was estimated from; inf: taken as known."""

    sensitivity: float
    specificity: float
    cases: float = inf
    non_cases: float = inf


@dataclass(frozen=True)
class Prevalence:
    """A share of those tested, with its interval; all within 0 and 1."""

    value: float
    low: float
    high: float


def corrected(positive: int, tested: int, accuracy: Accuracy, level: float = 0.95) -> Prevalence:
    """True prevalence behind `positive` of `tested` (> 0) results.

    The estimate is that of Rogan and Gladen (Am J Epidemiol 1978, 107:71), cut to 0 and 1. The interval is that of Lang and Reiczigel
    (Prev Vet Med 2014, 113:13, equations 6 to 17): normal around shifted estimates (Agresti and Coull's for the share, one success and
    one failure added for sensitivity and specificity), whose variance has all three errors. Where so few cases are behind sensitivity and
    specificity that their shifted sum is no more than 1, results say nothing of the share: the interval is 0 to 1.
    """
    z = float(norm.isf((1 - level) / 2))
    se, sp = accuracy.sensitivity, accuracy.specificity
    value = (positive / tested + sp - 1) / (se + sp - 1)

    n = tested + z * z
    share = (positive + z * z / 2) / n
    se, se_variance = _shifted(se, accuracy.cases)
    sp, sp_variance = _shifted(sp, accuracy.non_cases)
    if se + sp <= 1:
        return Prevalence(_cut(value), 0.0, 1.0)
    centre = (share + sp - 1) / (se + sp - 1)
    variance = (share * (1 - share) / n + centre**2 * se_variance + (1 - centre) ** 2 * sp_variance) / (se + sp - 1) ** 2
    shift = 2 * z * z * (centre * se_variance - (1 - centre) * sp_variance)
    half = z * sqrt(variance)
    return Prevalence(_cut(value), _cut(centre + shift - half), _cut(centre + shift + half))


def _shifted(rate: float, n: float) -> tuple[float, float]:
    """The rate with one success and one failure more, and its variance; a known rate stays as it is."""
    if n == inf:
        return rate, 0.0
    rate = (n * rate + 1) / (n + 2)
    return rate, rate * (1 - rate) / (n + 2)


def _cut(share: float) -> float:
    return min(1.0, max(0.0, share))
