"""The scheduler by itself, driven as Ray Tune drives it, over orders and losses that real searches rarely meet: nobody waits for ever."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import TrialScheduler

from hepdist.search.halving import Halving
from hepdist.search.promotion import Promotion

RUNGS = [1, 3, 9]


class Tune:
    """What of Tune's controller a scheduler sees, with trials whose curves are known; `step` is one turn of its loop, and finishes one epoch."""

    def __init__(self, trials: int, places: int, seed: int, *, concurrent: int = 0, early: bool = False, ahead: int = 4) -> None:
        self.rng, self.places, self.ahead = random.Random(seed), places, ahead
        self.curves = {f"{n:04d}": [self.rng.random() for _ in range(RUNGS[-1])] for n in range(trials)}
        self.halving = Halving(RUNGS, 3, True, trials)
        self.scheduler = Promotion(self.halving, lambda: trials, min(places, concurrent or places), concurrent, early=early)
        self.trials: dict[str, Any] = {}
        self.epochs = dict.fromkeys(self.curves, 0)
        self.begun: list[str] = []
        self.most = 0

    def of(self, *states: str) -> list[Any]:
        return [trial for trial in self.trials.values() if trial.status in states]

    def stop_trial(self, trial: Any) -> None:
        assert trial.status == TuneTrial.PAUSED
        self.scheduler.on_trial_remove(self, trial)
        trial.status = TuneTrial.TERMINATED

    def start(self, trial: Any) -> None:
        trial.status = TuneTrial.RUNNING
        self.begun.append(trial.trial_id)

    def step(self, lost: float = 0.0) -> None:
        while len(self.trials) < len(self.curves) and len(self.of(TuneTrial.PENDING)) < self.ahead and not self.scheduler.full():
            name = f"{len(self.trials):04d}"
            self.trials[name] = SimpleNamespace(trial_id=name, config={"trial": name, "final": False}, status=TuneTrial.PENDING)
            self.scheduler.on_trial_add(self, self.trials[name])
        chosen = self.scheduler.choose_trial_to_run(self)
        if chosen is not None:
            assert chosen.status == TuneTrial.PAUSED
            chosen.status = TuneTrial.PENDING
            if len(self.of(TuneTrial.RUNNING)) < self.places:
                self.start(chosen)
        for trial in self.of(TuneTrial.PENDING):
            if len(self.of(TuneTrial.RUNNING)) < self.places:
                self.start(trial)
        self.most = max(self.most, len(self.of(TuneTrial.RUNNING)))
        if running := self.of(TuneTrial.RUNNING):
            self.epoch(self.rng.choice(running), lost)

    def epoch(self, trial: Any, lost: float) -> None:
        name, scheduler = trial.trial_id, self.scheduler
        if self.rng.random() < lost:
            scheduler.on_trial_error(self, trial)
            trial.status = TuneTrial.ERROR
            if self.rng.random() < 0.5:  # it is tried again
                trial.status = TuneTrial.PENDING
                scheduler.on_trial_add(self, trial)
            return
        self.epochs[name] += 1
        result = {"epoch": self.epochs[name], "score": self.curves[name][self.epochs[name] - 1]}
        if self.epochs[name] == RUNGS[-1]:
            scheduler.on_trial_complete(self, trial, result)
            trial.status = TuneTrial.TERMINATED
        elif scheduler.on_trial_result(self, trial, result) == TrialScheduler.PAUSE:
            trial.status = TuneTrial.PAUSED

    def run(self, lost: float = 0.0) -> list[int]:
        """To the end; how many came to each rung."""
        for _ in range(5000):
            self.step(lost)
            if len(self.trials) == len(self.curves) and not self.of(TuneTrial.PENDING, TuneTrial.RUNNING, TuneTrial.PAUSED):
                return [sum(done >= epoch for done in self.epochs.values()) for epoch in RUNGS]
        raise AssertionError(f"the search does not end: {[(t.trial_id, t.status) for t in self.trials.values()]}")


@pytest.mark.parametrize(("places", "concurrent"), [(1, 0), (2, 0), (2, 1), (8, 2)])
@pytest.mark.parametrize("trials", [1, 2, 9, 27])
def test_a_search_ends_with_the_best_of_each_rung(trials: int, places: int, concurrent: int) -> None:
    came = set()
    for seed in range(5):
        tune = Tune(trials, places, seed, concurrent=concurrent)
        came.add(tuple(tune.run()))
        assert tune.most <= (concurrent or places)
        assert len(tune.scheduler.reasons) == sum(done < RUNGS[-1] for done in tune.epochs.values())
    assert came == {(trials, max(1, trials // 3), max(1, trials // 9))}


@pytest.mark.parametrize("concurrent", [0, 1, 3])
@pytest.mark.parametrize("early", [False, True])
def test_trials_that_are_lost_or_tried_again_keep_nobody_waiting(early: bool, concurrent: int) -> None:
    for seed in range(20):
        tune = Tune(20, 4, seed, concurrent=concurrent, early=early)
        tune.run(lost=0.1)  # which says so where it does not end
        assert set(tune.begun) == set(tune.curves)


@pytest.mark.parametrize("concurrent", [0, 2])
def test_under_a_budget_what_can_go_on_comes_before_what_is_new(concurrent: int) -> None:
    for seed in range(5):
        tune = Tune(27, 2, seed, concurrent=concurrent, early=True)
        came = tune.run()
        assert came[0] == 27 and 9 <= came[1] <= 16 and came[2] >= 3
        assert tune.begun.index("0026") > next(k for k, name in enumerate(tune.begun) if name in tune.begun[:k]), "nobody went on before"
        best = sorted(tune.curves, key=lambda name: -tune.curves[name][0])[:9]
        assert all(tune.epochs[name] >= 3 for name in best)
