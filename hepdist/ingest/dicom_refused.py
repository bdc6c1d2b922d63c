"""How damaged or strange DICOM files are met: quietly, and with a refusal that names the problem instead of the patient."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pydicom


class Refused(Exception):
    """Why a file or a series can't become a sample: an audit row's check and its reason, which quotes nothing from the file but geometry."""

    def __init__(self, check: str, reason: str):
        super().__init__(reason)
        self.check, self.reason = check, reason


class _Shared:
    """A state of the whole process that several blocks, in several threads, are in at once: the first one makes it, the last one ends it."""

    def __init__(self, state: Callable[[], AbstractContextManager[None]]) -> None:
        self._state, self._lock, self._inside, self._outermost = state, threading.Lock(), 0, ExitStack()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._inside:
                self._outermost.enter_context(self._state())
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    self._outermost.close()


@contextmanager
def _hushed() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # once for all loggers: to set the level of one costs as much, and six libraries log
    try:
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _without_stderr() -> Iterator[None]:
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def quiet() -> AbstractContextManager[None]:
    """Read what is written, without validation, warnings or log lines: these quote values, and values may be about a patient.

    Inside another such block it does nothing: each change of what is logged empties the caches of all loggers.
    """
    return _quiet()


def muted() -> AbstractContextManager[None]:
    """Without what decoders written in C print to standard error, past Python: OpenJPEG tells of each damaged marker."""
    return _muted()


_quiet, _muted = _Shared(_hushed), _Shared(_without_stderr)
