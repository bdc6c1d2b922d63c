"""One finding about the machine, the verdict over all of them, and the table that shows them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.markup import escape
from rich.table import Table

State = Literal["ok", "warning", "problem"]
COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}


@dataclass(frozen=True)
class Check:
    """What was looked at, what was found, and the way out where it does not do."""

    topic: str
    found: str
    state: State = "ok"
    """warning: something is slower or some input can't be read; problem: training can't run."""
    fix: str = ""


def can_train(checks: Iterable[Check]) -> bool:
    """Whether nothing stands in the way of training."""
    return all(check.state != "problem" for check in checks)


def table(checks: Iterable[Check]) -> Table:
    """A row a check; the fix stands under what was found."""
    shown = Table("what", "found", "state", title="hepdist doctor", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for check in checks:
        found = escape(check.found) + (f"\n[bold]fix:[/bold] {escape(check.fix)}" if check.fix else "")
        shown.add_row(check.topic, found, f"[{COLOURS[check.state]}]{check.state}[/]")
    return shown
