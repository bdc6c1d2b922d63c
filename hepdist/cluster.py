"""Connecting to Ray: the cluster that RAY_ADDRESS names, or a local one of our own, always by an explicit address."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # the controller notices a dead or finished worker this often; Ray's 2 s add up over restarts and short runs
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@contextmanager
def connect() -> Iterator[Any]:
    """The `ray` module, connected; a Ray that was started here is shut down at the end, one that was found is left alone.

    Inside a job, or with RAY_ADDRESS set, that cluster is used. Otherwise a local one is started, whose address replaces
    any stale `ray_current_cluster` file (which makes Ray's clean-up hang: docs/architecture.md).
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield ray
        return
    given = os.environ.get("RAY_ADDRESS")
    if given:
        ray.init(address=given, log_to_driver=False)
    else:
        context = ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        os.environ["RAY_ADDRESS"] = context.address_info["gcs_address"]
    try:
        yield ray
    finally:
        ray.shutdown()
        if not given:
            os.environ.pop("RAY_ADDRESS", None)
