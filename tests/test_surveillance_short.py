"""EARS and CUSUM against numbers worked out by hand."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from hepdist.surveillance.cusum import cusum, standardised
from hepdist.surveillance.ears import ears

SEVEN = [3.0, 5.0, 4.0, 6.0, 2.0, 4.0, 4.0]
"""Mean 4, sample variance 10 / 6."""
SD = sqrt(10 / 6)


def test_c1_is_three_standard_deviations_above_the_seven_weeks_before() -> None:
    for count, alert in ((7.0, False), (8.0, True)):  # 4 + 3 * 1.291 = 7.87
        judged = ears(np.array([*SEVEN, count]), 7, "ears_c1", 0.5)
        assert judged is not None
        assert (judged.expected, judged.alert) == (4.0, alert)
        assert judged.upper == pytest.approx(4 + 3 * SD)
        assert judged.score == pytest.approx((count - 4) / (3 * SD))


def test_c1_p_is_students_t_with_six_degrees() -> None:
    judged = ears(np.array([*SEVEN, 4 + SD * sqrt(8 / 7) * 1.943180]), 7, "ears_c1", 0.5)  # the 95 % quantile of a printed table
    assert judged is not None and judged.p == pytest.approx(0.05, abs=1e-6)


def test_c2_leaves_two_weeks_between() -> None:
    judged = ears(np.array([*SEVEN, 90.0, 90.0, 8.0]), 9, "ears_c2", 0.5)
    assert judged is not None and judged.expected == 4.0 and judged.alert


def test_c3_sums_what_exceeds_one_deviation_over_three_weeks() -> None:
    counts = np.array([0.0, 2.0] * 7 + [0.0] * 0)  # means and deviations of windows are easy: 0 and 2 in turn
    counts = np.concatenate([counts, [3.0, 3.0, 3.0]])
    expected = []
    for week in (14, 15, 16):
        window = counts[week - 9 : week - 2]
        expected.append((counts[week] - window.mean()) / window.std(ddof=1))
    judged = ears(counts, 16, "ears_c3", 0.5)
    assert judged is not None
    total = sum(max(0.0, c2 - 1) for c2 in expected)
    assert judged.alert == (total > 2)
    window = counts[7:14]
    carried = sum(max(0.0, c2 - 1) for c2 in expected[:2])
    assert judged.upper == pytest.approx(window.mean() + window.std(ddof=1) * (3 - carried))
    at = counts.copy()
    for count, alert in ((judged.upper - 1e-6, False), (judged.upper + 1e-6, True)):  # the threshold is where the sum is 2
        at[16] = count
        assert ears(at, 16, "ears_c3", 0.5).alert is alert  # type: ignore[union-attr]


def test_after_weeks_of_none_one_case_is_no_infinite_deviation() -> None:
    judged = ears(np.array([0.0] * 7 + [1.0]), 7, "ears_c1", 0.5)
    assert judged is not None and judged.upper == 1.5 and not judged.alert


@pytest.mark.parametrize(("method", "needs"), [("ears_c1", 7), ("ears_c2", 9), ("ears_c3", 11)])
def test_ears_says_nothing_before_it_can(method: str, needs: int) -> None:
    counts = np.ones(20)
    assert ears(counts, needs - 1, method, 0.5) is None  # type: ignore[arg-type]
    assert ears(counts, needs, method, 0.5) is not None  # type: ignore[arg-type]


def test_rossis_transformation_by_hand() -> None:
    assert standardised(4.0, 4.0) == 0.0  # (4 - 12 + 8) / 4
    assert standardised(9.0, 4.0) == pytest.approx((9 - 12 + 12) / 4)
    assert standardised(0.0, 4.0) == pytest.approx(-3.0)


def test_cusum_sums_by_hand_and_begins_again_after_an_alert() -> None:
    base = [2.0, 6.0] * 13  # 26 weeks; those that end four weeks before week 26: 22 of mean 4 and variance 4.19
    counts = np.array([*base, 9.0, 9.0, 4.0])
    judged = cusum(counts, 1.04, 2.26)
    assert judged[25] is None
    first, second, third = judged[26], judged[27], judged[28]
    assert first and second and third
    variance = 22 * 4 / 21
    assert first.expected == 4.0
    phi = variance / 4
    z = standardised(9 / phi, 4 / phi)
    assert not first.alert and z - 1.04 < 2.26
    window = counts[:23]
    phi2, mean2 = window.var(ddof=1) / window.mean(), window.mean()
    total = (z - 1.04) + standardised(9 / phi2, mean2 / phi2) - 1.04
    assert second.alert is bool(total > 2.26) is True
    window = counts[:24]
    phi3, mean3 = max(1.0, window.var(ddof=1) / window.mean()), window.mean()
    assert standardised(third.upper / phi3, mean3 / phi3) == pytest.approx(1.04 + 2.26)  # the sum is 0 again


def test_cusums_threshold_is_the_count_that_brings_the_sum_to_its_limit() -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(7, 40).astype(float)
    judged = cusum(counts, 1.04, 2.26)[39]
    assert judged is not None
    for count, alert in ((judged.upper - 1e-6, False), (judged.upper + 1e-6, True)):
        assert cusum(np.array([*counts[:39], count]), 1.04, 2.26)[39].alert is alert  # type: ignore[union-attr]


def test_cusums_quiet_run_length_is_near_rossis_500_on_normal_scores() -> None:
    """k = 1.04 and h = 2.26 on a standard normal sequence: in-control average run length of about 500."""
    rng = np.random.default_rng(1)
    total = np.zeros(4000)
    lengths: list[int] = []
    age = np.zeros(4000, dtype=int)
    for _ in range(3000):
        total = np.maximum(0.0, total + rng.standard_normal(4000) - 1.04)
        age += 1
        over = total > 2.26
        lengths += age[over].tolist()
        total[over], age[over] = 0.0, 0
    assert 3000 * 4000 / len(lengths) == pytest.approx(500, rel=0.1)
