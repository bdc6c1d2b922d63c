"""What the driver of a search hears from Ray Tune, written to the record at once, shown, and counted against the budget."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from hepdist.failure import MEMORY
from hepdist.search.proposer import Proposer
from hepdist.search.record import Event, Kind, Trial, note
from hepdist.search.standing import state

LOOK_S = 1.0
ENDED = "the search ended"
"""How the reason of a trial begins that a limit of the whole search stopped: it goes on where the same search is given more."""


class Recorder(tune.Callback):
    """Turns what Tune tells into events. A trial's cost is the sum over its attempts, each of which counts from zero."""

    def __init__(
        self,
        folder: Path,
        proposer: Proposer,
        epochs: int,
        changed: Callable[[Trial | None, Event | None], None],
        reasons: Callable[[str], str],
        otherwise: str,
    ) -> None:
        """changed: told of each event, and now and then that there was none; reasons: why the scheduler stopped a trial of Tune's, or '', for
        which `otherwise` is said."""
        self.folder, self.proposer, self.epochs, self.changed, self.reasons = folder, proposer, epochs, changed, reasons
        self.otherwise = otherwise
        self._base: dict[str, tuple[float, float]] = {}
        """By trial: device-seconds and money of the attempts before this one."""
        self._exploits: dict[str, dict[str, Any]] = {}
        self._looked = 0.0

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        for trial in trials:  # Tune does not tell
            if trial.status == TuneTrial.PAUSED and state(ours := self._ours(trial)) == "running":
                self._note(ours, "paused", {}, {})
        if time.monotonic() - self._looked >= LOOK_S:
            self._looked = time.monotonic()
            self.changed(None, None)

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        ours = self._ours(trial)
        self._base[ours.id] = ours.device_s, ours.money
        if ours.end is None:
            attempts = sum(event.kind == "started" for event in ours.events)
            self._note(ours, "started", {}, {"attempt": attempts + 1})

    def on_trial_result(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any) -> None:
        ours = self._ours(trial)
        if ours.end is not None:
            return
        if "failed" in result:
            self._note(ours, "failed", result, result["failed"])
        elif "epoch" in result and all(event.facts["epoch"] != result["epoch"] for event in ours.results if result["replayed"]):
            # what is told again was heard before, unless the driver was killed between the checkpoint and this line
            facts = {name: result[name] for name in ("epoch", "score", "scores", "lr", "overhead_s", "cost", "weights", "taken_over")}
            self._note(ours, "result", result, facts)
        if told := self._exploits.pop(ours.id, None):
            self._note(ours, "exploited", {}, told)

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        ours = self._ours(trial)
        if ours.end is not None:
            return
        result = trial.last_result or {}
        if result.get("finished") or (ours.results and ours.results[-1].facts["epoch"] >= self.epochs):
            self._note(ours, "finished", result, {})
        else:
            limit = self.proposer.spent()
            reason = self.reasons(trial.trial_id) or (f"{ENDED}, since {limit}" if limit else self.otherwise)
            self._note(ours, "stopped", result, {"reason": reason})

    def on_trial_recover(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Its process or machine went away; unless it was for memory, which it would lack again, Tune starts it anew."""
        ours, error = self._ours(trial), _words(trial)
        if MEMORY.search(error):
            self._note(ours, "failed", {}, {"cause": "memory", "error": _last(error), "story": error})
        else:
            self._note(ours, "interrupted", {}, {"reason": _last(error)})

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        ours, error = self._ours(trial), _words(trial)
        if ours.end is None:
            cause = "memory" if MEMORY.search(error) else "lost"
            self._note(ours, "failed", {}, {"cause": cause, "error": _last(error), "story": error})

    def over(self) -> None:
        """Tune has returned: what it ended without a word, a limit of the search ended."""
        if limit := self.proposer.spent():
            for trial in self.proposer.all:
                if trial.end is None:
                    self._note(trial, "stopped", {}, {"reason": f"{ENDED}, since {limit}"})

    def exploited(self, loser: str, donor: str, values: dict[str, Any], epoch: int) -> None:
        """See schedulers.Told. The scheduler decides on a result before it is heard here, and is noted after it."""
        self._exploits[loser] = {"donor": donor, "epoch": epoch, "config": values}

    def totals(self) -> tuple[float, float]:
        """Device-seconds and money spent so far."""
        return sum(t.device_s for t in self.proposer.all), sum(t.money for t in self.proposer.all)

    def _ours(self, trial: TuneTrial) -> Trial:
        return self.proposer.ids[trial.trial_id]

    def _note(self, trial: Trial, kind: Kind, result: dict[str, Any], facts: dict[str, Any]) -> None:
        before_s, before_money = self._base.get(trial.id, (0.0, 0.0))
        device_s = max(trial.device_s, before_s + float(result.get("device_s", 0.0)))
        money = max(trial.money, before_money + float(result.get("money", 0.0)))
        event = Event(trial.id, kind, round(device_s, 3), round(money, 6), time.time(), facts)
        trial.events.append(event)
        note(self.folder, event)
        self.changed(trial, event)


class Spent(tune.Stopper):
    """Nothing more is trained once a limit is reached."""

    def __init__(self, spent: Callable[[], str]) -> None:
        self.spent = spent

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return bool(self.spent())

    def stop_all(self) -> bool:
        return bool(self.spent())

    def __getstate__(self) -> dict[str, Any]:
        """Tune writes itself down now and then, for restarts in which nothing of it is read here."""
        return {}


def _words(trial: TuneTrial) -> str:
    error = trial.get_error()
    return str(error) if error else "its process ended without a word"


def _last(story: str) -> str:
    lines = [line.strip() for line in story.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason was given"
