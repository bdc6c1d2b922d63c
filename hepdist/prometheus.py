"""The numbers that a cluster's Prometheus scrapes of our runs and searches, through Ray: their names, and how a process sets them.

On a Ray of our own nobody collects them (cluster.WORKERS), and a process without Ray sets none. `hepdist/cloud/grafana.json` shows them.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

PREFIX = "ray_"
"""Ray puts it before every name."""
OF_RUNS = {
    "hepdist_samples_per_s": "Samples a second of the whole run since the report before; 0 when it has ended.",
    "hepdist_loss": "Mean training loss since the report before.",
    "hepdist_epoch": "Epochs trained, with their fraction.",
    "hepdist_data_wait_share": "Share of a worker's time in which it waited for data; of each worker, by rank.",
    "hepdist_lost_steps": "Optimiser steps that this attempt does again, since the one before was lost after its last checkpoint.",
}
OF_SEARCHES = {
    "hepdist_search_money": "Money spent by the trials of a search, in the currency of search.prices.",
    "hepdist_search_device_hours": "Device-hours of the trials of a search.",
    "hepdist_search_running_trials": "Trials that train now.",
    "hepdist_search_ended_trials": "Trials that are over: finished, stopped or failed.",
}
AGAIN_S = 5.0
"""Ray forgets what was not set for a while, and a run may report every few minutes."""
_made: dict[str, Any] = {}
"""Ray's gauges of this process, by name."""


class Numbers:
    """Sets gauges of one run or search. Cheap (microseconds), and nothing where this process has no Ray."""

    def __init__(self, known: dict[str, str], **tags: str) -> None:
        """known: OF_RUNS or OF_SEARCHES; tags: the same for all of them, and of the same names in every process."""
        self.known, self.tags = known, tags
        self._values: dict[str, float] = {}
        self._at = 0.0

    def again(self) -> None:
        """Called every step: what was set last still holds."""
        if time.monotonic() - self._at > AGAIN_S:
            self.set(**self._values)

    def set(self, **values: float) -> None:
        """values: by name without `hepdist_`."""
        self._values |= values
        self._at = time.monotonic()
        ray = sys.modules.get("ray")  # not imported for this: tasks and tests train without it
        if ray is None or not ray.is_initialized():
            return
        from ray.util.metrics import Gauge

        for short, value in values.items():
            name = f"hepdist_{short}"
            if name not in _made:
                _made[name] = Gauge(name, self.known[name], tuple(self.tags))
            _made[name].set(value, tags=self.tags)


def of_run(folder: Path, rank: int) -> Numbers:
    """Of a worker of the run in `folder`; a search's trials are called NAME/0007."""
    inside = folder.parent.name in ("trials", "confirmed")
    return Numbers(OF_RUNS, run=f"{folder.parent.parent.name}/{folder.name}" if inside else folder.name, rank=str(rank))


def of_search(folder: Path) -> Numbers:
    """Of the driver of the search in `folder`."""
    return Numbers(OF_SEARCHES, search=folder.name)
