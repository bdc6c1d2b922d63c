"""A head alone, and work that asks for nodes, gets them, uses them, loses one and gives them back: an elastic training, a search, an ingest."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from fake_cloud import IDLE_S, Cloud, cloud, until
from PIL import Image

from chaos import evidence
from chaos.runs import Command, values
from cohorts import tiny_classification_cohort
from hepdist.ingest import ingest
from hepdist.search.record import read_trials
from hepdist.training.metrics_file import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
MOST = 2
PATIENCE_S = 600.0
EPOCHS, ROWS = 20, 75
SALT = "a salt for tests, long enough to be one"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with cloud(tmp_path_factory.mktemp("cloud") / "log", MOST) as found:
        yield found


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohorts") / "images"
    tiny_classification_cohort(folder, {"train": ROWS, "val": 21, "test": 21})
    return folder


def start(running: Cloud, verb: str, folder: Path, *words: str) -> Command:
    """A command on the cluster, which begins with a head alone."""
    until(lambda: running.nodes() == 0, PATIENCE_S)
    running.ask()
    return Command([*words], folder / f"{verb}.log", running.address, verb)


def finish(running: Cloud, command: Command, what: str, lost_s: float) -> list[tuple[float, int]]:
    """Wait for the command and for the nodes to be gone; returns the story of the nodes, which is also printed (docs/scaling.md)."""
    until(command.ended, PATIENCE_S)
    ended_s = time.monotonic() - running.began
    assert command.process.returncode == 0, command.log.read_text()[-3000:]
    until(lambda: running.nodes() == 0, PATIENCE_S)
    time.sleep(1)
    line = {"what": what, "nodes": running.history, "lost_s": round(lost_s, 1), "ended_s": round(ended_s, 1), "idle_s": IDLE_S}
    print(json.dumps(line))
    if out := os.environ.get("CLOUD_OUT"):
        with open(out, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    return running.history


def assert_up_and_down(history: list[tuple[float, int]]) -> None:
    """0 -> n, one of them lost, -> 0; a node may have been replaced, or not."""
    counts = [count for _, count in history]
    assert counts[0] == counts[-1] == 0
    assert 1 <= max(counts) <= MOST


def test_a_node_lost_under_an_elastic_training_loses_no_sample(running, cohort, tmp_path):
    asked = values(cohort, tmp_path, "elastic")
    asked["train"] |= {"workers": [1, MOST], "epochs": EPOCHS}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(asked))
    command = start(running, "train", tmp_path, str(tmp_path / "recipe.yaml"))
    folder = tmp_path / "elastic"
    until(lambda: command.ended() or any(line["samples"] > ROWS for line in read_metrics(folder)), PATIENCE_S)
    assert not command.ended(), command.log.read_text()[-3000:]
    lost_s = time.monotonic() - running.began
    running.lose(next(raylet for raylet in running.raylets() if running.trains(raylet)))
    history = finish(running, command, "elastic training", lost_s)
    assert_up_and_down(history)
    assert evidence.times_consumed(folder, ROWS) == {epoch: Counter(range(ROWS)) for epoch in range(EPOCHS)}
    assert json.loads((evidence.newest_first(folder / "checkpoints")[0] / "progress.json").read_text())["finished"]


def test_a_search_starts_nodes_and_its_trials_outlive_a_lost_one(running, cohort, tmp_path):
    asked = values(cohort, tmp_path, "search")
    asked["train"] = {"epochs": 6, "global_batch": 8, "workers": 1}
    asked["search"] = {
        "folder": str(tmp_path / "searches"), "families": ["resnet"], "searcher": "random", "scheduler": "none", "trials": 4, "confirm": 0,
        "vary": ["lr"],
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(asked))
    command = start(running, "tune", tmp_path, str(tmp_path / "recipe.yaml"))
    folder = tmp_path / "searches/search"
    until(lambda: command.ended() or any(trial.results for trial in trials(folder)), PATIENCE_S)
    assert not command.ended(), command.log.read_text()[-3000:]
    lost_s = time.monotonic() - running.began
    running.lose(next(raylet for raylet in running.raylets() if running.works(raylet, "TrialRun")))
    history = finish(running, command, "search of 4 trials", lost_s)
    assert_up_and_down(history)
    ended = trials(folder)
    assert [trial.end.kind for trial in ended if trial.end] == ["finished"] * 4
    assert [[event.facts["epoch"] for event in trial.results] for trial in ended] == [[1, 2, 3, 4, 5, 6]] * 4


def test_an_ingest_starts_nodes_loses_one_and_writes_the_bytes_of_an_undisturbed_one(running, tmp_path, monkeypatch):
    for number in range(400):
        path = tmp_path / f"source/{'ill' if number % 2 else 'well'}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (128, 128), dtype=np.uint8)).save(path)
    monkeypatch.setenv("HEPDIST_SALT", SALT)
    command = start(running, "ingest", tmp_path, str(tmp_path / "source"), str(tmp_path / "cohort"), f"workers={MOST}")
    until(lambda: command.ended() or any(running.works(raylet) for raylet in running.raylets()), PATIENCE_S)
    assert not command.ended(), command.log.read_text()[-3000:]
    lost_s = time.monotonic() - running.began
    running.lose(next(raylet for raylet in running.raylets() if running.works(raylet)))
    history = finish(running, command, "ingest", lost_s)
    assert_up_and_down(history)
    alone = tmp_path / "alone/cohort"
    alone.parent.mkdir()
    assert ingest(str(tmp_path / "source"), str(alone)).sha256() == (written := _manifest(tmp_path / "cohort")).sha256()
    assert written.rows("train") > 0


def trials(folder: Path):
    return read_trials(folder) if folder.exists() else []


def _manifest(folder: Path):
    from hepdist.shards.manifest import Manifest

    return Manifest.load(folder)
