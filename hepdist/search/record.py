"""The search's folder: what was proposed and what became of it, line by line, so that a killed search goes on and a finished one can be read.

searches/NAME/
  recipe.yaml, cohort.sha256     what is searched over, on which cohort
  suggestions.jsonl              {"trial": "0007", "config": {recipe key: value}}, written before the trial starts
  events.jsonl                   what happened to trials, in order (Event)
  trials/0007/                   a run's folder each (docs/format.md)
  confirmed/0007-seed1/          the best ones, trained again
  best.yaml, search.json, search.html
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

SUGGESTIONS, EVENTS, TRIALS, CONFIRMED = "suggestions.jsonl", "events.jsonl", "trials", "confirmed"
Kind = Literal["started", "result", "exploited", "paused", "stopped", "finished", "failed", "interrupted"]
FINAL = ("stopped", "finished", "failed")
"""After these nothing more is to be done for a trial."""


@dataclass(frozen=True)
class Event:
    """Something that happened to a trial. By kind, `facts` holds

    started: attempt (from 1), node; again after an interruption or a pause.
    result: epoch, score (of task.select), scores (all of validation), lr, overhead_s (from the start of the attempt to its first step),
        cost {parameters, seconds: of inference a sample}, weights (sha256 of those in the checkpoint), taken_over (of those that this
        attempt began with, where they are another trial's).
    exploited: donor (a trial), epoch (of the donor, from which it goes on), config (its values from now on).
    paused: nothing; it waits for others to come as far.   stopped: reason, one sentence.   finished: nothing.
    interrupted: reason; the trial will go on.
    failed: cause ('error', 'memory', 'nonfinite' or 'lost'), error (its last line), story (the worker's traceback).
    """

    trial: str
    kind: Kind
    device_s: float = 0.0
    """Devices times seconds that the trial has cost so far."""
    money: float = 0.0
    time: float = field(default_factory=time.time)
    """UNIX."""
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Trial:
    """All that is known of one trial."""

    id: str
    config: dict[str, Any]
    events: list[Event] = field(default_factory=list)

    @property
    def family(self) -> str:
        return str(self.config.get("model.family", ""))

    @property
    def results(self) -> list[Event]:
        """One an epoch, in order of epochs; what was done again after an interruption is counted once, as it came out last."""
        by_epoch = {event.facts["epoch"]: event for event in self.events if event.kind == "result"}
        return [by_epoch[epoch] for epoch in sorted(by_epoch)]

    @property
    def end(self) -> Event | None:
        """What ended it, if anything has; one that a search's budget had stopped goes on where it is started again."""
        last = next((event for event in reversed(self.events) if event.kind in ("started", *FINAL)), None)
        return last if last is not None and last.kind != "started" else None

    @property
    def device_s(self) -> float:
        return max((event.device_s for event in self.events), default=0.0)

    @property
    def money(self) -> float:
        return max((event.money for event in self.events), default=0.0)

    def best(self, higher_is_better: bool) -> Event | None:
        """The result with the best score; the earliest of equals."""
        pick = max if higher_is_better else min
        return pick(self.results, key=lambda event: event.facts["score"], default=None)


def read_trials(folder: Path) -> list[Trial]:
    """All trials of a search in the order in which they were proposed."""
    trials = {line["trial"]: Trial(line["trial"], line["config"]) for line in _lines(folder / SUGGESTIONS)}
    for line in _lines(folder / EVENTS):
        trials[line["trial"]].events.append(Event(**line))
    return list(trials.values())


def suggest(folder: Path, trial: str, config: dict[str, Any]) -> None:
    _append(folder / SUGGESTIONS, {"trial": trial, "config": config})


def note(folder: Path, event: Event) -> None:
    _append(folder / EVENTS, asdict(event))


def _append(path: Path, line: dict[str, Any]) -> None:
    """One writer at a time: the process that drives the search."""
    with open(path, "a+b") as file:
        if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":  # a line that a kill cut off
            file.write(b"\n")
        file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Whole lines; one that a kill cut off is left out."""
    if not path.exists():
        return
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(text)
        except json.JSONDecodeError:
            continue
