"""Weighted quasi-Poisson regressions with log link, by iteratively reweighted least squares, for many series on one design at once.

Not statsmodels' GLM, which takes three times as long for one of the thousands of fits that a table needs, and seconds to import;
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
    """A row a series."""

    coefficients: Floats
    """[series, p]."""
    covariance: Floats
    """[series, p, p], of the coefficients, for a dispersion of 1."""
    mean: Floats
    """[series, n], fitted."""
    leverage: Floats
    """[series, n], the diagonal of the hat matrix."""
    dispersion: Floats
    """[series], Pearson's, at least 1: variance over mean."""
    settled: NDArray[np.bool_]
    """[series]; the others are no fits."""


def fit(design: Floats, count: Floats, weight: Floats) -> Fit:
    """design [n, p] of full rank, count and weight [series, n]."""
    n, p = design.shape
    products = (design[:, :, None] * design[:, None, :]).reshape(n, p * p)
    mean = count + 0.1
    link = np.log(mean)
    deviance = _deviance(count, mean, weight)
    settled = np.zeros(len(count), dtype=bool)
    for _ in range(ITERATIONS):
        working = weight * mean
        normal = (working @ products).reshape(-1, p, p)
        coefficients = np.linalg.solve(normal, ((working * link + weight * (count - mean)) @ design)[:, :, None])[:, :, 0]
        link = np.clip(coefficients @ design.T, LOWEST, 30.0)
        mean = np.exp(link)
        before, deviance = deviance, _deviance(count, mean, weight)
        settled = np.abs(deviance - before) <= 1e-10 * (np.abs(deviance) + 0.1)
        if settled.all():
            break
    working = weight * mean
    covariance = np.linalg.inv((working @ products).reshape(-1, p, p))
    leverage = working * (covariance.reshape(-1, p * p) @ products.T)
    pearson = (weight * (count - mean) ** 2 / mean).sum(axis=1) / (n - p)
    return Fit(
        coefficients.astype(np.float64),
        covariance.astype(np.float64),
        mean,
        np.minimum(leverage, 1 - 1e-9),
        np.maximum(1.0, pearson),
        settled,
    )


def _deviance(count: Floats, mean: Floats, weight: Floats) -> Floats:
    log_ratio = np.where(count > 0, count * np.log(np.where(count > 0, count, 1.0) / mean), 0.0)
    deviance: Floats = 2 * (weight * (log_ratio - (count - mean))).sum(axis=1)
    return deviance
