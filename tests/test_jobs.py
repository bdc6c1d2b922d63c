"""The promise of ray_jobs/: the same run as a job on a running cluster, with the same numbers and a true exit code."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fake_cloud import until
from heads import RAY, head
from PIL import Image

from cohorts import tiny_classification_cohort
from hepdist.search.record import read_trials
from hepdist.shards.manifest import Manifest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
RECIPE: dict[str, Any] = {
    "task": {"kind": "classification"},
    "model": {"family": "resnet", "depth": 10, "width": 4},
    "train": {"epochs": 1, "global_batch": 8},
    "evaluation": {"splits": ["test"], "bootstrap": 50},
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with head(tmp_path_factory.mktemp("head") / "log") as client:
        yield client


def submit(environment: dict[str, str], *arguments: str, verb: str = "train") -> subprocess.CompletedProcess[str]:
    """Submit and wait; a head node that was just started has no agent to run jobs yet."""
    command = [RAY, "job", "submit", "--working-dir", ".", "--", sys.executable, f"ray_jobs/{verb}.py", *arguments]
    deadline = time.monotonic() + 90
    while True:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if "No available agent" not in done.stderr or time.monotonic() > deadline:
            return done
        time.sleep(1)


def test_a_job_gives_the_same_scores_as_the_local_run(environment: dict[str, str], tmp_path: Path) -> None:
    tiny_classification_cohort(tmp_path / "cohort", 40)
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump({**RECIPE, "data": {"cohort": str(tmp_path / "cohort")}}))
    job = submit(environment, str(recipe), f"runs={tmp_path}/job")
    assert job.returncode == 0, job.stdout + job.stderr
    alone = {name: value for name, value in environment.items() if not name.startswith("RAY_")}
    local = [sys.executable, "ray_jobs/train.py", str(recipe), f"runs={tmp_path}/local"]
    subprocess.run(local, cwd=ROOT, env=alone, check=True, capture_output=True)
    first, second = (json.loads((tmp_path / where / "tiny/result.json").read_text()) for where in ("job", "local"))
    assert first["split"] == second["split"]
    assert first["split"]["test"]["n"] == 8


def test_a_job_that_would_lose_its_run_fails_with_the_sentence_that_says_so(environment: dict[str, str]) -> None:
    job = submit(environment, "demo")
    assert job.returncode != 0
    assert "'runs' is the relative path 'runs', but a job's working directory is a temporary copy" in job.stdout + job.stderr


def test_a_search_as_a_job_has_the_trials_of_the_local_one(environment: dict[str, str], tmp_path: Path) -> None:
    tiny_classification_cohort(tmp_path / "cohort", {"train": 40, "val": 21, "test": 21})
    search = {"families": ["cnn"], "vary": ["model", "lr"], "space": {"cnn.width": [4, 8], "cnn.depth": 2}}
    search |= {"searcher": "random", "scheduler": "none", "trials": 2, "confirm": 1, "seeds": 1}
    recipe = tmp_path / "search.yaml"
    values = {"data": {"cohort": str(tmp_path / "cohort")}, "model": {"family": "cnn"}, "search": search}
    recipe.write_text(yaml.safe_dump({**RECIPE, **values, "train": {**RECIPE["train"], "workers": 2, "cpus_per_worker": 0.5}}))
    arguments = (str(recipe), f"runs={tmp_path}/runs")
    job = submit(environment, *arguments, f"search.folder={tmp_path}/job", verb="tune")
    assert job.returncode == 0, job.stdout + job.stderr
    assert "winner: trial 000" in job.stdout
    alone = {name: value for name, value in environment.items() if not name.startswith("RAY_")}
    local = [sys.executable, "ray_jobs/tune.py", *arguments, f"search.folder={tmp_path}/local"]
    subprocess.run(local, cwd=ROOT, env=alone, check=True, capture_output=True)
    first, second = (read_trials(tmp_path / where / "search") for where in ("job", "local"))
    assert [trial.end.kind for trial in first if trial.end] == ["finished"] * 2
    assert [(t.config, [e.facts["weights"] for e in t.results]) for t in first] == [
        (t.config, [e.facts["weights"] for e in t.results]) for t in second
    ]
    tests = [json.loads((tmp_path / where / "search/search.json").read_text())["test"] for where in ("job", "local")]
    assert tests[0] == tests[1]
    refused = submit(environment, "pneumonia-resnet", f"data.cohort={tmp_path}/cohort", f"runs={tmp_path}/runs", verb="tune")
    assert refused.returncode != 0
    assert "'search.folder' is the relative path 'searches'" in refused.stdout + refused.stderr


def test_an_ingest_and_an_evaluation_as_jobs_end_with_what_they_made(environment: dict[str, str], tmp_path: Path) -> None:
    for number in range(60):
        path = tmp_path / f"source/{'ill' if number % 2 else 'well'}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (24, 24), dtype=np.uint8)).save(path)
    (tmp_path / "salt").write_text("a salt for tests, long enough to be one")
    done = submit(environment, f"{tmp_path}/source", f"{tmp_path}/cohort", f"salt={tmp_path}/salt", verb="ingest")
    assert done.returncode == 0, done.stdout + done.stderr
    assert Manifest.load(tmp_path / "cohort").rows("train") == 36
    recipe = tmp_path / "small.yaml"
    values = {"data": {"cohort": str(tmp_path / "cohort")}, "train": {**RECIPE["train"], "workers": 1}, "evaluation": {"splits": []}}
    recipe.write_text(yaml.safe_dump({**RECIPE, **values}))
    assert submit(environment, str(recipe), f"runs={tmp_path}/runs").returncode == 0
    done = submit(environment, f"{tmp_path}/runs/small", "--split", "val", verb="evaluate")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "runs/small/result.json").read_text())["split"]["val"]["n"] == Manifest.load(tmp_path / "cohort").rows(
        "val"
    )


def test_a_failing_jobs_last_words_are_its_own_error(environment: dict[str, str], tmp_path: Path) -> None:
    done = submit(environment, "pneumonia-resnet", f"data.cohort={tmp_path}/nowhere", f"runs={tmp_path}/runs")
    assert done.returncode == 1
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("error: ")]
    assert said[-1].startswith(f"error: no cohort at '{tmp_path}/nowhere'")


def test_a_stopped_job_gives_back_every_cpu(environment: dict[str, str], tmp_path: Path) -> None:
    tiny_classification_cohort(tmp_path / "cohort", 40)
    recipe = tmp_path / "long.yaml"
    long = {**RECIPE["train"], "epochs": 100_000}
    recipe.write_text(yaml.safe_dump({**RECIPE, "data": {"cohort": str(tmp_path / "cohort")}, "train": long}))
    command = [
        RAY,
        "job",
        "submit",
        "--no-wait",
        "--submission-id",
        "to-stop",
        "--working-dir",
        ".",
        "--",
        sys.executable,
        "ray_jobs/train.py",
    ]
    subprocess.run([*command, str(recipe), f"runs={tmp_path}/runs"], cwd=ROOT, env=environment, check=True, capture_output=True)
    until(lambda: list(tmp_path.glob("runs/long/checkpoints/samples-*")), 300)
    assert cpus_in_use(environment) > 0
    subprocess.run([RAY, "job", "stop", "to-stop"], env=environment, check=True, capture_output=True)
    until(lambda: cpus_in_use(environment) == 0, 60)


def cpus_in_use(environment: dict[str, str]) -> float:
    """As the dashboard counts them."""
    asked = urllib.request.Request(
        f"{environment['RAY_ADDRESS']}/api/cluster_status?format=0", headers={"Authorization": f"Bearer {environment['RAY_AUTH_TOKEN']}"}
    )
    with urllib.request.urlopen(asked, timeout=30) as answer:
        status = json.loads(answer.read())["data"]["clusterStatus"]
    return float(status["loadMetricsReport"]["usage"]["CPU"][0])
