"""Checkpoints are written by a thread of rank 0, so that a step waits for no more than the copy of the state to host memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError

from hepdist.errors import HepdistError, RunError
from hepdist.training.checkpoint import Checkpoint


@dataclass(frozen=True)
class Save:
    """A state to be written, and what asking for it has cost."""

    checkpoint: Checkpoint
    best: bool
    step: int
    copy_s: float
    """Seconds that training waited while the state was gathered and copied."""


@dataclass(frozen=True)
class Saved:
    """What became of a Save: its size and time, or why it could not be written."""

    save: Save
    write_s: float
    nbytes: int = 0
    problem: str = ""

    def facts(self) -> dict[str, Any]:
        """For metrics.jsonl."""
        facts = {
            "checkpoint": self.save.checkpoint.progress.cursor,
            "copy_s": round(self.save.copy_s, 4),
            "write_s": round(self.write_s, 3),
        }
        return {**facts, "warning": self.problem} if self.problem else {**facts, "bytes": self.nbytes}


class Saver:
    """Writes the states that it is given, one after the other and beside training.

    While one is being written, the newest of those that were to be the best and the newest of the others wait, and no more than that: a
    slow disk costs checkpoints, never memory or steps. What can't be written (a full disk, a store that is away) is told by `news`, and
    the next one is tried all the same; only a last one that fails is an error.
    """

    def __init__(self, write: Callable[[Checkpoint, bool], int]) -> None:
        """write: puts a checkpoint, which is the best so far or not, on disk, and returns its bytes."""
        self._write = write
        self._changed = threading.Condition()
        self._waiting: list[Save] = []
        self._closed = self._busy = False
        self._news: list[Saved] = []
        self._broken: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="saver", daemon=True)
        self._thread.start()

    def put(self, save: Save) -> None:
        """Hand over a state, which must not change any more; returns at once."""
        with self._changed:
            self._waiting = [older for older in self._waiting if older.best and not save.best] + [save]
            self._changed.notify_all()

    def news(self) -> list[Saved]:
        """What has been written, or could not be, since the last call. Raises what the thread met and did not expect."""
        with self._changed:
            if self._broken:
                raise self._broken
            news, self._news = self._news, []
            return news

    def drain(self) -> None:
        """Wait until all that was handed over is on disk, or has failed."""
        with self._changed:
            self._changed.wait_for(lambda: self._broken or not (self._waiting or self._busy))

    def close(self) -> list[Saved]:
        """Wait until all is written; returns the news. Raises RunError where the newest state could not be."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        news = self.news()
        if news and news[-1].problem:
            raise RunError(f"the last checkpoint could not be written: {news[-1].problem}; mend that, and the same command goes on")
        return news

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                save, self._busy = self._waiting.pop(0), True
            try:
                saved = self._try(save)
            except BaseException as error:
                with self._changed:
                    self._broken = error
                    self._changed.notify_all()
                return
            with self._changed:
                self._busy = False
                self._news.append(saved)
                self._changed.notify_all()

    def _try(self, save: Save) -> Saved:
        began = time.perf_counter()
        try:
            nbytes, problem = self._write(save.checkpoint, save.best), ""
        except (OSError, HepdistError, SafetensorError) as error:  # the last wraps an error of the system
            nbytes, problem = 0, reason(error)
        return Saved(save, time.perf_counter() - began, nbytes, problem)


def reason(error: Exception) -> str:
    """An error of the system in its own words, without numbers and paths."""
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
