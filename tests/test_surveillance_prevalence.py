"""Corrected prevalence: published examples, limits, coverage."""

from __future__ import annotations

from math import inf, sqrt

import numpy as np
import pytest

from hepdist.surveillance.prevalence import Accuracy, corrected


def test_the_brucellosis_example_of_epir() -> None:
    """23 of 150 cows, sensitivity 0.96, specificity 0.89: 5.1 %, in the documentation of R's epiR::epi.prev (0.9-11)."""
    assert corrected(23, 150, Accuracy(0.96, 0.89)).value == pytest.approx(0.0510, abs=5e-5)


def test_the_interval_by_hand_from_lang_and_reiczigels_equations() -> None:
    """3 of 263 by a test that found 88 of 89 and cleared 132 of 134."""
    z = 1.959963984540054
    n, nse, nsp = 263 + z * z, 91, 136
    share, se, sp = (3 + z * z / 2) / n, 89 / 91, 133 / 136
    centre = (share + sp - 1) / (se + sp - 1)
    shift = 2 * z * z * (centre * se * (1 - se) / nse - (1 - centre) * sp * (1 - sp) / nsp)
    variance = (share * (1 - share) / n + centre**2 * se * (1 - se) / nse + (1 - centre) ** 2 * sp * (1 - sp) / nsp) / (se + sp - 1) ** 2
    found = corrected(3, 263, Accuracy(88 / 89, 132 / 134, 89, 134))
    assert found.value == 0.0  # 3/263 is less than the 2/134 of false positives
    assert found.low == 0.0 == max(0.0, centre + shift - z * sqrt(variance))
    assert found.high == pytest.approx(centre + shift + z * sqrt(variance))


def test_a_perfect_test_gives_agresti_and_coulls_interval() -> None:
    statsmodels = pytest.importorskip("statsmodels.stats.proportion")
    for positive, tested in ((0, 30), (7, 50), (200, 1000)):
        found = corrected(positive, tested, Accuracy(1.0, 1.0))
        low, high = statsmodels.proportion_confint(positive, tested, method="agresti_coull")
        assert found.value == pytest.approx(positive / tested)
        assert (found.low, found.high) == pytest.approx((max(0.0, low), min(1.0, high)))


def test_what_was_estimated_from_many_is_as_good_as_known_and_from_few_is_wider() -> None:
    known = corrected(40, 200, Accuracy(0.9, 0.95))
    many = corrected(40, 200, Accuracy(0.9, 0.95, 1e9, 1e9))
    few = corrected(40, 200, Accuracy(0.9, 0.95, 40, 40))
    assert (many.low, many.high) == pytest.approx((known.low, known.high), abs=1e-6)
    assert few.high - few.low > 1.2 * (known.high - known.low)
    assert known == corrected(40, 200, Accuracy(0.9, 0.95, inf, inf))


def test_the_interval_holds_what_it_promises() -> None:
    rng = np.random.default_rng(7)
    inside = 0
    for _ in range(2000):
        sick = rng.binomial(300, 0.15)
        positive = int(rng.binomial(sick, 0.9) + rng.binomial(300 - sick, 0.06))
        found = corrected(positive, 300, Accuracy(rng.binomial(80, 0.9) / 80, rng.binomial(120, 0.94) / 120, 80, 120))
        inside += found.low <= 0.15 <= found.high
    assert 0.93 <= inside / 2000 <= 0.98


def test_accuracy_from_so_few_that_it_may_be_none_bounds_nothing() -> None:
    """One success and one failure more make 3/4 of 2 of 2; with a specificity of 1/4 the sum is 1, with less it is below."""
    for accuracy in (Accuracy(1, 0.25, 2), Accuracy(1, 0.05, 1, 1000)):
        found = corrected(30, 40, accuracy)
        assert (found.low, found.high) == (0.0, 1.0)
    assert corrected(30, 40, Accuracy(1, 0.26, 2)).high <= 1.0
