"""ASHA's arithmetic (Li et al., 2020): at which epochs trials are compared, and which of those that have come there go on. Knows nothing of Ray.

Of n trials that come to a rung the best n // reduction go on, at least one. In the paper a trial goes on as soon as it is among the best of
those that have come so far, so early ones go on that later ones turn out to beat. Here it is known how many will come, and a trial goes on once
it is *certain* to be among the best, whatever becomes of those still to come: on any number of places, in any order and after any restart the
same trials go on, at the cost of successive halving and without its waiting for the last of a rung. The paper's rule (`go_early`) is for places
that would stay empty, and for searches that a budget may end before all trials have come.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from hepdist.search.record import Trial
from hepdist.search.spec import SearchSpec
from hepdist.sections import OptimSpec, TrainSpec

Verdict = Literal["goes on", "waits", "is out"]
ASHA = "ASHA:"
"""How the reason of a trial begins that is out."""
MARGIN = 1e-9
"""Of rounding: a share of .1 of 50 epochs is 5 of them."""


def rung_epochs(search: SearchSpec, train: TrainSpec, optim: OptimSpec) -> list[int]:
    """The epochs of all rungs; the last one is the end of training."""
    every = train.validate_every
    earliest = max(train.epochs / search.reduction**2, train.epochs * optim.warmup)
    first = every * (search.grace or max(1, math.ceil(earliest / every - MARGIN)))
    found = []
    while first < train.epochs:
        found.append(first)
        first *= search.reduction
    return [*found, train.epochs]


def sizes(trials: int, rungs: int, reduction: int) -> list[int]:
    """How many of so many trials come to each rung."""
    found = [trials]
    while len(found) < rungs:
        found.append(_onward(found[-1], reduction))
    return found


class Rung:
    """One comparison as it stands. `ranking`: trials that have come, best first; `places`: how many go on; `to_come`: how many more may come."""

    def __init__(self, epoch: int, ranking: list[str], places: int, to_come: int, past: set[str]) -> None:
        """past: trials that have gone on already."""
        self.epoch, self.ranking, self.places, self.to_come = epoch, ranking, places, to_come
        self.place = {trial: place for place, trial in enumerate(ranking, 1)}
        self.certain = set(ranking[: max(0, places - to_come)])
        """Trials among the best, whatever comes."""
        self.onward = self.certain | past


class Halving:
    """Which trials go on, from what is heard of them."""

    def __init__(self, epochs: Sequence[int], reduction: int, higher_is_better: bool, planned: int) -> None:
        """epochs: of the rungs, the last of which is the end; planned: how many trials there will be."""
        self.epochs, self.reduction, self.planned = list(epochs[:-1]), reduction, planned
        self.sign = 1.0 if higher_is_better else -1.0
        self.scores: dict[str, dict[int, float]] = {}
        """By trial and epoch; higher is better, minus infinity for what is no number."""
        self.over: set[str] = set()
        """Trials that come no further: rungs to which they would go on take them with what they have, or as the last if they failed."""
        self.failed: set[str] = set()
        """Of these."""
        self.early: list[set[str]] = [set() for _ in self.epochs]
        """By rung, trials that went on before it was certain."""
        self._rungs: list[Rung] | None = None
        """As they were when they were last asked for, if nothing was heard since."""

    def hear(self, trial: str, epoch: int, score: Any) -> None:
        usable = isinstance(score, int | float) and math.isfinite(score)
        self.scores.setdefault(trial, {})[epoch] = self.sign * score if usable else -math.inf
        self._rungs = None

    def end(self, trial: str, *, failed: bool = False) -> None:
        """No more comes of it."""
        self.over.add(trial)
        self.failed |= {trial} if failed else set()
        self._rungs = None

    def back(self, trial: str) -> None:
        """It had ended, and is tried again."""
        self.over.discard(trial)
        self.failed.discard(trial)
        self._rungs = None

    def plan(self, trials: int) -> None:
        """There will be so many trials."""
        if trials != self.planned:
            self.planned, self._rungs = trials, None

    def read(self, trials: Iterable[Trial]) -> None:
        """Hear what is on record."""
        for trial in trials:
            for event in trial.results:
                self.hear(trial.id, event.facts["epoch"], event.facts["score"])
            if trial.end and trial.end.kind != "stopped":
                self.end(trial.id, failed=trial.end.kind == "failed")

    def rungs(self) -> list[Rung]:
        """All comparisons, of which the last rung has none."""
        if self._rungs is None:
            self._rungs = self._compare()
        return self._rungs

    def _compare(self) -> list[Rung]:
        found: list[Rung] = []
        entrants = self.scores.keys() | self.over
        size = max(self.planned, len(entrants))
        unknown = size - len(entrants)
        for number, epoch in enumerate(self.epochs):
            came = [trial for trial in entrants if trial in self.over or self._reached(trial) >= epoch]
            past = self.early[number] | {trial for trial in came if self._reached(trial) > epoch}
            places = _onward(size, self.reduction)
            ranking = sorted(came, key=lambda trial: (-self._score(trial, epoch), trial))
            rung = Rung(epoch, ranking, places, len(entrants) - len(came) + unknown, past)
            found.append(rung)
            entrants, size, unknown = rung.onward, places, places - len(rung.certain)
        return found

    def verdict(self, trial: str, rungs: Sequence[Rung]) -> Verdict:
        """What becomes of a trial where it stands."""
        for rung in rungs:
            if trial not in rung.place:
                break
            if trial not in rung.onward:
                return "is out" if rung.place[trial] > rung.places else "waits"
        return "goes on"

    def reason(self, trial: str, rungs: Sequence[Rung]) -> str:
        """Why a trial is out."""
        rung = next(rung for rung in rungs if trial in rung.place and trial not in rung.onward)
        came, all_of_them = len(rung.ranking), len(rung.ranking) + rung.to_come
        place = f"it was {_ordinal(rung.place[trial])} of the {came} that had come to epoch {rung.epoch}"
        return f"{ASHA} {place}; the best {rung.places} of {all_of_them} go on"

    def order(self, trial: str, rungs: Sequence[Rung]) -> tuple[int, int]:
        """Sorts trials that go on: those from the highest rung first, the best of a rung first."""
        return min(((-number, rung.place[trial]) for number, rung in enumerate(rungs) if trial in rung.place), default=(0, 0))

    def go_early(self, waiting: set[str], rungs: Sequence[Rung]) -> str | None:
        """Lets one of those that wait go on although that is not certain yet, from the highest rung that has one; None where no rung has.

        It is the best that waits, among the best 1 / reduction of those that have come, of which not as many as that have gone on (the last
        condition is D-ASHA's; Li et al., 2022).
        """
        for number, rung in reversed(list(enumerate(rungs))):
            room = len(rung.ranking) // self.reduction
            best = next((trial for trial in rung.ranking[:room] if trial in waiting and trial not in rung.onward), None)
            if best is not None and len(rung.onward) < room:
                self.early[number].add(best)
                self._rungs = None
                return best
        return None

    def _reached(self, trial: str) -> int:
        return max(self.scores.get(trial, ()), default=0)

    def _score(self, trial: str, epoch: int) -> float:
        """Where it stands at this epoch, not the best up to there: of a small validation split that keeps the luck of its first epochs."""
        heard = self.scores.get(trial, {})
        if not heard or (trial in self.failed and self._reached(trial) < epoch):
            return -math.inf
        return heard[max(at for at in heard if at <= epoch)]


def epochs_to_come(done: Sequence[tuple[float, bool]], epochs: Sequence[int], reduction: int, planned: int) -> float:
    """Epochs still to be trained in a search. done: by trial, those behind it, and whether it failed, so that it comes to no further rung."""
    left = 0.0
    for before, rung, size in zip([0, *epochs], epochs, sizes(planned, len(epochs), reduction), strict=False):
        step = rung - before
        behind = sum(step if failed and before <= epoch < rung else min(max(epoch - before, 0.0), step) for epoch, failed in done)
        left += max(0.0, size * step - behind)
    return left


def _onward(trials: int, reduction: int) -> int:
    return max(1, trials // reduction)


def _ordinal(number: int) -> str:
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
