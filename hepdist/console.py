"""How hepdist talks to a person: progress, lines and score tables; quiet where nobody watches."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

FILE_WIDTH = 160
"""Columns where the output is a file, whose reader can scroll: 80 would fold most tables."""


def _console(stream: TextIO, *, stderr: bool) -> Console:
    return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else FILE_WIDTH)


out = _console(sys.stdout, stderr=False)
"""Results."""
err = _console(sys.stderr, stderr=True)
"""Progress and errors."""

QUIET_SECONDS = 10.0
"""Seconds between two progress lines where stderr is a file: a log wants few lines, but a sign of life."""

Report = Callable[[int, int], None]
"""Called by a stage with (done, total)."""

SCORES = (
    "auroc",
    "accuracy",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "quadratic_kappa",
    "mae",
    "dice",
    "hd95",
    "psnr",
    "psnr_input",
    "ssim",
    "ssim_input",
)


@contextmanager
def progress(what: str) -> Iterator[Report]:
    """A bar on a terminal, a line now and then elsewhere; the stage calls the yielded function with (done, total)."""
    if err.is_terminal:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
        with Progress(*columns, console=err, transient=True) as bars:
            bar = bars.add_task(what, total=None)
            yield lambda done, total: bars.update(bar, completed=done, total=total)
        return
    start = last = time.monotonic()

    def line(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= QUIET_SECONDS:
            last = time.monotonic()
            plain(f"{what}: {done} of {total}, {last - start:.0f} s")

    yield line


def step(text: str) -> None:
    """One line that says what begins now."""
    err.print(f"[bold]{text}[/bold]", soft_wrap=True)


def plain(text: str) -> None:
    """One line on stderr, as it is: no markup, no wrapping."""
    err.print(text, markup=False, soft_wrap=True)


def score_table(result: Mapping[str, Any], extra: Mapping[str, Mapping[str, float]] | None = None) -> Table:
    """The scores of a result.json: a row a metric, a column a split, each as value [low, high].

    extra: further columns by title, such as the optimum that a generator implies, each {metric: value}.
    """
    splits, extra = result["split"], extra or {}
    table = Table("metric", *splits, *extra, box=box.SIMPLE_HEAD, pad_edge=False)
    for name in [n for n in SCORES if any(n in scores for scores in splits.values())]:
        table.add_row(name, *[_score(scores, name) for scores in splits.values()], *[_score(column, name) for column in extra.values()])
    return table


def cross_validated(result: Mapping[str, Any]) -> Table:
    """The scores of a cross-validation's result.json: a row a metric, each as its mean over folds [low, high]."""
    title = f"{result['repeats']} x {result['folds']} folds, {result['patients']} patients"
    table = Table("metric", title, box=box.SIMPLE_HEAD, pad_edge=False)
    for name in [n for n in SCORES if n in result]:
        table.add_row(name, _score(result, name))
    return table


def _score(scores: Mapping[str, Any], name: str) -> str:
    if scores.get(name) is None:
        return ""
    low, high = scores.get(f"{name}_ci") or (None, None)
    return f"{scores[name]:.3f}" + ("" if low is None or high is None else f" [{low:.3f}, {high:.3f}]")
