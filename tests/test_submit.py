"""`hepdist submit`: what is sent to a cluster, what is refused before, and what the person at the terminal sees of the job."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pytest
import typer
import yaml
from heads import head

from cohorts import tiny_classification_cohort
from hepdist.errors import RecipeError
from hepdist.jobs.order import RECIPE, order
from hepdist.recipe import load_recipe
from hepdist.shards.manifest import Manifest

ROOT = Path(__file__).resolve().parents[1]
CLUSTER = "http://10.0.0.1:8265"
OF_THE_CLUSTER = {"_AutoscalingCoordinatorActor"}
"""Ray's own, started with the first Train run and shared by all; it takes no CPU."""


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohorts") / "images"
    tiny_classification_cohort(folder, 40)
    return folder


def test_on_this_machine_relative_paths_become_absolute(cohort, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(
        yaml.safe_dump({"data": {"cohort": str(cohort)}, "task": {"kind": "classification"}, "model": {"family": "cnn"}})
    )
    found = order("tune", ["--fresh", "mine.yaml", "train.epochs=3"], here=True, cluster=CLUSTER)
    assert found.arguments == [RECIPE, "--fresh"] and found.name == "mine"
    (tmp_path / "sent.yaml").write_text(found.files[RECIPE])
    sent = load_recipe(tmp_path / "sent.yaml")
    assert (sent.runs, sent.search.folder, sent.data.cohort) == (str(tmp_path / "runs"), str(tmp_path / "searches"), str(cohort))
    assert sent.train.epochs == 3 and sent.name == "mine"


def test_metadata_says_who_asked_for_what_and_holds_no_path(cohort, tmp_path):
    told = order("tune", ["pneumonia-resnet", f"data.cohort={cohort}", f"runs={tmp_path}"], here=True, cluster=CLUSTER).metadata
    assert told["cohort_sha256"] == Manifest.load(cohort).sha256()
    assert (told["verb"], told["recipe"], told["family"]) == ("tune", "pneumonia-resnet", "resnet")
    assert told["who"] and "/" not in "".join(told.values())
    assert told.get("git_commit", "").removesuffix("-dirty") == head_commit()[:12]


def test_metadata_of_an_evaluation_are_those_of_its_run(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x/recipe.yaml").write_text(yaml.safe_dump({"name": "pneumonia-resnet"}))
    (tmp_path / "x/cohort.sha256").write_text("ab" * 32 + "\n")
    told = order("evaluate", [str(tmp_path / "x"), "--split", "val"], here=True, cluster=CLUSTER).metadata
    assert (told["recipe"], told["cohort_sha256"], told["verb"], told["name"]) == ("pneumonia-resnet", "ab" * 32, "evaluate", "x")
    assert "recipe" not in order("evaluate", ["/shared/runs/x"], here=False, cluster=CLUSTER).metadata


def head_commit() -> str:
    """Of this checkout; '' where it is none."""
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["train", "pneumonia-resnet", "data.cohort=s3://b/c"], "'runs' is the relative path 'runs', which the cluster at http://10.0.0.1:8265 does not see; give an absolute path that every node sees"),
        (["tune", "pneumonia-resnet", "data.cohort=s3://b/c", "runs=/shared/runs"], "'search.folder' is the relative path 'searches'"),
        (["train", "pneumonia-resnet", "runs=/shared/runs"], "'data.cohort' is the relative path 'cohorts/pneumonia', which the cluster at http://10.0.0.1:8265 does not see; give a URI such as data.cohort=s3://bucket/cohorts/pneumonia, or an absolute path that every node sees"),
        (["evaluate", "runs/x"], "'RUN' is the relative path 'runs/x'"),
        (["evaluate", "/shared/x", "--cohort", "cohorts/y"], "'--cohort' is the relative path 'cohorts/y'"),
        (["ingest", "dicom", "s3://b/c"], "'SOURCE' is the relative path 'dicom'"),
        (["train", "pneumonia-resnet", "optim.lrr=1"], "recipe key 'optim.lrr' is unknown; did you mean 'optim.lr'?"),
        (["demo"], "'demo' can't be submitted as a job; use one of ingest, train, tune, evaluate, compare, explain, crossval, export, predict, surveil"),
        (["ingest", "dicom"], "hepdist submit ingest needs COHORT"),
        (["train"], "hepdist submit train needs RECIPE"),
    ],
)  # fmt: skip
def test_what_a_remote_cluster_would_not_find_is_refused_before_anything_is_sent(words, sentence):
    with pytest.raises(RecipeError) as refused:
        order(words[0], words[1:], here=False, cluster=CLUSTER)
    assert sentence in str(refused.value)


def test_files_of_ingest_are_made_absolute_and_names_of_built_in_rules_are_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labs.csv").write_text("")
    words = ["dicom", "cohorts/c", "emr=labs.csv", "label_rules=hepatitis", "label=finding"]
    found = order("ingest", words, here=True, cluster=CLUSTER)
    assert found.arguments == [
        f"{tmp_path}/dicom",
        f"{tmp_path}/cohorts/c",
        f"emr={tmp_path}/labs.csv",
        "label_rules=hepatitis",
        "label=finding",
    ]
    with pytest.raises(RecipeError, match=r"'emr' is the relative path 'labs\.csv'"):
        order("ingest", ["s3://b/dicom", "s3://b/c", "emr=labs.csv"], here=False, cluster=CLUSTER)


def test_a_verb_that_the_command_line_gains_can_be_submitted(tmp_path, monkeypatch):
    from hepdist.cli import app

    monkeypatch.setattr(app, "registered_commands", list(app.registered_commands))
    monkeypatch.chdir(tmp_path)

    @app.command("foretell")
    def foretell(
        run: Annotated[str, typer.Argument(metavar="RUN[+RUN...]")],
        source: str,
        out: str,
        options: list[str] | None = None,
        batch: int = 8,
        fast: bool = False,
    ) -> None: ...

    words = ["--batch", "4", "runs/x+runs/y", "dicom", "--fast", "told"]
    found = order("foretell", words, here=True, cluster=CLUSTER)
    both = f"{tmp_path}/runs/x+{tmp_path}/runs/y"
    assert found.arguments == [both, f"{tmp_path}/dicom", f"{tmp_path}/told", "--batch=4", "--fast"]
    assert (found.name, found.metadata["verb"], found.files) == ("told", "foretell", {})
    found = order("foretell", ["/shared/runs/x", "s3://b/dicom", "s3://b/told", "--no-fast"], here=False, cluster=CLUSTER)
    assert found.arguments == ["/shared/runs/x", "s3://b/dicom", "s3://b/told", "--no-fast"]
    with pytest.raises(RecipeError, match=r"'RUN' is the relative path 'runs/x'.* give an absolute path that every node sees$"):
        order("foretell", ["runs/x", "s3://b/dicom", "s3://b/told"], here=False, cluster=CLUSTER)


def test_remote_paths_that_every_node_sees_are_left_alone():
    recipe = ["pneumonia-resnet", "data.cohort=s3://b/c", "runs=/shared/runs", "search.folder=/shared/searches"]
    sent = yaml.safe_load(order("tune", recipe, here=False, cluster=CLUSTER).files[RECIPE])
    assert (sent["data"]["cohort"], sent["runs"], sent["search"]["folder"]) == ("s3://b/c", "/shared/runs", "/shared/searches")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with head(tmp_path_factory.mktemp("head") / "log") as environment:
        time.sleep(5)  # a head that was just started has no agent to run jobs yet
        yield environment | {"PYTHONPATH": str(ROOT)}


def hepdist(client: dict[str, str], *words: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hepdist", "submit", *words]
    return subprocess.run(command, env=client, capture_output=True, text=True, check=False, timeout=300, **options)


def state(client: dict[str, str], kind: str) -> list[dict]:
    """What Ray's own command line says of its actors or jobs."""
    ray = Path(sys.executable).with_name("ray")
    return json.loads(
        subprocess.run(
            [ray, "list", kind, "--format", "json", "--limit", "1000", "--detail"], env=client, capture_output=True, text=True, check=True
        ).stdout
        or "[]"
    )


def recipe(cohort: Path, folder: Path, **train) -> Path:
    values = {
        "data": {"cohort": str(cohort)}, "task": {"kind": "classification"}, "model": {"family": "cnn", "depth": 2, "width": 8},
        "train": {"epochs": 1, "global_batch": 8, **train}, "evaluation": {"splits": ["test"], "bootstrap": 50},
    }  # fmt: skip
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.slow
def test_a_submitted_training_is_followed_to_its_end(client, cohort, tmp_path):
    done = hepdist(client, "train", str(recipe(cohort, tmp_path)), "runs=runs", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "runs/small/result.json").read_text())["split"]["test"]["n"] == 8
    assert "report: " in done.stdout and done.stderr.splitlines()[-1].endswith(" succeeded")
    (job,) = [job for job in state(client, "jobs") if job["submission_id"] and job["submission_id"].startswith("train-small-")]
    assert job["metadata"]["recipe"] == "small" and job["metadata"]["cohort_sha256"] == Manifest.load(cohort).sha256()
    assert client["RAY_AUTH_TOKEN"] not in json.dumps(job)


@pytest.mark.slow
def test_a_failing_job_ends_with_its_own_error_and_its_own_exit_code(client, cohort, tmp_path):
    done = hepdist(client, "train", str(recipe(cohort, tmp_path, workers=3, cpus_per_worker=9)), f"runs={tmp_path}/runs")
    assert done.returncode == 2
    assert "failed: error: recipe key 'train.workers' is 3, but the cluster has 3 CPUs" in done.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("answer", ["y", "n"])
def test_ctrl_c_asks_whether_to_stop_the_job_and_a_stopped_one_gives_everything_back(client, cohort, tmp_path, answer):
    path = recipe(cohort, tmp_path, epochs=100_000)
    controlled, terminal = pty.openpty()
    command = [sys.executable, "-m", "hepdist", "submit", "train", str(path), f"name=long-{answer}", f"runs={tmp_path}/runs"]
    streams = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
    heeding = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731 - a shell has what it starts in the background ignore Ctrl-C
    with subprocess.Popen(command, env=client, preexec_fn=heeding, **streams) as process:
        until = time.monotonic() + 240
        while not list(tmp_path.glob("runs/*/checkpoints/samples-*")):
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        shown = read_until(controlled, b"stop job")
        os.write(controlled, f"{answer}\n".encode())
        code = process.wait(timeout=120)
    os.close(terminal)
    os.close(controlled)
    assert b"[y/N]" in shown or answer == "n"
    (job,) = [job for job in state(client, "jobs") if job["submission_id"] and job["submission_id"].startswith(f"train-long-{answer}-")]
    if answer == "n":
        assert code == 130 and job["status"] == "RUNNING"
        ray = Path(sys.executable).with_name("ray")
        subprocess.run([ray, "job", "stop", job["submission_id"]], env=client, check=True, capture_output=True)
    else:
        assert code == 143 and job["status"] == "STOPPED"
    until = time.monotonic() + 60
    while busy := [actor for actor in state(client, "actors") if actor["state"] != "DEAD" and actor["class_name"] not in OF_THE_CLUSTER]:
        assert time.monotonic() < until, busy
        time.sleep(0.5)


def read_until(descriptor: int, word: bytes) -> bytes:
    seen = b""
    while word not in seen or b":" not in seen.partition(word)[2]:
        seen += os.read(descriptor, 4096)
    return seen


@pytest.mark.slow
def test_a_client_without_the_clusters_token_is_refused_in_a_sentence(client, cohort, tmp_path):
    stranger = {name: value for name, value in client.items() if not name.startswith("RAY_AUTH")} | {"HOME": str(tmp_path)}
    for token in ({}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64}):
        done = hepdist(stranger | token, "train", str(recipe(cohort, tmp_path)), f"runs={tmp_path}/runs")
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
        assert "refuses this client: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN" in done.stderr


def test_a_cluster_that_does_not_answer_is_named_with_what_to_do():
    words = ["--address", "http://127.0.0.1:9", "train", "pneumonia-resnet"]
    done = hepdist({name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {"PYTHONPATH": str(ROOT)}, *words)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: no cluster answers at http://127.0.0.1:9; start one with 'ray start --head'")
