"""Intervals hold known truths about 95 times in 100, and tests of equal models raise a false alarm about 5 times: benchmarks/coverage.py, reduced."""

from __future__ import annotations

import importlib.util
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SETS = 150
BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def coverage() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("coverage_benchmark", BENCHMARKS / "coverage.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


def shares(run, sets: int = SETS) -> np.ndarray:
    return np.mean([run(seed) for seed in range(sets)], axis=0)


def test_intervals_of_the_auroc_hold_the_truth_with_several_rows_a_patient(coverage):
    by_patient, by_row, bootstrap = shares(partial(coverage.auroc_held, patients=80, rows=3, area=0.85, mixed=False, resamples=200))
    assert 0.90 <= by_patient <= 0.99 and 0.90 <= bootstrap <= 0.99
    assert by_row < 0.88, "rows taken as independent claim too much"


def test_intervals_of_the_dice_hold_the_truth(coverage):
    (bootstrap,) = shares(partial(coverage.dice_held, patients=40, rows=2, mean=0.85, resamples=300))
    assert 0.90 <= bootstrap <= 0.99


def test_intervals_of_a_share_hold_it_near_its_end(coverage):
    by_patient, _, bootstrap = shares(partial(coverage.share_held, patients=40, rows=1, share=0.95), 300)
    assert 0.92 <= by_patient <= 0.99
    assert bootstrap < 0.92, "resamples of few errors have too little spread"


def test_paired_tests_keep_their_level_with_several_rows_a_patient(coverage):
    alarms = shares(partial(coverage.paired_refused, patients=80, rows=2, resamples=200), 200)
    assert (alarms <= 0.10).all(), alarms
    assert alarms.max() > 0.01, "a test that never speaks is none"


def test_subgroups_of_an_equally_good_model_are_rarely_said_to_differ(coverage):
    corrected, uncorrected = shares(partial(coverage.subgroups_refused, patients=150, rows=1, resamples=100), 40)
    assert corrected <= 0.20 < uncorrected
