"""From a recipe to a trained run: checks first, then Ray Train, then the evaluation that closes the run."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import psutil

from hepdist.cluster import connect
from hepdist.console import plain
from hepdist.errors import RunError
from hepdist.failure import refusal
from hepdist.ingest.check import check_cohort
from hepdist.place import absolute
from hepdist.recipe import Recipe
from hepdist.shards.manifest import Manifest
from hepdist.shards.plan import READER_CPUS
from hepdist.training import watchdog
from hepdist.training.checkpoint import intact, newest_first
from hepdist.training.mirror import Mirror
from hepdist.training.preflight import fits_cluster, fits_cohort, has_splits, has_start, same_experiment
from hepdist.training.run_folder import Writer, sweep, write_whole
from hepdist.training.stop import Stop, stoppable

RAYS = ".ray"
"""Ray's own state of an attempt, in the run's folder; ours is the folder itself."""
KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
"""glibc gives large tensors back to the system as they are freed, and a CPU step faults all their pages in again: a fifth of its time. Huge
pages, where the system grants them on request, save a 3D U-Net some percent more."""


def train(recipe: Recipe, *, fresh: bool = False) -> Path:
    """Train `recipe` (or take its run up again), evaluate it and write its report; returns the run's folder.

    Raises RecipeError and CohortError before anything starts, the worker's own error where training fails, and SystemExit with 143
    or 130 after SIGTERM or Ctrl-C, when the workers have saved.
    """
    recipe = with_absolute_paths(recipe)
    folder = recipe.folder
    manifest = Manifest.load(recipe.data.cohort)
    fits_cohort(recipe, manifest)
    has_splits(recipe, manifest)
    check_cohort(recipe.data.cohort, manifest)  # a patient in two splits, a missing shard: before anything starts
    mirror = Mirror(recipe.train.mirror, folder) if recipe.train.mirror else None
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
        if mirror:
            mirror.clear()
    same_experiment(recipe, manifest, folder)
    if mirror:
        with tempfile.TemporaryDirectory() as told:
            mirror.tell(Path(told))
            same_experiment(recipe, manifest, Path(told))
        if mirror.fetch():
            plain(f"the run goes on from {newest_first(folder / 'checkpoints')[0].name}, which was in {mirror.place}")
    if not newest_first(folder / "checkpoints"):
        has_start(recipe)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder, "recipe.yaml", recipe.dump())
    write_whole(folder, "cohort.sha256", manifest.sha256())
    phases = {"command": psutil.Process().create_time()}
    with connect() as cluster, stoppable(recipe.train.stop_grace_s) as stop:
        phases["connected"] = time.time()
        device = fits_cluster(recipe, cluster)
        if not is_finished(folder):
            fit(recipe, folder, device, manifest.rows("train") * recipe.train.epochs, phases, stop, own_ray=cluster.own)
        _tidy(folder)
        if recipe.evaluation.splits:
            from hepdist.evaluation.evaluate import evaluate

            evaluate(folder, split=recipe.evaluation.splits)
    return folder


def _tidy(folder: Path) -> None:
    """Remove what killed processes left in the folder of a finished run, Ray's own state of attempts included."""
    writer = Writer(folder)
    sweep(folder)
    shutil.rmtree(folder / RAYS, ignore_errors=True)
    writer.release()


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """The same recipe with paths that hold in another process's working folder; URIs are left alone."""
    data = recipe.data.model_copy(update={"cohort": absolute(recipe.data.cohort)})
    start = recipe.train.init_from
    if start and "/" not in start:
        start = f"{recipe.runs}/{start}"
    mirror = recipe.train.mirror
    places = {"init_from": absolute(start) if start else "", "mirror": absolute(mirror) if mirror else ""}
    train = recipe.train.model_copy(update=places)
    return recipe.model_copy(update={"data": data, "runs": absolute(recipe.runs), "train": train})


def is_finished(folder: Path) -> bool:
    """Whether the newest checkpoint of a run says that training is complete."""
    newest = intact(folder / "checkpoints")
    return newest is not None and bool(json.loads((newest / "progress.json").read_text())["finished"])


def fit(recipe: Recipe, folder: Path, device: str, samples: int, phases: dict[str, float], stop: Stop, *, own_ray: bool) -> None:
    """Run the workers to the end under Ray Train; what a worker raised reaches the caller as WorkerGroupError.

    samples: of the whole run; phases: UNIX times of the start so far, which the worker completes in startup.json;
    stop: what signals ask for; own_ray: Ray ends with this process.
    """
    from ray.train import ScalingConfig
    from ray.train.v2.api.config import FailureConfig, RunConfig  # what ray.train gives, with the fields that mypy misses there

    from hepdist.training.progress import follow
    from hepdist.training.trainer import Trainer, let_go, run_worker

    phases["fit"] = time.time()
    trainer = Trainer(
        run_worker,
        own_ray=own_ray,
        elastic=recipe.train.fewest < recipe.train.most,
        stop=stop,
        train_loop_config={"recipe": recipe.model_dump(mode="json"), "folder": str(folder), "device": device, "phases": phases},
        scaling_config=ScalingConfig(
            num_workers=cast(Any, recipe.train.workers),  # a pair makes it elastic
            use_gpu=device == "cuda",
            resources_per_worker={"CPU": recipe.train.cpus_per_worker - READER_CPUS} | ({"GPU": 1} if device == "cuda" else {}),
        ),
        run_config=RunConfig(
            name=f"{recipe.name}-{time.time_ns()}",
            storage_path=str(folder / RAYS),
            worker_runtime_env={"env_vars": KEEP_MEMORY},
            failure_config=FailureConfig(max_failures=recipe.train.max_failures, preemption_grace_s=recipe.train.preemption_grace_s),
        ),
    )
    watchdog.clear(folder)
    try:
        with follow(folder, recipe, samples):
            trainer.fit()
    except Exception as error:
        let_go(error)
        if (hung := watchdog.reports(folder)) and not refusal(getattr(error, "worker_failures", {})):
            raise RunError(f"{hung[0]}; raise train.hang_s where the work is just slow") from error
        raise
    finally:
        stop.controller = None
    stop.leave()  # asked for while workers trained; without them a signal ends at once
