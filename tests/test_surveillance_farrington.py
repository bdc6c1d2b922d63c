"""Farrington flexible against an independent computation: statsmodels' GLM, and the formulas of Noufaily et al. (2013) written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import nbinom, norm, poisson

from hepdist.surveillance.farrington import Rules, anscombe, baseline, farrington, farrington_of_many, tail, threshold, weights
from hepdist.surveillance.quasi_poisson import fit

RULES = Rules(weeks_per_year=52)


def series(mean: float = 6.0, phi: float = 2.0, weeks: int = 330, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    t = np.arange(weeks)
    expected = mean * np.exp(0.002 * t + 0.5 * np.cos(2 * np.pi * t / 52))
    return (rng.poisson(expected) if phi == 1 else rng.negative_binomial(expected / (phi - 1), 1 / phi)).astype(float)


def by_statsmodels(counts: np.ndarray, week: int, rules: Rules) -> tuple[float, float, float]:
    """Expected count, dispersion and variance of the expected count, written from the paper with statsmodels for the fits."""
    sm = pytest.importorskip("statsmodels.api")
    rows, past = [], []
    for ago in range(rules.leave_out_weeks + 1, 5 * 52 + 3 + 1):
        inside = (ago + 3) % 52  # 0 to 6: within three weeks of an anniversary; then nine blocks of five
        season = 0 if inside < 7 else 1 + (inside - 7) // 5
        rows.append([1.0] + [float(season == level) for level in range(1, 10)] + [float(-ago)])
        past.append(counts[week - ago])
    design, y = np.array(rows), np.array(past)
    first = sm.GLM(y, design, family=sm.families.Poisson()).fit(tol=1e-12)
    phi = max(1.0, first.pearson_chi2 / first.df_resid)
    hat = first.get_hat_matrix_diag()
    residual = 1.5 * (y ** (2 / 3) - first.mu ** (2 / 3)) / (first.mu ** (1 / 6) * np.sqrt(phi * (1 - hat)))
    weight = np.array([1 / s**2 if s > rules.outlier else 1.0 for s in residual])
    weight *= len(weight) / weight.sum()
    second = sm.GLM(y, design, family=sm.families.Poisson(), var_weights=weight).fit(tol=1e-12)
    phi = max(1.0, float((weight * (y - second.mu) ** 2 / second.mu).sum()) / (len(y) - design.shape[1]))
    now = np.array([1.0] + [0.0] * 10)
    mean = math.exp(float(now @ second.params))
    return mean, phi, mean**2 * phi * float(now @ second.normalized_cov_params @ now)


@pytest.mark.parametrize(("phi", "seed"), [(1.0, 0), (2.0, 1), (4.0, 2)])
def test_expected_count_and_threshold_are_those_of_statsmodels(phi: float, seed: int) -> None:
    counts = series(phi=phi, seed=seed)
    counts[150:153] += 40  # an outbreak that reweighting must take back
    for week in (300, 317, 329):
        mean, dispersion, variance = by_statsmodels(counts, week, RULES)
        judged = farrington(counts, week, RULES)
        assert judged is not None
        assert judged.expected == pytest.approx(mean, rel=1e-8)
        quantile = nbinom.ppf(0.995, mean / (dispersion - 1), 1 / dispersion) if dispersion > 1 else poisson.ppf(0.995, mean)
        assert judged.upper == quantile
        assert judged.score == pytest.approx((counts[week] - mean) / (quantile - mean), rel=1e-8)
        power = farrington(counts, week, Rules(weeks_per_year=52, quantile="two_thirds"))
        spread = math.sqrt(dispersion * mean + variance)
        by_power = (mean ** (2 / 3) + norm.ppf(0.995) * 2 / 3 * mean ** (-1 / 3) * spread) ** 1.5
        assert power is not None and power.upper == pytest.approx(by_power, rel=1e-8)


def test_the_fit_with_leverage_and_covariance_is_that_of_statsmodels() -> None:
    sm = pytest.importorskip("statsmodels.api")
    rng = np.random.default_rng(3)
    design = np.column_stack([np.ones(80), rng.normal(size=(80, 2))])
    count = rng.poisson(np.exp(design @ [1.0, 0.4, -0.3])).astype(float)
    weight = rng.uniform(0.2, 1.5, 80)
    other = sm.GLM(count, design, family=sm.families.Poisson(), var_weights=weight).fit(tol=1e-12)
    ours = fit(design, np.array([count[::-1], count]), np.array([weight, weight]))
    assert ours.settled.all()
    np.testing.assert_allclose(ours.coefficients[1], other.params, rtol=1e-9)
    np.testing.assert_allclose(ours.covariance[1], other.normalized_cov_params, rtol=1e-8)
    np.testing.assert_allclose(ours.leverage[1], other.get_hat_matrix_diag(), rtol=1e-8)


def test_many_series_at_once_are_judged_as_each_alone() -> None:
    counts = np.array([*(series(mean=mean, seed=int(10 * mean)) for mean in (0.1, 1.0, 5.0, 40.0)), np.zeros(330)])
    for one, alone in zip(farrington_of_many(counts, 320, RULES), counts, strict=True):
        other = farrington(alone, 320, RULES)
        assert one is not None and other is not None
        assert (one.upper, one.alert) == (other.upper, other.alert)
        assert one.expected == pytest.approx(other.expected, rel=1e-7, abs=1e-8)


def test_the_baseline_is_five_years_in_ten_seasons_without_the_newest_half_year() -> None:
    base = baseline(RULES, 263)
    assert base is not None
    assert (base.ago.min(), base.ago.max(), len(base.ago)) == (27, 263, 237)
    season = dict(zip(base.ago.tolist(), base.season.tolist(), strict=True))
    for year in range(1, 6):
        assert {season[ago] for ago in range(52 * year - 3, 52 * year + 4)} == {0}
    assert [season[ago] for ago in range(56, 101)] == [level for level in range(1, 10) for _ in range(5)]
    assert np.bincount(base.season).tolist() == [35, 20, 20, 20, 20, 22, 25, 25, 25, 25]


def test_on_the_calendar_windows_stay_at_the_same_days_of_the_year() -> None:
    base = baseline(Rules(), 300)
    assert base is not None
    centres = [int(np.median(part)) for part in np.split(base.ago[base.season == 0], 5)]
    assert centres == [52, 104, 157, 209, 261]  # 365.2425 / 7 weeks a year


def test_fewer_years_are_used_where_there_are_fewer_and_less_than_three_are_none() -> None:
    assert baseline(RULES, 3 * 52 + 2) is None
    for history, years in ((3 * 52 + 3, 3), (4 * 52 + 3, 4), (6 * 52, 5)):
        base = baseline(RULES, history)
        assert base is not None and base.ago.max() == years * 52 + 3
    assert farrington(series(), 100, RULES) is None


def test_weights_are_the_inverse_square_of_residuals_beyond_the_limit() -> None:
    found = weights(np.array([-4.0, 0.0, 2.58, 5.16]), 2.58)
    assert found.sum() == pytest.approx(4)
    np.testing.assert_allclose(found / found[0], [1, 1, 1, 1 / 5.16**2])


def test_anscombe_residuals_by_hand() -> None:
    count = np.array([[8.0, 1.0, 27.0, 8.0]])
    fitted = fit(np.ones((4, 1)), count, np.ones((1, 4)))
    assert fitted.mean[0, 0] == pytest.approx(11) and fitted.leverage[0, 0] == pytest.approx(0.25)
    assert fitted.dispersion[0] == pytest.approx((9 + 100 + 256 + 9) / 11 / 3)
    by_hand = 1.5 * (4 - 11 ** (2 / 3)) / (11 ** (1 / 6) * math.sqrt(fitted.dispersion[0] * 0.75))
    assert anscombe(count, fitted)[0, 0] == pytest.approx(by_hand)


def test_an_old_outbreak_hardly_moves_the_threshold_and_a_new_one_alerts() -> None:
    quiet = series(mean=8, phi=1.5, seed=5)
    sick = quiet.copy()
    sick[330 - 5 - 2 * 52 : 330 - 2 - 2 * 52] += 50  # in the judged week's own season
    now, unmoved, unweighted = (
        farrington(counts, 326, rules) for counts, rules in ((quiet, RULES), (sick, RULES), (sick, Rules(weeks_per_year=52, outlier=99)))
    )
    assert now and unmoved and unweighted
    assert abs(unmoved.upper - now.upper) < 0.25 * abs(unweighted.upper - now.upper)
    quiet[326] = now.upper + 1
    alerted = farrington(quiet, 326, RULES)
    assert alerted is not None and alerted.alert and alerted.score is not None and alerted.score > 1
    quiet[326] = now.upper
    assert not farrington(quiet, 326, RULES).alert  # type: ignore[union-attr]


def test_no_alert_with_fewer_than_five_reports_in_four_weeks() -> None:
    counts = np.zeros(320)
    counts[::40] = 1
    counts[316:320] = [0, 0, 0, 4]
    judged = farrington(counts, 319, RULES)
    assert judged is not None and counts[319] > judged.upper and not judged.alert
    counts[316] = 1  # the fourth week back counts, the fifth doesn't
    assert farrington(counts, 319, RULES).alert  # type: ignore[union-attr]
    counts[315:317] = [1, 0]
    assert not farrington(counts, 319, RULES).alert  # type: ignore[union-attr]


def test_without_any_case_in_the_past_the_expected_count_is_none_and_the_method_still_answers() -> None:
    judged = farrington(np.zeros(320), 319, RULES)
    assert judged is not None
    assert judged.expected < 1e-6 and judged.upper == 0 and not judged.alert and judged.score is None


def test_a_trend_that_foretells_more_than_was_ever_seen_is_left_out() -> None:
    counts = np.full(330, 1.0)
    counts[200:303] = np.round(np.linspace(1, 30, 103))  # rises until the baseline's end
    judged = farrington(counts, 329, RULES)
    assert judged is not None and judged.expected <= 30


def test_thresholds_and_tails_are_those_of_the_distributions() -> None:
    mean, dispersion, none = np.array([5.0, 5.0]), np.array([1.0, 3.0]), np.zeros(2)
    r, chance = 5 / (3 - 1), 1 / 3
    assert nbinom.mean(r, chance) == pytest.approx(5) and nbinom.var(r, chance) == pytest.approx(15)
    assert threshold(mean, dispersion, none, RULES).tolist() == [12, nbinom.ppf(0.995, r, chance)]
    assert poisson.cdf(11, 5) < 0.995 <= poisson.cdf(12, 5)
    tails = tail(np.array([0.0, 4.0]), mean, dispersion)
    assert tails.tolist() == pytest.approx([1, 1 - sum(nbinom.pmf(y, r, chance) for y in range(4))])
