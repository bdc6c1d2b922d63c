"""A weighted quasi-Poisson regression with log link, by iteratively reweighted least squares.

Not statsmodels' GLM, which takes three times as long for each of the thousands of fits that a table needs, and seconds to import;
tests/test_surveillance_farrington.py holds the two against each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ITERATIONS = 50
LOWEST = -20.0
"""Log of a mean below which a fit doesn't go: a season in which all weeks are 0 has its likeliest mean at 0, which is no number's log."""


@dataclass(frozen=True)
class Fit:
    """Coefficients with what thresholds and residuals need of them."""

    coefficients: Floats
    covariance: Floats
    """Of the coefficients, for a dispersion of 1."""
    mean: Floats
    """Fitted, of each observation."""
    leverage: Floats
    """Diagonal of the hat matrix."""
    dispersion: float
    """Pearson's, at least 1: variance over mean."""


def fit(design: Floats, count: Floats, weight: Floats) -> Fit | None:
    """design [n, p], count [n], weight [n]; None where there is no fit: it did not settle, or columns are one another's sums."""
    mean = count + 0.1
    link = np.log(mean)
    deviance = _deviance(count, mean, weight)
    for _ in range(ITERATIONS):
        working = weight * mean
        scaled = design * working[:, None]
        try:
            inverse = np.linalg.inv(design.T @ scaled)
        except np.linalg.LinAlgError:
            return None
        coefficients = inverse @ (scaled.T @ (link + (count - mean) / mean))
        link = np.clip(design @ coefficients, LOWEST, 30.0)
        mean = np.exp(link)
        before, deviance = deviance, _deviance(count, mean, weight)
        if not np.isfinite(deviance):
            return None
        if abs(deviance - before) <= 1e-10 * (abs(deviance) + 0.1):
            break
    else:
        return None
    scaled = design * (weight * mean)[:, None]
    try:
        covariance = np.linalg.inv(design.T @ scaled)
    except np.linalg.LinAlgError:
        return None
    leverage: Floats = np.minimum(((design @ covariance) * scaled).sum(axis=1), 1 - 1e-9)
    freedom = len(count) - design.shape[1]
    pearson = float((weight * (count - mean) ** 2 / mean).sum()) / freedom
    return Fit(coefficients, covariance, mean, leverage, max(1.0, pearson))


def _deviance(count: Floats, mean: Floats, weight: Floats) -> float:
    log_ratio = np.where(count > 0, count * np.log(np.where(count > 0, count, 1.0) / mean), 0.0)
    return float(2 * (weight * (log_ratio - (count - mean))).sum())
