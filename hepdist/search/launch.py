"""From a recipe to a finished search: checks first, then Ray Tune over trials, then the best ones again, then the report."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hepdist.cluster import Cluster, connect
from hepdist.console import plain
from hepdist.errors import RecipeError, RunError
from hepdist.ingest.check import check_cohort
from hepdist.place import absolute
from hepdist.recipe import Recipe
from hepdist.search.record import Trial
from hepdist.search.spec import SearchSpec
from hepdist.shards.manifest import Manifest
from hepdist.training.launch import KEEP_MEMORY, with_absolute_paths
from hepdist.training.preflight import fits_cluster, fits_cohort, has_start
from hepdist.training.run_folder import LOCK, Writer, sweep, write_whole
from hepdist.training.stop import stoppable

if TYPE_CHECKING:
    from hepdist.search.space import Space

FREE = ("trials", "device_hours", "money", "hours", "confirm", "seeds", "ensemble", "concurrent", "retries", "mlflow", "folder")
"""Of the search section, what may change when a search goes on: how far, at what cost, not over what."""

ENVIRONMENT = {
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # the last word of a trial that failed has no score
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # each run writes its own log and TensorBoard events
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # its snapshots: the record takes their place
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # it would end the search as if it were complete
}
"""For Ray Tune, set before it is imported."""


def tune(recipe: Recipe, *, fresh: bool = False) -> Path:
    """Search as the recipe's `search:` section says, or go on with the search of that name; returns the search's folder.

    Raises RecipeError and CohortError before anything starts, and RunError where every trial failed, with the commonest error.
    """
    recipe = as_base(recipe)
    folder = Path(recipe.search.folder) / recipe.name
    manifest = fitting_cohort(recipe)
    check_cohort(recipe.data.cohort, manifest)
    if not fresh:
        same_search(recipe, manifest, folder)

    from hepdist.search.space import Space

    space = Space.of(recipe, manifest)
    for name, value in {**ENVIRONMENT, **KEEP_MEMORY}.items():
        os.environ.setdefault(name, value)
    with connect() as cluster, stoppable(recipe.train.stop_grace_s):  # a signal ends at once: what is saved is enough to go on
        device = fits_search(recipe, cluster)
        folder.mkdir(parents=True, exist_ok=True)
        writer = Writer(folder, patience_s=0.0)
        try:
            if fresh:
                empty(folder)
            sweep(folder)
            write_whole(folder, "recipe.yaml", recipe.dump())
            write_whole(folder, "cohort.sha256", manifest.sha256())
            run(recipe, space, manifest, folder, device)
        finally:
            writer.release()
    return folder


def run(recipe: Recipe, space: Space, manifest: Manifest, folder: Path, device: str) -> None:
    """Trials, then the best of them again, then the page, which is also written now and then while trials run."""
    from hepdist.search.confirm import confirm
    from hepdist.search.page import Page
    from hepdist.search.run import run_trials

    with Page(folder):
        trials = run_trials(recipe, space, manifest, folder, device)
        all_failed(trials)
        if recipe.search.confirm:
            confirm(recipe, space, manifest, folder, device)


def empty(folder: Path) -> None:
    """Remove what a search has written, but for the lock of who writes it now."""
    for path in folder.iterdir():
        if path.name == LOCK:
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def preview(recipe: Recipe) -> Iterable[Any]:
    """What `tune` would do, to be printed: the space, its size, and what trials take, measured here. Starts no trial."""
    from hepdist.search.estimate import dry_run

    recipe = as_base(recipe)
    manifest = fitting_cohort(recipe)
    with connect() as cluster:
        fits_search(recipe, cluster)
        yield from dry_run(recipe, manifest, cluster)


def fitting_cohort(recipe: Recipe) -> Manifest:
    """Of the recipe. Raises RecipeError where it lacks what the search needs, which would otherwise end in a score on a test split without rows."""
    manifest = Manifest.load(recipe.data.cohort)
    fits_cohort(recipe, manifest)
    if recipe.search.confirm and not manifest.rows("test"):
        raise RecipeError(
            f"recipe key 'search.confirm' is {recipe.search.confirm}, but cohort '{recipe.data.cohort}' has no test rows to score the winner on;"
            " ingest more patients, or set search.confirm=0"
        )
    return manifest


def as_base(recipe: Recipe) -> Recipe:
    """The recipe that trials are made from: paths that hold everywhere, no look at the test split, no second place for every trial's files."""
    recipe = with_absolute_paths(recipe)
    has_start(recipe)
    limit_holds(recipe.search)
    search = recipe.search.model_copy(update={"folder": absolute(recipe.search.folder)})
    evaluation = recipe.evaluation.model_copy(update={"splits": ()})
    return recipe.model_copy(update={"search": search, "evaluation": evaluation, "train": recipe.train.model_copy(update={"mirror": ""})})


def limit_holds(search: SearchSpec) -> None:
    """Raise RecipeError where more trials than `search.concurrent` would run at a time.

    Ray's HyperBand and PBT start paused trials wherever there is room. Tune's own limit would count the paused ones too, so that a bracket of
    HyperBand would wait for ever for trials that may not begin.
    """
    if search.concurrent and search.scheduler in ("hyperband", "pbt"):
        raise RecipeError(
            f"recipe key 'search.concurrent' is {search.concurrent}, but search.scheduler={search.scheduler} pauses trials and goes on with them"
            " wherever there is room; use search.concurrent=0, or search.scheduler=asha"
        )


def same_search(recipe: Recipe, manifest: Manifest, folder: Path) -> None:
    """Raise RunError where the folder holds another search under the same name, whose trials would not be comparable."""
    stored = folder / "recipe.yaml"
    if not stored.exists():
        return
    import yaml

    before, now = yaml.safe_load(stored.read_text(encoding="utf-8")), json.loads(recipe.model_dump_json())
    for section in ("data", "task", "model", "augment", "degrade", "adversary", "optim", "train"):
        if before.get(section) != now[section]:
            raise RunError(f"search '{recipe.name}' was started with another '{section}'; use another name=, or --fresh to start over")
    for key in SearchSpec.model_fields:
        if key not in FREE and before["search"].get(key) != now["search"][key]:
            raise RunError(f"search '{recipe.name}' was started with another 'search.{key}'; use another name=, or --fresh to start over")
    if (folder / "cohort.sha256").read_text().strip() != manifest.sha256():
        raise RunError(
            f"search '{recipe.name}' was started on another state of cohort '{recipe.data.cohort}'; use another name=, or --fresh"
        )


def fits_search(recipe: Recipe, cluster: Cluster) -> str:
    """'cuda' or 'cpu' for the trials; raise RecipeError where the cluster can never hold one."""
    train, share = recipe.train, recipe.search.gpus_per_worker
    if recipe.search.ensemble and recipe.task.kind != "classification":
        raise RecipeError(
            f"recipe key 'search.ensemble' is true, but only classifiers are averaged, not {recipe.task.kind}; set search.ensemble=false"
        )
    if train.fewest != train.most:
        raise RecipeError(
            f"recipe key 'train.workers' is [{train.fewest}, {train.most}], but the trials of a search have a fixed size; use train.workers={train.fewest}"
        )
    if share != 1 and cluster.gpus and train.most > 1:
        raise RecipeError(
            f"recipe key 'search.gpus_per_worker' is {share:g}, but workers of one trial can't share a GPU (NCCL); use train.workers=1"
        )
    if train.device != "cpu" and cluster.gpus and share < 1:
        cluster = Cluster(cluster.cpus, max(cluster.gpus, 1.0), cluster.own)
    return fits_cluster(recipe, cluster)


def all_failed(trials: list[Trial]) -> None:
    """Raise RunError with the commonest error where no trial has a score."""
    failed = [trial.end for trial in trials if trial.end and trial.end.kind == "failed"]
    if trials and not any(trial.results for trial in trials) and failed:
        errors = Counter(event.facts["error"] for event in failed)
        error, times = errors.most_common(1)[0]
        raise RunError(f"every trial failed, {times} of {len(failed)} with: {error}")
    for event in failed:
        plain(f"trial {event.trial} failed ({event.facts['cause']}): {event.facts['error']}")
