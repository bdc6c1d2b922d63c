"""Training end to end under Ray Train and DeepSpeed: every sample counts once, worker counts agree, and kills change nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from cohorts import tiny_classification_cohort
from hepdist.errors import CohortError, RecipeError, RunError
from hepdist.recipe import Recipe
from hepdist.shards.manifest import sha256_of
from hepdist.spec import parse
from hepdist.training.checkpoint import digest, newest_first
from hepdist.training.launch import train
from hepdist.training.metrics_file import read_metrics

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cohorts") / "images"
    tiny_classification_cohort(folder, {"train": 75, "val": 21, "test": 21})
    return folder


def recipe(cohort: Path, runs: Path, name: str, **sections) -> Recipe:
    values = {
        "name": name, "runs": str(runs),
        "data": {"cohort": str(cohort)},
        "task": {"kind": "classification"},
        "model": {"family": "resnet", "depth": 10, "width": 8, "dropout": 0.2},
        "augment": {"rotate": 10, "noise": 0.1, "mixup": 0.2},
        "optim": {"lr": 1e-3, "ema": 0.9},
        "train": {"epochs": 3, "global_batch": 8, "max_failures": 0},
        "evaluation": {"splits": [], "batch": 8},
    }  # fmt: skip
    for section, changes in sections.items():
        values[section] = {**values[section], **changes}
    return parse(Recipe, values)


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(folder) if "loss" in line]


def final_weights(folder: Path) -> str:
    newest = newest_first(folder / "checkpoints")[0]
    return digest(
        {**load_file(newest / "model.safetensors"), **{f"optimizer.{k}": v for k, v in load_file(newest / "optimizer.safetensors").items()}}
    )


@pytest.fixture(scope="module")
def undisturbed(cohort, tmp_path_factory) -> Path:
    return train(recipe(cohort, tmp_path_factory.mktemp("runs"), "undisturbed"))


def test_a_run_consumes_each_sample_once_an_epoch_and_learns(undisturbed):
    lines = [line for line in read_metrics(undisturbed) if "loss" in line]
    assert lines[-1]["samples"] == 3 * 75
    assert lines[-1]["step"] == 3 * 10  # nine batches of 8 and one of 3
    assert lines[-1]["loss"] < lines[0]["loss"]
    validations = [line for line in read_metrics(undisturbed) if "val_auroc" in line]
    assert [line["samples"] for line in validations] == [75, 150, 225]


def test_a_run_folder_holds_what_is_promised(undisturbed):
    assert {"recipe.yaml", "checkpoints", "model", "metrics.jsonl", "tensorboard"} <= {p.name for p in undisturbed.iterdir()}
    assert {"model.safetensors", "recipe.yaml", "normalisation.json", "sha256.json"} <= {p.name for p in (undisturbed / "model").iterdir()}
    assert list((undisturbed / "tensorboard").glob("events.out.tfevents.*"))


def test_eleven_rows_on_three_workers_are_each_trained_once(tmp_path):
    tiny_classification_cohort(tmp_path / "c", {"train": 11, "val": 11, "test": 11})
    folder = train(recipe(tmp_path / "c", tmp_path, "eleven", train={"workers": 3, "global_batch": 4, "epochs": 2}))
    assert [line["samples"] for line in read_metrics(folder) if "loss" in line] == [4, 8, 11, 15, 19, 22]


PLAIN = {"model": {"dropout": 0.0}, "augment": {"mixup": 0.0}}
"""Without dropout and mixup pairs, which are drawn by worker: all else is the same on any number of them."""


@pytest.fixture(scope="module")
def two_workers(cohort, tmp_path_factory) -> Path:
    return train(recipe(cohort, tmp_path_factory.mktemp("runs"), "two", train={"epochs": 1}, **PLAIN))


@pytest.mark.parametrize("workers", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_losses_do_not_depend_on_the_number_of_workers(cohort, tmp_path, two_workers, workers):
    other = train(recipe(cohort, tmp_path, "other", train={"epochs": 1, "workers": workers, "micro_batch": 2}, **PLAIN))
    assert np.allclose(losses(two_workers), losses(other), rtol=1e-5)


def kill_a_worker_after(folder: Path, samples: int, killed: list[int]) -> None:
    """SIGKILL a training worker once the run has reported `samples`."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if any(line["samples"] >= samples for line in read_metrics(folder)):
            mine = [p for p in psutil.Process().children(recursive=True) if any("RayTrainWorker" in part for part in p.cmdline()[:1])]
            if mine:
                os.kill(mine[-1].pid, signal.SIGKILL)
                killed.append(mine[-1].pid)
                return
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_worker_ends_with_the_same_weights_where_ray_data_reads(cohort, tmp_path, undisturbed):
    """tests/chaos does it where the workers read themselves."""
    again, killed = recipe(cohort, tmp_path, "killed", data={"reader": "ray"}, train={"max_failures": 2, "checkpoint_every": 4}), []
    killer = threading.Thread(target=kill_a_worker_after, args=(again.folder, 110, killed))
    killer.start()
    folder = train(again)
    killer.join()
    assert killed
    assert losses(folder) == losses(undisturbed)
    assert final_weights(folder) == final_weights(undisturbed)


def test_a_second_call_resumes_and_a_finished_run_is_not_trained_again(cohort, tmp_path, undisturbed):
    stopped = recipe(cohort, tmp_path, "again")
    folder = train(stopped)
    for path in newest_first(folder / "checkpoints")[:1]:  # as if the last save had been lost
        (path / "progress.json").write_text("{")
    folder = train(stopped)
    assert (folder / "checkpoints" / "damaged-samples-000000000225").is_dir()
    assert final_weights(folder) == final_weights(undisturbed)
    before = (folder / "metrics.jsonl").read_bytes()
    assert train(stopped) == folder
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_another_experiment_under_the_same_name_is_refused(cohort, undisturbed):
    other = recipe(cohort, undisturbed.parent, "undisturbed", optim={"lr": 5e-4})
    with pytest.raises(RunError, match="run 'undisturbed' was started with another 'optim'; use another name=, or --fresh to start over"):
        train(other)


def test_a_run_can_start_from_the_best_weights_of_another(cohort, tmp_path, undisturbed):
    start = {"init_from": str(undisturbed), "epochs": 1}
    folder = train(recipe(cohort, tmp_path, "onward", train=start, optim={"lr": 1e-12, "weight_decay": 0.0, "ema": 0.0}))
    now, then = load_file(folder / "model" / "model.safetensors"), load_file(undisturbed / "model" / "model.safetensors")
    assert all(np.allclose(now[name], then[name], rtol=1e-6) for name in then)
    assert json.loads((folder / "transfer.json").read_text())["anew"] == []
    with pytest.raises(RunError, match=r"run 'onward' was started with train.init_from="):
        train(recipe(cohort, tmp_path, "onward", train={"epochs": 1}, optim={"lr": 1e-12, "weight_decay": 0.0, "ema": 0.0}))


def test_early_stopping_ends_a_run_before_its_plan(cohort, tmp_path):
    folder = train(recipe(cohort, tmp_path, "early", train={"epochs": 30, "patience": 1}, optim={"lr": 1e-9, "ema": 0.0}))
    newest = json.loads((newest_first(folder / "checkpoints")[0] / "progress.json").read_text())
    assert newest["finished"]
    assert newest["cursor"] < 30 * 75


def test_more_workers_than_cpus_is_one_sentence_before_anything_starts(cohort, tmp_path):
    with pytest.raises(
        RecipeError,
        match=r"recipe key 'train.workers' is 9, but the cluster has 8 CPUs and each worker takes 1; use train.workers=8 or a larger cluster",
    ):
        train(recipe(cohort, tmp_path, "many", train={"workers": 9, "global_batch": 16}))
    assert not (tmp_path / "many" / "metrics.jsonl").exists()


def test_a_split_that_is_to_be_scored_and_has_no_rows_is_refused_before_anything_starts(tmp_path):
    tiny_classification_cohort(tmp_path / "c", {"train": 12, "val": 6})
    refusal = r"recipe key 'evaluation.splits' names 'test', of which cohort '.*' has no rows; .* or set evaluation.splits=\[\"val\"\]$"
    with pytest.raises(RecipeError, match=refusal):
        train(recipe(tmp_path / "c", tmp_path, "untested", evaluation={"splits": ["val", "test"]}))
    assert not (tmp_path / "untested").exists()


def put_a_train_patient_into_test(folder: Path) -> None:
    """Rewrite the first test shard with a patient of train, manifest and sums in accord."""
    manifest = tiny_classification_cohort(folder, 30)
    shard, source = manifest.of("test")[0], manifest.of("train")[0]
    table = pq.read_table(folder / shard.path)
    stray = pq.read_table(folder / source.path, columns=["patient"])["patient"][0].as_py()
    patients = pa.array([stray, *table["patient"].to_pylist()[1:]])
    table = table.set_column(table.schema.get_field_index("patient"), "patient", patients)
    with pq.ParquetWriter(folder / shard.path, table.schema, compression="none", use_dictionary=False) as writer:
        first = 0
        for rows in shard.row_groups:
            writer.write_table(table.slice(first, rows))
            first += rows
    path = folder / shard.path
    changed = dataclasses.replace(shard, bytes=path.stat().st_size, sha256=sha256_of(path))
    dataclasses.replace(manifest, shards=tuple(changed if s is shard else s for s in manifest.shards)).save(folder)


def test_a_cohort_with_a_patient_in_two_splits_is_refused(tmp_path):
    put_a_train_patient_into_test(tmp_path / "c")
    with pytest.raises(CohortError, match=r"patient \w{4}… is in train and test; ingest it again"):
        train(recipe(tmp_path / "c", tmp_path, "leak"))
