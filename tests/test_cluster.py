"""A Ray of one's own on a machine that is too busy to start it at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
import sys, time
import psutil, ray
from ray._private import node, services
from hepdist.cluster import connect
from hepdist.errors import RunError

late, starts, real, clock = int(sys.argv[1]), 0, services.get_node, time.monotonic

def get_node(*words):  # a busy machine: the node does not answer in time, though its processes run
    if starts <= late:
        node.time.monotonic = lambda: clock() + 60 * (1 + int(clock() * 1000) % 1000)
        raise RuntimeError("not there yet")
    return real(*words)

def init(*words, begin=ray.init, **options):
    global starts
    starts += 1
    node.time.monotonic = clock
    return begin(*words, **options)

services.get_node, ray.init = get_node, init
try:
    with connect(train=False) as cluster:
        print("own" if cluster.own else "other", ray.get(ray.remote(lambda: 7).remote()))
except RunError as error:
    print(error)
left = [child for child in psutil.Process().children(recursive=True) if any(name in " ".join(child.cmdline()) for name in ("raylet", "gcs_server"))]
print("starts", starts, "left", len(left))
"""


def started(late: int) -> subprocess.CompletedProcess[str]:
    """late: starts that fail."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", SCRIPT, str(late)], env=plain, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("late", [1, 3])
def test_a_start_that_takes_too_long_is_tried_again_and_leaves_no_process(late):
    ended = started(late)
    said = ended.stdout.splitlines()
    assert ended.returncode == 0, ended.stderr
    if late == 1:
        assert said == ["own 7", "starts 2 left 0"]
        assert ended.stderr.count("; trying again") == 1
    else:
        assert said[0].startswith("this machine is too busy: Ray did not start within 30 s (load ")
        assert said[0].endswith("3 times; try again when it has less to do, or set RAY_ADDRESS to a running cluster")
        assert said[1] == "starts 3 left 0"
