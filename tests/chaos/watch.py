"""Following a run from outside, until a moment has come; knows only what the run's folder and the system's process table show."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from chaos.moments import Moment
from hepdist.training.metrics_file import read_metrics
from hepdist.training.run_folder import LOCK

POLL_S = 0.001
"""Between two looks at the folder; looking for processes takes a hundred times as long."""
PATIENCE_S = 400.0
"""How long a moment is waited for: a start-up on a machine with much else to do takes minutes."""
PHASE_S = {"epoch": 0.3, "validation": 0.05, "end": 1.0}
"""What the delay of a moment is a share of, where the phase can't be measured beforehand."""


@dataclass(frozen=True)
class Killed:
    """What was killed, and what the run's folder says about when."""

    moment: Moment
    who: str
    samples: int
    """The last cursor that was logged."""
    where: str
    """'start' where this attempt has logged nothing; 'checkpoint' where one was half-written; 'validation' between an epoch's last
    step and its scores; 'end' after the last step; else 'epoch'. What came about, not what was planned."""


class Watch:
    """A run's folder and its training workers, seen from outside."""

    def __init__(self, folder: Path, samples: int, rows: int, start_s: float, workers: Callable[[], Iterable[psutil.Process]]) -> None:
        """samples: of the whole run; rows: of an epoch; start_s: seconds from a worker process to its first step; workers: those alive."""
        self.folder, self.samples, self.rows, self.start_s, self._workers = folder, samples, rows, start_s, workers
        self._seen: set[int] = set()
        self._size = -1
        self._lines: list[dict] = []
        self._start = self._started()
        self._began = False

    def wait(self, moment: Moment, ended: Callable[[], bool]) -> bool:
        """Return when the moment has come; False when the run ended before it."""
        until = time.monotonic() + PATIENCE_S
        ready = {
            "start": self._new_workers,
            "epoch": self._reached,
            "validation": self._scoring,
            "checkpoint": self._saving,
            "end": self._over,
        }
        while not ready[moment.phase](moment):
            if ended():
                return False
            if time.monotonic() > until:
                raise TimeoutError(f"waited {PATIENCE_S:.0f} s for {moment}; the run's last line is {self.lines()[-1:]}")
            time.sleep(POLL_S * (100 if moment.phase == "start" else 1))
        span = self.start_s if moment.phase == "start" else PHASE_S.get(moment.phase, 0.0)
        time.sleep(moment.delay * span)
        self._began = self._begun()
        return True

    def workers(self) -> list[psutil.Process]:
        """Training workers that are alive, the one of rank 0 first."""
        lock = self.folder / LOCK
        words = lock.read_text().split() if lock.exists() else []
        first = int(words[1]) if len(words) > 1 else 0
        return sorted(self._workers(), key=lambda process: process.pid != first)

    def killed(self, moment: Moment, who: str) -> Killed:
        """Note a kill that has just been done, and forget the attempt that it ended."""
        lines = self.lines()
        last = lines[-1] if lines else {"samples": 0}
        reported = [line for line in lines if "loss" in line]
        samples = int(last["samples"])
        if any((self.folder / "checkpoints").glob(".samples-*")):
            where = "checkpoint"
        elif not self._began:
            where = "start"
        elif samples >= self.samples and "val_auroc" in last:
            where = "end"
        elif reported and samples % self.rows == 0 and "loss" in last:
            where = "validation"
        else:
            where = "epoch"
        self._seen |= {process.pid for process in self._workers()}
        self._start = self._started()
        return Killed(moment, who, samples, where)

    def lines(self) -> list[dict]:
        path = self.folder / "metrics.jsonl"
        size = path.stat().st_size if path.exists() else -1
        if size != self._size:
            self._size, self._lines = size, read_metrics(self.folder)
        return self._lines

    def _begun(self) -> bool:
        """Whether the attempt that runs now has taken a step: what it reads in the log before is another one's."""
        return self._started() != self._start

    def _started(self) -> int:
        """When the times of a start, which end with the first step, were last written."""
        path = self.folder / "startup.json"
        return path.stat().st_mtime_ns if path.exists() else 0

    def _new_workers(self, moment: Moment) -> bool:
        return any(process.pid not in self._seen for process in self._workers())

    def _reached(self, moment: Moment) -> bool:
        lines = self.lines()
        return bool(lines) and lines[-1]["samples"] >= moment.progress * self.samples and self._begun()

    def _scoring(self, moment: Moment) -> bool:
        lines = self.lines()
        last = lines[-1] if lines else {}
        at_end = "loss" in last and last["samples"] % self.rows == 0
        return at_end and last["samples"] >= moment.progress * self.samples and self._begun()

    def _saving(self, moment: Moment) -> bool:
        """Whether so many of a checkpoint's files are there as the moment asks for (model, optimiser, ..., sums)."""
        asked = 1 + int(moment.delay * 6)
        for part in (self.folder / "checkpoints").glob(".samples-*.part"):
            try:
                files = len(os.listdir(part))
            except FileNotFoundError:
                continue
            if files >= asked and int(part.name.split("-")[1].split(".")[0]) >= moment.progress * self.samples:
                return True
        return False

    def _over(self, moment: Moment) -> bool:
        lines = self.lines()
        return bool(lines) and lines[-1]["samples"] >= self.samples


def kill(process: psutil.Process) -> bool:
    """SIGKILL; False where the process has ended already."""
    try:
        os.kill(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def training_workers(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those of the processes that are Ray Train's workers."""
    found = []
    for process in processes:
        try:
            if process.status() != psutil.STATUS_ZOMBIE and any("RayTrainWorker" in part for part in process.cmdline()[:1]):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
