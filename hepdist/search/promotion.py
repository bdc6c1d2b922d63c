"""ASHA as Ray Tune's scheduler: trials are paused at a rung, and those that are among its best go on from there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from hepdist.search.halving import Halving


class Promotion(FIFOScheduler):
    """Ray's own ASHA stops for good what is not among the best that have come so far, and lets early ones go on; this one waits until it is certain."""

    def __init__(self, halving: Halving, planned: Callable[[], int], places: int, concurrent: int, *, early: bool) -> None:
        """planned: trials that there will be; places: those for which there is room; concurrent: most at a time, 0 for no such limit; early: let
        trials go on before it is certain that they are among the best, rather than start new ones (see halving)."""
        super().__init__()
        self.halving, self.planned, self.places, self.concurrent, self.early = halving, planned, places, concurrent, early
        self.reasons: dict[str, str] = {}
        """Why a trial of Tune's was stopped."""
        self._trials: dict[str, TuneTrial] = {}

    def full(self) -> bool:
        """Whether a new trial would be one too many, or take the place of one that can go on."""
        if not self.concurrent:
            return False
        return self._count(TuneTrial.RUNNING, TuneTrial.PENDING) >= self.concurrent or (self.early and self._next_paused() is not None)

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        """Also called for one that starts anew, since its process went away."""
        self._trials[_name(trial)] = trial
        if not trial.config["final"]:
            self.halving.back(_name(trial))

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        """Never stops a trial: of one that is out Tune would let the process go, before `choose_trial_to_run` has found who may have it."""
        self.halving.hear(_name(trial), result["epoch"], result["score"])
        on = trial.config["final"] or self.halving.verdict(_name(trial), self.halving.rungs()) == "goes on"
        return str(TrialScheduler.CONTINUE if on else TrialScheduler.PAUSE)

    def on_trial_complete(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> None:
        if "score" in result:
            self.halving.hear(_name(trial), result["epoch"], result["score"])
        self.halving.end(_name(trial), failed=any(key.startswith("failed") for key in result))

    def on_trial_remove(self, tune_controller: Any, trial: TuneTrial) -> None:
        self.halving.end(_name(trial))

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        self.halving.end(_name(trial), failed=True)

    def choose_trial_to_run(self, tune_controller: Any) -> TuneTrial | None:
        """A paused trial that is to go on. Those that can't any more are stopped. New trials are Tune's own matter, which come after these."""
        self.halving.plan(self.planned())
        rungs = self.halving.rungs()
        for name, trial in self._paused().items():
            if self.halving.verdict(name, rungs) == "is out":
                self.reasons[trial.trial_id] = self.halving.reason(name, rungs)
                tune_controller.stop_trial(trial)
        if self.concurrent and self._count(TuneTrial.RUNNING, TuneTrial.PENDING) >= self.concurrent:
            return None
        return self._next_paused()

    def _next_paused(self) -> TuneTrial | None:
        paused, rungs = self._paused(), self.halving.rungs()
        on = [name for name in paused if self.halving.verdict(name, rungs) == "goes on"]
        if on:
            return paused[min(on, key=lambda name: self.halving.order(name, rungs))]
        starting = [trial for name, trial in self._trials.items() if trial.status == TuneTrial.PENDING]
        resumed = [trial for trial in starting if _name(trial) in self.halving.scores]
        if self._count(TuneTrial.RUNNING) + len(resumed) < self.places and (self.early or not starting):
            early = self.halving.go_early(set(paused), rungs)
            return paused[early] if early is not None else None
        return None

    def _paused(self) -> dict[str, TuneTrial]:
        return {name: trial for name, trial in self._trials.items() if trial.status == TuneTrial.PAUSED}

    def _count(self, *states: str) -> int:
        return sum(trial.status in states for trial in self._trials.values())


def _name(trial: TuneTrial) -> str:
    """Ours, as on record."""
    return str(trial.config["trial"])
