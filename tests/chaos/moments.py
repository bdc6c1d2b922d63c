"""When a process is killed: seeded random moments, spread over the phases of a run, in rounds that one run lives through."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

Phase = Literal["start", "epoch", "validation", "checkpoint", "end"]
SPREAD: tuple[Phase, ...] = ("checkpoint", "start", "epoch", "validation", "end", "start")
"""Phases of one round; more moments repeat it with other draws."""


@dataclass(frozen=True)
class Moment:
    """One kill."""

    phase: Phase
    progress: float
    """Share of the run after which to look for the phase; 0 for the start, 1 for the end."""
    delay: float
    """Share, 0 to 1, of the phase that passes before the kill: of a start-up's seconds, of a checkpoint's files, of a few steps."""
    whom: float
    """0 to 1: which of the processes that could be killed."""


def rounds(seed: int, count: int, size: int = len(SPREAD)) -> list[list[Moment]]:
    """`count` moments in rounds of up to `size`, each in the order in which one run meets them."""
    draw = random.Random(seed)
    moments = [_moment(SPREAD[i % len(SPREAD)], draw) for i in range(count)]
    return [_in_order(moments[first : first + size]) for first in range(0, count, size)]


def phases(moments: list[Moment]) -> str:
    """A round's name in pytest."""
    return "-".join(moment.phase for moment in moments)


def _moment(phase: Phase, draw: random.Random) -> Moment:
    progress = {"start": 0.0, "end": 1.0}.get(phase, draw.uniform(0.05, 0.95))
    return Moment(phase, progress, draw.random(), draw.random())


def _in_order(moments: list[Moment]) -> list[Moment]:
    """By progress; every second start-up that is met is one after a kill in mid-run."""
    starts = [m for m in moments if m.phase == "start"]
    others = sorted((m for m in moments if m.phase != "start"), key=lambda m: m.progress)
    return starts[:1] + others[:1] + starts[1:] + others[1:]
