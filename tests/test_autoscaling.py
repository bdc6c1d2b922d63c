"""A cluster with an autoscaler is judged by what it may become, read from the file that its autoscaler runs by."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from hepdist.autoscaling import growth
from hepdist.cluster import Cluster
from hepdist.errors import RecipeError
from hepdist.recipe import load_recipe
from hepdist.training.preflight import fits_cluster

GCS = "10.9.8.7:6379"
CONFIG = {
    "max_workers": 5,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 64, "GPU": 8}},
        "cpu": {"resources": {"CPU": 16, "GPU": 0}, "max_workers": 4},
        "gpu": {"resources": {"CPU": 8, "GPU": 2}, "max_workers": 3},
    },
}


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Path]:
    """A process that looks like Ray's autoscaler: what is read is its command line and the file named there."""
    path = tmp_path / "ray_bootstrap_config.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    command = [
        sys.executable,
        "-c",
        "import time; print('up', flush=True); time.sleep(600)",
        f"--gcs-address={GCS}",
        f"--autoscaling-config={path}",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        yield path
        process.kill()


def test_the_head_and_what_max_workers_forbids_are_not_counted(monitor):
    assert growth(GCS) == {"CPU": 4 * 16 + 8, "GPU": 3 * 2}


def test_another_clusters_autoscaler_or_a_file_that_is_gone_says_nothing(monitor):
    assert growth("10.9.8.7:6380") is None
    monitor.unlink()
    assert growth(GCS) is None


def test_a_cluster_that_can_grow_is_not_too_small_yet_and_may_be_for_ever():
    recipe = load_recipe("pneumonia-resnet", ["train.workers=6"])
    assert fits_cluster(recipe, Cluster(72, 6, own=False, grows=True)) == "cuda"
    assert fits_cluster(recipe, Cluster(72, 0, own=False, grows=True)) == "cpu"
    with pytest.raises(RecipeError, match=r"'train\.workers' is 6, but the cluster can grow to 4 CPUs"):
        fits_cluster(recipe, Cluster(4, 0, own=False, grows=True))
