"""The search as a person watches it: a live table on a terminal, a line for each trial that ends elsewhere."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.live import Live as Screen
from rich.table import Table
from rich.text import Text

from hepdist.console import err
from hepdist.search.halving import epochs_to_come, rung_epochs
from hepdist.search.record import Trial
from hepdist.search.spec import SearchSpec
from hepdist.search.standing import (
    FAMILY,
    RATE,
    State,
    best_score,
    clock,
    config_now,
    epochs_done,
    hours,
    leader,
    metric_of,
    ranked,
    rate_of,
    rungs_reached,
    short,
    shown,
    state,
)
from hepdist.sections import OptimSpec, TrainSpec

SUMMARY_S = 30.0
"""Seconds between two summaries where stderr is a file: a search runs for hours, and a log wants few lines."""
AROUND_ROWS = 7
"""Lines of the terminal that are no trial's: three of summary, the table's head with its rule, what was left out, the cursor."""
REDRAW_S = 0.5
"""Seconds between two drawings of the table: one of 150 trials takes 70 ms of a core that trials could use."""
FEW = 3
"""Trials that must have ended before how far they came tells how far others will."""
WIDE = 100
"""Columns of a terminal from which on there is room for a trial's other parameters."""
COLOURS: dict[State, str] = {
    "waiting": "dim",
    "running": "cyan",
    "paused": "blue",
    "interrupted": "yellow",
    "stopped": "dim",
    "finished": "green",
    "failed": "red",
}


class Live:
    """Shows a search while it runs; a context manager that the driver feeds with `update`.

    recipe: plain values of the resolved recipe. planned: trials that there will be, at most; fewer than search.trials where a grid ends
    sooner. usual_epochs: to which the mean trial is trained; all of them where it is not given. Money is shown without a sign: it is in the currency of search.prices.
    """

    def __init__(
        self,
        recipe: Mapping[str, Any],
        *,
        planned: int | None = None,
        usual_epochs: float | None = None,
        console: Console | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.recipe, self.search = recipe, SearchSpec(**recipe.get("search", {}))
        self.planned = planned or self.search.trials
        self.usual_epochs = usual_epochs or value_of_epochs(recipe)
        self.rungs = rung_epochs(self.search, TrainSpec(**recipe.get("train", {})), OptimSpec(**recipe.get("optim", {})))
        """ASHA's."""
        self.metric, self.higher_is_better = metric_of(recipe)
        self.console, self.now = console or err, now
        self.began = self.summed = now()
        self.before: tuple[float, float, float] | None = None
        """Epochs, device-seconds and money at the first update: a search that was taken up again spent them in another process."""
        self.told: set[str] = set()
        self.latest: tuple[Sequence[Trial], float, float, int, int] | None = None
        """What `update` was last called with."""
        self.drawn = -math.inf
        self.screen = Screen(console=self.console, auto_refresh=False) if self.console.is_terminal else None

    def __enter__(self) -> Live:
        if self.screen:
            self.screen.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.screen:
            self._draw()
            self.screen.stop()

    def update(self, trials: Sequence[Trial], device_s: float, money: float = 0.0, busy: int = 0, devices: int = 0) -> None:
        """Show where the search is. device_s, money: spent by all trials; busy of devices: what runs now, where it is known.

        The first call tells what an earlier process did: its trials are counted, not told one by one. Call it every second or so, or more often: it draws at most twice a second.
        """
        if self.before is None:
            self.before = self._epochs(trials), device_s, money
            self.told = {trial.id for trial in trials if trial.end}
        ended = [trial for trial in trials if trial.end and trial.id not in self.told]
        self.told |= {trial.id for trial in ended}
        for trial in ended:
            if self.screen is None or state(trial) == "failed":  # a table forgets what went wrong; lines stay
                self._line(self._ending(trial))
        self.latest = trials, device_s, money, busy, devices
        if self.screen and self.now() - self.drawn >= REDRAW_S:
            self._draw()
        elif self.screen is None and self.now() - self.summed >= SUMMARY_S:
            self.summed = self.now()
            self._line("; ".join(self._summary(*self.latest)))

    def _draw(self) -> None:
        self.drawn = self.now()
        if self.screen and self.latest:
            self.screen.update(self._table(self.latest[0], self._summary(*self.latest)), refresh=True)

    def _line(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def _ending(self, trial: Trial) -> str:
        """What became of a trial, in a line: '0007 stopped after epoch 3: resnet, lr 0.0031, auroc 0.9120, 0.21 device-hours (reason)'."""
        assert trial.end is not None
        score, facts, rate = best_score(trial, self.higher_is_better), trial.end.facts, rate_of(trial, self.recipe)
        parts = [trial.family or value_of_family(self.recipe)]
        parts += [f"lr {shown(rate)}"] if rate is not None else []
        parts += [f"{self.metric} {score:.4f}"] if score is not None else []
        parts += [f"{hours(trial.device_s)} device-hours"]
        reason = facts.get("reason", "") if trial.end.kind == "stopped" else ""
        if trial.end.kind == "failed":
            reason = f"{facts.get('cause', 'error')}: {facts.get('error', '')}"
        return f"trial {trial.id} {trial.end.kind} after epoch {epochs_done(trial):g}: {', '.join(parts)}{f' ({reason})' if reason else ''}"

    def _summary(self, trials: Sequence[Trial], device_s: float, money: float, busy: int, devices: int) -> list[str]:
        """How many trials are where; which is best, if any is; what is spent and what time is left."""
        count = Counter(state(trial) for trial in trials)
        failed = f" ({count['failed']} failed)" if count["failed"] else ""
        done = count["stopped"] + count["finished"] + count["failed"]
        paused = f", {count['paused']} paused" if count["paused"] else ""
        waiting = max(0, self.planned - done - count["running"] - count["paused"])
        name = self.recipe.get("name", "search")
        lines = [f"{name}: {done} of {self.planned} trials done{failed}, {count['running']} running{paused}, {waiting} waiting"]
        best = leader(trials, self.higher_is_better)
        if best is not None:
            score = best_score(best, self.higher_is_better)
            lines.append(f"best {self.metric} {score:.4f} ({best.family or value_of_family(self.recipe)}, trial {best.id})")
        spent = [f"{hours(device_s)}{_of(self.search.device_hours, hours(3600 * self.search.device_hours))} device-hours"]
        if money or self.search.money:
            spent.append(f"{money:.2f}{_of(self.search.money, f'{self.search.money:.2f}')} money")
        spent += [f"{busy} of {devices} devices busy"] if devices else []
        left = self._left(trials, device_s, money)
        spent.append("time left unknown yet" if left is None else f"about {clock(left)} left")
        return [*lines, ", ".join(spent)]

    def _left(self, trials: Sequence[Trial], device_s: float, money: float) -> float | None:
        """Seconds left at the pace of this process, by whichever limit ends the search first; None before a validation was made."""
        spent = (self._epochs(trials), device_s, money)
        limits = (spent[0] + self._epochs_to_come(trials), 3600 * self.search.device_hours, self.search.money)
        before = self.before or (0.0, 0.0, 0.0)
        elapsed = self.now() - self.began
        if spent[0] <= before[0]:
            return None
        lefts = [
            elapsed * max(0.0, limit - now) / (now - then)
            for limit, now, then in zip(limits, spent, before, strict=True)
            if limit and now > then
        ]
        if self.search.hours:
            lefts.append(max(0.0, 3600 * self.search.hours - elapsed))
        return min(lefts)

    def _epochs(self, trials: Sequence[Trial]) -> float:
        return sum(epochs_done(trial) for trial in trials)

    def _epochs_to_come(self, trials: Sequence[Trial]) -> float:
        """Of trials that run or wait: by ASHA's arithmetic; else if each comes as far as those that ended, or as the scheduler's arithmetic
        says while those are few; one that came further is among the good ones, which are trained to the end."""
        if self.search.scheduler == "asha":
            done = [(epochs_done(trial), state(trial) == "failed") for trial in trials]
            return epochs_to_come(done, self.rungs, self.search.reduction, self.planned)
        ended = [epochs_done(trial) for trial in trials if trial.end]
        usual = sum(ended) / len(ended) if len(ended) >= FEW else self.usual_epochs
        whole = value_of_epochs(self.recipe)
        going = sum((usual if done < usual else whole) - done for done in (epochs_done(trial) for trial in trials if not trial.end))
        return going + usual * max(0, self.planned - len(trials))

    def _table(self, trials: Sequence[Trial], lines: list[str]) -> Group:
        rows = ranked((trial for trial in trials if trial.events), self.higher_is_better)
        room = max(1, self.console.height - AROUND_ROWS)
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for title, side in (("trial", "left"), ("family", "left"), ("lr", "right"), ("epoch", "right"), (self.metric, "right")):
            table.add_column(title, justify=side, no_wrap=True)  # type: ignore[arg-type]
        with_rungs = self.search.scheduler == "asha"
        if with_rungs:
            table.add_column("rung", justify="right", no_wrap=True)
        table.add_column("device-hours", justify="right", no_wrap=True)
        table.add_column("state", no_wrap=True)
        with_changed = self.console.width >= WIDE
        if with_changed:
            table.add_column("changed", style="dim")  # may wrap, as rich sees it: so it alone gives way on a narrow terminal
        for trial in rows[:room]:
            score, rate, now = best_score(trial, self.higher_is_better), rate_of(trial, self.recipe), state(trial)
            others = " ".join(f"{short(key)}={shown(value)}" for key, value in config_now(trial).items() if key not in (FAMILY, RATE))
            cells = [
                trial.id, trial.family or value_of_family(self.recipe), "" if rate is None else f"{rate:.2g}",
                f"{epochs_done(trial):g}/{value_of_epochs(self.recipe):g}", "" if score is None else f"{score:.4f}",
            ]  # fmt: skip
            cells += [str(rungs_reached(trial, self.rungs))] if with_rungs else []
            cells.append(hours(trial.device_s))
            row = [*(Text(cell) for cell in cells), Text(now, style=COLOURS[now])]
            table.add_row(*row, *([Text(others, no_wrap=True, overflow="ellipsis")] if with_changed else []))
        left_out = len(rows) - room
        parts: list[Any] = [Text(line, style="" if k else "bold", no_wrap=True, overflow="ellipsis") for k, line in enumerate(lines)]
        parts.append(table)
        if left_out > 0:
            parts.append(Text(f"and {left_out} more", style="dim"))
        return Group(*parts)


def value_of_family(recipe: Mapping[str, Any]) -> str:
    """The recipe's own family, for a search that does not vary it."""
    return str(recipe.get("model", {}).get("family", ""))


def value_of_epochs(recipe: Mapping[str, Any]) -> float:
    return float(recipe.get("train", {}).get("epochs", 1))


def _of(limit: float, text: str) -> str:
    return f" of {text}" if limit else ""
