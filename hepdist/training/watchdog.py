"""The watchdog: a worker that makes no step for too long ends itself, so that its group starts again from the last checkpoint."""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from pathlib import Path

HUNG = "hung-rank*.txt"
"""What a worker leaves that ended itself: where each of its threads was."""
EXIT = 75
"""Its exit code: EX_TEMPFAIL of sysexits.h."""


class Watchdog:
    """Ends this process where `beat` is not called for `limit_s` seconds; 0: never.

    A worker whose peer hangs waits in a collective and hangs with it, so the first one that ends brings the whole group to a restart.
    A thread can't raise in another one that is stuck in C, so the process leaves at once and its stacks stay behind in the run's folder.
    """

    def __init__(self, folder: Path, rank: int, limit_s: float) -> None:
        self.path, self.rank, self.limit_s = folder / HUNG.replace("*", str(rank)), rank, limit_s
        self.last = time.monotonic()
        self._stopped = threading.Event()
        if limit_s:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def beat(self) -> None:
        """Still alive: a batch was trained on, validated, or saved."""
        self.last = time.monotonic()

    def close(self) -> None:
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(min(5.0, self.limit_s / 4)):
            silent = time.monotonic() - self.last
            if silent > self.limit_s:
                with open(self.path, "w", encoding="utf-8") as file:
                    file.write(f"worker {self.rank} made no step for {silent:.0f} s (train.hang_s is {self.limit_s:g})\n\n")
                    file.flush()
                    faulthandler.dump_traceback(file, all_threads=True)
                os._exit(EXIT)


def reports(folder: Path) -> list[str]:
    """First lines of what hung workers left in a run's folder, with the file's name."""
    return [f"{path.read_text(encoding='utf-8').splitlines()[0]}; its stacks are in {path}" for path in sorted(folder.glob(HUNG))]


def clear(folder: Path) -> None:
    for path in folder.glob(HUNG):
        path.unlink()
