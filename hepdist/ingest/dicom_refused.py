"""How damaged or strange DICOM files are met: quietly, and with a refusal that names the problem instead of the patient."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pydicom


class Refused(Exception):
    """Why a file or a series can't become a sample: an audit row's check and its reason, which quotes nothing from the file but geometry."""

    def __init__(self, check: str, reason: str):
        super().__init__(reason)
        self.check, self.reason = check, reason


@contextmanager
def quiet() -> Iterator[None]:
    """Read what is written, without validation, warnings or log lines: these quote values, and values may be about a patient.

    Inside another such block it does nothing: each change of what is logged empties the caches of all loggers.
    """
    global _inside
    if not _inside:
        _outermost.enter_context(_hushed())
    _inside += 1
    try:
        yield
    finally:
        _inside -= 1
        if not _inside:
            _outermost.close()


_inside = 0
"""Blocks of `quiet` that this process is in, and what ends the outermost one."""
_outermost = ExitStack()


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
def muted() -> Iterator[None]:
    """Without what decoders written in C print to standard error, past Python: OpenJPEG tells of each damaged marker."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
