"""Between a trial's run folder and Ray Tune's checkpoints, both ways: what Tune keeps is a run's newest checkpoint and best model, as they are.

Tune asks for a checkpoint when it pauses a trial or lets another one continue from its weights (population based training). Files are linked
where they can be, so that a checkpoint within one file system costs no bytes; none is ever changed after it was written.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hepdist.training.checkpoint import intact

OWNER = "owner"
"""File with the name of the run that was taken out."""


def take_out(run: Path, into: Path) -> None:
    """Put the newest whole checkpoint of a run, and its best model, into a folder of Tune's. Nothing where there is none yet."""
    newest = intact(run / "checkpoints")
    if newest is None:
        return
    (into / OWNER).write_text(run.name, encoding="utf-8")
    _link(newest, into / "checkpoint" / newest.name)
    if (run / "model").is_dir():
        _link(run / "model", into / "model")


def bring_in(taken: Path, run: Path) -> bool:
    """Let a run go on from what `take_out` took; True where that was another run's, whose weights and best model replace this one's.

    Of its own a run has kept that checkpoint, or a newer one: nothing is done.
    """
    found = next(iter(sorted((taken / "checkpoint").glob("samples-*"))), None)
    if found is None or (taken / OWNER).read_text(encoding="utf-8") == run.name:
        return False
    for stale in ("checkpoints", "model"):
        shutil.rmtree(run / stale, ignore_errors=True)
    _link(found, run / "checkpoints" / found.name)
    if (taken / "model").is_dir():
        _link(taken / "model", run / "model")
    return True


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, copy_function=_link_or_copy)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
