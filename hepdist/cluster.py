"""Connecting to Ray: the cluster that RAY_ADDRESS names, or a local one of our own, always by an explicit address."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psutil

from hepdist.console import plain
from hepdist.errors import RunError

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    # the controller notices a dead or finished worker this often; Ray's 2 s add up over restarts and short runs
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    # a node that the cloud takes away is noticed this often; Ray's 5 s are a sixth of what Google Cloud leaves
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "2",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
OWN = {
    # one machine, no cloud: nobody will announce that it is taken away, and the watcher is a process of 2.5 CPU seconds
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Ray runs workers at niceness 15, where all that wakes up on a core goes before training; that, too, makes the other worker wait
    "RAY_worker_niceness": "0",
}

WORKERS = {
    # Ray prestarts a process a CPU, but not with the runtime environment of Ray Train's actors: nothing would use them.
    "prestart_worker_first_driver": False,
    # Ray ends processes that idle for a second while there are more than CPUs, and starts others for the next window of data:
    # on two cores a quarter of all CPU time went into imports. A machine with many cores never comes to it.
    "num_workers_soft_limit": 16,
    # Each of Ray's processes wakes up many times a second to tell the others how it is. On two cores with two workers that
    # takes turns from training, and the other worker waits: nobody reads it in a Ray without a dashboard.
    "enable_metrics_collection": False,
    "task_events_report_interval_ms": 0,
    "event_stats": False,
    "raylet_report_resources_period_milliseconds": 1000,
    "metrics_report_interval_ms": 60_000,
}
"""How an own Ray keeps its worker processes."""
STARTS = 3
"""Attempts to start an own Ray."""


ALONE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Set to 0 before Ray is imported, it makes a node's address 127.0.0.1, and all of Ray's servers listen there alone. On Linux they listen on all
interfaces otherwise, for nodes that an own Ray never has."""


@dataclass(frozen=True)
class Cluster:
    """The Ray that this process is connected to."""

    cpus: float
    gpus: float
    """Those that there are, and where an autoscaler runs those that it may start."""
    own: bool
    """Started by this process and gone with it."""
    grows: bool = False
    """It has an autoscaler."""

    @property
    def has(self) -> str:
        """How a sentence goes on with its numbers."""
        return "can grow to" if self.grows else "has"


@contextmanager
def connect(train: bool = True) -> Iterator[Cluster]:
    """Connect to Ray; one that was started here is shut down at the end, one that was found is left alone. train: Ray Train will be used.

    Inside a job, or with RAY_ADDRESS set, that cluster is used. Otherwise a local one is started, whose address replaces
    any stale `ray_current_cluster` file (which makes Ray's clean-up hang: docs/architecture.md).
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    given = os.environ.get("RAY_ADDRESS")
    alone = not given and "ray" not in sys.modules and ALONE not in os.environ
    if alone:
        os.environ[ALONE] = "0"
    import ray

    if ray.is_initialized():
        yield _resources(own=False)
        return
    imports = threading.Thread(target=_import_libraries, args=(train,), daemon=True)
    imports.start()
    if given:
        ray.init(address=given, log_to_driver=False)
    else:
        os.environ.update(OWN)
        _start()
        _end_unused()
        if alone:
            del os.environ[ALONE]  # a `ray start` by this process is no matter of ours
        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    imports.join()
    try:
        yield _resources(own=not given)
    finally:
        ray.shutdown()
        if not given:
            os.environ.pop("RAY_ADDRESS", None)


def _start() -> None:
    """ray.init, and again where the machine is too busy for the 30 s that Ray gives its own processes. Raises RunError where it stays so."""
    import ray

    for attempt in range(1, STARTS + 1):
        before = {child.pid for child in psutil.Process().children()}
        try:
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, _system_config=_workers())
            return
        except Exception as error:  # Ray raises it as nothing more special
            if "timed out during startup" not in str(error):
                raise
            _end([child for child in psutil.Process().children() if child.pid not in before])  # Ray leaves them until this process ends
            busy = f"this machine is too busy: Ray did not start within 30 s (load {os.getloadavg()[0]:.0f} on {os.cpu_count()} CPUs)"
            if attempt == STARTS:
                raise RunError(
                    f"{busy}, {STARTS} times; try again when it has less to do, or set RAY_ADDRESS to a running cluster"
                ) from None
            plain(f"{busy}; trying again")


def _end(left: list[psutil.Process]) -> None:
    """Processes of a start that failed."""
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=10)


def _workers() -> dict[str, Any]:
    return {**WORKERS, "num_workers_soft_limit": max(WORKERS["num_workers_soft_limit"], os.cpu_count() or 1)}


def _end_unused() -> None:
    """End what ray.init starts whatever it is told: the autoscaler of one machine, and the reader of logs that nobody is shown.

    Each wakes up several times a second, and on two cores that interrupts training (docs/architecture.md).
    """
    from ray._private import worker

    node = worker._global_node
    for end in ("kill_monitor", "kill_log_monitor"):  # they have no public name; a Ray without these methods keeps its processes
        if hasattr(node, end):
            getattr(node, end)(check_alive=False)


def _import_libraries(train: bool) -> None:
    """Ray Train and Ray Data take seconds to import, which ray.init spends waiting for its processes."""
    import ray.data

    if train:
        import ray.train.v2.api.data_parallel_trainer  # noqa: F401


def _resources(own: bool) -> Cluster:
    import ray

    from hepdist.autoscaling import growth

    there = ray.cluster_resources()
    more = None if own else growth(ray.get_runtime_context().gcs_address)
    cpus, gpus = (max(there.get(kind, 0.0), (more or {}).get(kind, 0.0)) for kind in ("CPU", "GPU"))
    return Cluster(cpus, gpus, own, grows=more is not None)
