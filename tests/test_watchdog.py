"""Hung workers and worker counts that change: a stopped process is ended and its group restarted, and an elastic run trains on the same batches."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest
from test_training import PLAIN, final_weights, losses, recipe

from cohorts import tiny_classification_cohort
from hepdist.errors import RecipeError
from hepdist.training.checkpoint import newest_first
from hepdist.training.launch import train
from hepdist.training.watchdog import EXIT, reports

STUCK = """
import sys, time
from pathlib import Path
from hepdist.training.watchdog import Watchdog
watchdog = Watchdog(Path(sys.argv[1]), 3, 0.4)
def working():
    for _ in range(20):
        time.sleep(0.1)
        watchdog.beat()
def stuck_in_a_collective():
    time.sleep(60)
working()
print("worked", flush=True)
stuck_in_a_collective()
"""


def test_a_process_without_a_step_ends_and_says_where_it_was(tmp_path):
    ended = subprocess.run([sys.executable, "-c", STUCK, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (EXIT, "worked\n")
    assert reports(tmp_path) == [f"worker 3 made no step for 0 s (train.hang_s is 0.4); its stacks are in {tmp_path}/hung-rank3.txt"]
    assert "stuck_in_a_collective" in (tmp_path / "hung-rank3.txt").read_text()


@pytest.fixture(scope="module")
def cohort(ray_cluster, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    tiny_classification_cohort(folder, {"train": 75, "val": 10, "test": 10})
    return folder


def stop_a_worker(run, stopped: list[int]) -> None:
    """SIGSTOP a training worker once there is a checkpoint: it neither works nor ends."""
    until = time.monotonic() + 120
    while time.monotonic() < until and not newest_first(run / "checkpoints"):
        time.sleep(0.02)
    workers = [p for p in psutil.Process().children(recursive=True) if any("RayTrainWorker" in part for part in p.cmdline()[:1])]
    stopped.append(workers[-1].pid)
    os.kill(workers[-1].pid, signal.SIGSTOP)


@pytest.mark.slow
def test_a_stopped_worker_is_replaced_and_the_weights_are_those_of_an_undisturbed_run(cohort, tmp_path):
    undisturbed = train(recipe(cohort, tmp_path, "undisturbed", train={"epochs": 20}))
    hung, stopped = recipe(cohort, tmp_path, "hung", train={"epochs": 20, "hang_s": 8.0, "max_failures": 1, "checkpoint_every": 4}), []
    stopper = threading.Thread(target=stop_a_worker, args=(hung.folder, stopped))
    stopper.start()
    folder = train(hung)
    stopper.join()
    assert not psutil.pid_exists(stopped[0])
    assert reports(folder), "the worker that waited for it says where"
    assert losses(folder) == losses(undisturbed)
    assert final_weights(folder) == final_weights(undisturbed)


@pytest.mark.slow
def test_an_elastic_run_takes_what_there_is_and_sees_the_same_batches(cohort, tmp_path):
    short = {"epochs": 1}
    two = train(recipe(cohort, tmp_path, "two", train=short, **PLAIN))
    elastic = train(recipe(cohort, tmp_path, "elastic", train=short | {"workers": [1, 3]}, **PLAIN))
    assert np.allclose(losses(elastic), losses(two), rtol=1e-5)


@pytest.mark.parametrize(
    ("workers", "sentence"),
    [
        ([3, 2], r"recipe key 'train.workers' is \[3, 2\]; give the fewest first, then the most"),
        ([1, 9], "recipe key 'train.workers' is 9, more than the 8 samples of a global batch"),
    ],
)
def test_an_impossible_range_of_workers_is_refused(tmp_path, workers, sentence):
    with pytest.raises(RecipeError, match=sentence):
        recipe(tmp_path, tmp_path, "x", train={"workers": workers})
