"""What the whole suite shares: a quiet environment, one local Ray for all tests, and the real data where it is at hand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from salts import SALT

from object_stores import ENVIRONMENT, S3, s3_server

os.environ.update(
    RAY_USAGE_STATS_ENABLED="0",
    RAY_TRAIN_METRICS_ENABLED="0",
    RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.25",
    OMP_NUM_THREADS="1",
)
BUCKETS = count()
SHARED_DATA = Path(__file__).resolve().parents[1] / "../shared/data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real public data (medmnist/, msd_hippocampus/, ...)."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real data are not beside the checkout (../shared/data)")
    return SHARED_DATA.resolve()


@pytest.fixture
def salt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The secret of an ingest; modules that ingest in most of their tests mark all with it."""
    monkeypatch.setenv("HEPDIST_SALT", SALT)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """The address of one local Ray, shared by the session: starting one takes seconds.

    Eight logical CPUs, so that many workers fit on a small machine; RAY_ADDRESS names it, so that nothing finds another.
    """
    import ray

    before = os.environ.pop("RAY_ADDRESS", None)
    context = ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False, object_store_memory=512 << 20)
    address = context.address_info["gcs_address"]
    os.environ["RAY_ADDRESS"] = address
    yield address
    ray.shutdown()
    os.environ.pop("RAY_ADDRESS")
    if before is not None:
        os.environ["RAY_ADDRESS"] = before


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    """An object store on this machine, and the environment that leads to it."""
    pytest.importorskip("moto", reason="moto is not installed (pip install 'hepdist[dev]')")
    with s3_server() as running, pytest.MonkeyPatch.context() as patch:
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": running.endpoint}.items():
            patch.setenv(name, value)
        yield running


@pytest.fixture
def bucket(server: S3) -> str:
    """The URI of an empty bucket."""
    return server.make_bucket(f"bucket{next(BUCKETS)}")
