"""How fast the executor's loop of a Ray Data pipeline turns: at full speed only while somebody waits for a block.

Ray Data's loop (2.60) does not pause when its consumer has blocks in hand: in a training worker it took more CPU time than
forward and backward together, and the interpreter lock with it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ray.data._internal.execution.execution_callback import ExecutionCallback

if TYPE_CHECKING:
    from ray.data._internal.execution.streaming_executor import StreamingExecutor

REST_S = 0.3
"""Longest pause between two turns while nobody waits; a turn is two milliseconds of work, which all other workers wait for, too."""
_wanted = threading.Event()
_wanted.set()  # until the first block is there, everybody waits


class Pace(ExecutionCallback):
    """Rests after each turn of the loop; a consumer that starts to wait ends the rest at once."""

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        _wanted.wait(REST_S)


@contextmanager
def waiting() -> Iterator[None]:
    """Marks a block of code in which this process waits for data."""
    _wanted.set()
    try:
        yield
    finally:
        _wanted.clear()
