"""Expected counts by the Farrington-flexible method: Noufaily et al., An improved algorithm for outbreak detection in multiple
surveillance systems, Statistics in Medicine 2013, 32:1206; for what that keeps of it, Farrington et al., JRSS A 1996, 159:547."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.stats import nbinom, norm, poisson

from hepdist.surveillance.judgement import Judgement, exceedance
from hepdist.surveillance.quasi_poisson import Fit, Floats, fit
from hepdist.surveillance.weeks import YEAR

BLOCKS = 9
"""Seasons besides the reference window: nine of five weeks, with a window of seven, make a year of 52."""
REPORT_WEEKS = 4
"""Weeks over which `least_reports` are counted, the judged one included."""


@dataclass(frozen=True)
class Rules:
    """The method's constants; the options of the same names say why (spec.py)."""

    years: int = 5
    half_window: int = 3
    leave_out_weeks: int = 26
    outlier: float = 2.58
    alpha: float = 0.005
    quantile: str = "negative_binomial"
    least_reports: int = 5
    weeks_per_year: float = YEAR
    """Simulated series have 52."""


@dataclass(frozen=True)
class Baseline:
    """Which past weeks are used for a judged week, by how many weeks ago, and the season of each (0: that of the judged week)."""

    ago: NDArray[np.int64]
    season: NDArray[np.int64]


def baseline(rules: Rules, history: int) -> Baseline | None:
    """Of a week with `history` weeks before it; None where three whole years with their windows are not there."""
    anniversaries = [round(k * rules.weeks_per_year) for k in range(rules.years + 1)]
    years = max((k for k in range(rules.years + 1) if anniversaries[k] + rules.half_window <= history), default=0)
    if years < 3:
        return None
    ago = np.arange(1, anniversaries[years] + rules.half_window + 1)
    season = np.zeros(len(ago), dtype=np.int64)
    for younger, older in pairwise(anniversaries[: years + 1]):
        first, last = younger + rules.half_window + 1, older - rules.half_window - 1
        between = (ago >= first) & (ago <= last)
        season[between] = 1 + (ago[between] - first) * BLOCKS // (last - first + 1)
    used = ago > rules.leave_out_weeks
    return Baseline(ago[used], season[used])


def farrington(counts: Floats, week: int, rules: Rules) -> Judgement | None:
    """Judge counts[week] by the weeks before it; None where they are fewer than three years.

    counts: weekly, without a gap. A log-linear model with the ten seasons and a trend is fitted twice: the second time, weeks whose
    standardised Anscombe residual exceeds `outlier` weigh its inverse square less. There is no trend where the fit with one doesn't
    settle, or foretells more than any week of the baseline had.
    """
    return farrington_of_many(counts[None], week, rules)[0]


def farrington_of_many(counts: Floats, week: int, rules: Rules) -> list[Judgement | None]:
    """The same of counts[series, weeks], all of which began in the same week, in a tenth of the time."""
    base = baseline(rules, week)
    if base is None:
        return [None] * len(counts)
    past, now = counts[:, week - base.ago], counts[:, week]
    seasons = np.eye(BLOCKS + 1)[base.season]
    seasons[:, 0] = 1.0  # the intercept is the judged week's own season
    trend = -base.ago[:, None] / 100  # in hundreds of weeks before the judged week, where it is 0: the intercept is what is expected
    model = _reweighted(np.hstack([seasons, trend]), past, rules.outlier)
    kept = model.settled & (np.exp(model.coefficients[:, 0]) <= np.maximum(past.max(axis=1), 1.0))
    means, dispersions, variances = _at_judged_week(model)
    if not kept.all():
        flat = _reweighted(seasons, past[~kept], rules.outlier)
        for values, others in zip((means, dispersions, variances), _at_judged_week(flat), strict=True):
            values[~kept] = others
        kept[~kept] = flat.settled
    enough = counts[:, max(0, week - REPORT_WEEKS + 1) : week + 1].sum(axis=1) >= rules.least_reports
    uppers, tails = threshold(means, dispersions, variances, rules), tail(now, means, dispersions)
    judged: list[Judgement | None] = []
    for i, settled in enumerate(kept):
        count, mean, upper = float(now[i]), float(means[i]), float(uppers[i])
        alert = bool(count > upper and enough[i])
        judged.append(Judgement("farrington", mean, upper, alert, exceedance(count, mean, upper), float(tails[i])) if settled else None)
    return judged


def threshold(mean: Floats, dispersion: Floats, variance: Floats, rules: Rules) -> Floats:
    """The counts that quiet weeks exceed with chance alpha. variance: of the estimated means.

    negative_binomial: a quantile of the distribution with this mean and `dispersion` times it as variance (Poisson for 1).
    two_thirds: counts to the power 2/3 are nearly normal; this one takes the mean's own variance into account.
    """
    if rules.quantile == "negative_binomial":
        upper: Floats = poisson.ppf(1 - rules.alpha, mean)
        over = dispersion > 1
        upper[over] = nbinom.ppf(1 - rules.alpha, *_size_and_chance(mean[over], dispersion[over]))
        return upper
    spread = np.sqrt(dispersion * mean + variance)
    power: Floats = mean * (1 + 2 / 3 * norm.isf(rules.alpha) * spread / mean) ** 1.5
    return power


def tail(count: Floats, mean: Floats, dispersion: Floats) -> Floats:
    """Chances of such counts or higher ones in quiet weeks."""
    chance: Floats = poisson.sf(count - 1, mean)
    over = dispersion > 1
    chance[over] = nbinom.sf(count[over] - 1, *_size_and_chance(mean[over], dispersion[over]))
    return chance


def weights(residual: Floats, outlier: float) -> Floats:
    """One for weeks within `outlier`, the inverse square of the residual beyond it; scaled so that they sum to the number of weeks."""
    weight = np.where(residual > outlier, 1 / np.maximum(residual, outlier) ** 2, 1.0)
    scaled: Floats = weight * (weight.shape[-1] / weight.sum(axis=-1, keepdims=True))
    return scaled


def anscombe(count: Floats, fitted: Fit) -> Floats:
    """Standardised Anscombe residuals: 3/2 (y^(2/3) - m^(2/3)) / (m^(1/6) sqrt(dispersion (1 - leverage))), [series, n]."""
    raw = 1.5 * (np.cbrt(count) ** 2 - np.cbrt(fitted.mean) ** 2) / fitted.mean ** (1 / 6)
    residual: Floats = raw / np.sqrt(fitted.dispersion[:, None] * (1 - fitted.leverage))
    return residual


def _reweighted(design: Floats, past: Floats, outlier: float) -> Fit:
    first = fit(design, past, np.ones_like(past))
    return fit(design, past, weights(anscombe(past, first), outlier))


def _at_judged_week(model: Fit) -> tuple[Floats, Floats, Floats]:
    """Expected counts, dispersions, and variances of the expected counts, by series."""
    mean = np.exp(model.coefficients[:, 0])
    return mean, model.dispersion.copy(), mean**2 * model.covariance[:, 0, 0] * model.dispersion


def _size_and_chance(mean: Floats, dispersion: Floats) -> tuple[Floats, Floats]:
    """SciPy's parameters of the negative binomial with variance dispersion * mean."""
    return mean / (dispersion - 1), 1 / dispersion
