"""search.html while a search runs: written anew now and then by a thread of the driver, and once more at the end."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType

from hepdist.console import plain
from hepdist.search.record import EVENTS
from hepdist.search.report import write_report

EVERY_S = 60.0
"""Between two pages: one of 20 trials takes a second of a core."""


class Page:
    """A context manager; what it could not draw is said in a line and does not end the search."""

    def __init__(self, folder: Path, every_s: float = EVERY_S) -> None:
        self.folder, self.every_s = folder, every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="page")
        self._drawn = -1
        """Bytes of the record that the last page shows."""

    def __enter__(self) -> Page:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        self._draw()

    def _run(self) -> None:
        while not self._over.wait(self.every_s):
            events = self.folder / EVENTS
            size = events.stat().st_size if events.exists() else 0
            if size != self._drawn:
                self._drawn = size
                self._draw()

    def _draw(self) -> None:
        try:
            write_report(self.folder)
        except Exception as error:  # a page that can't be drawn is no reason to lose hours of training
            plain(f"search.html could not be written: {type(error).__name__}: {error}")
