"""SIGTERM and Ctrl-C to the process that drives a run: workers save and leave first; a second signal ends at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from hepdist.console import plain

ASK_EVERY_S = 0.5
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """What the signals have asked for so far."""

    def __init__(self, grace_s: float) -> None:
        self.grace_s = grace_s
        self.number: int | None = None
        """The first signal that came."""
        self.controller: Any = None
        """Ray Train's, while there are workers to ask."""
        self.over = threading.Event()

    def handle(self, number: int, frame: FrameType | None) -> None:
        first, self.number = self.number is None, self.number or number
        if not first or self.controller is None:  # nothing to save, or no patience
            raise SystemExit(128 + self.number)
        threading.Thread(target=self._ask, daemon=True).start()

    def _ask(self) -> None:
        """Ask until workers were asked (while they start there are none), then give them time; then end as by a second signal."""
        import ray

        from hepdist.training.leave import ask_workers

        assert self.number is not None
        plain(f"{signal.Signals(self.number).name}: workers save after their next step and leave; the same signal again ends at once")
        until, asked = time.monotonic() + self.grace_s, False
        while time.monotonic() < until and not self.over.is_set():
            with suppress(Exception):  # a controller that ends meanwhile ends the run, which the main thread sees
                asked = asked or ray.get(self.controller.__ray_call__.remote(ask_workers), timeout=self.grace_s)
            self.over.wait(ASK_EVERY_S)
        if not self.over.is_set():
            plain(f"the workers did not leave within {self.grace_s:g} s (train.stop_grace_s)")
            os.kill(os.getpid(), self.number)

    def leave(self) -> None:
        """Raise what ends this process where a signal has asked for it: SystemExit with 128 + its number, as shells count."""
        if self.number is not None:
            raise SystemExit(128 + self.number)


@contextmanager
def stoppable(grace_s: float) -> Iterator[Stop]:
    """Inside the block signals end the run in good order, and the block is left by SystemExit; in another than the main thread nothing changes.

    Enter it after ray.init, which takes SIGTERM for itself.
    """
    stop = Stop(grace_s)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.handle) for number in SIGNALS}
    try:
        try:
            yield stop
        except BaseException:
            stop.leave()  # Ray turns what a handler raises inside ray.get into errors of its own
            raise
        stop.leave()
    finally:
        stop.over.set()
        for number, handler in before.items():
            signal.signal(number, handler)
