"""From a recipe to a finished search: checks first, then Ray Tune over trials, then the best ones again, then the report."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from hepdist.cluster import Cluster, connect
from hepdist.console import plain
from hepdist.errors import RecipeError, RunError
from hepdist.ingest.check import check_cohort
from hepdist.place import absolute
from hepdist.recipe import Recipe
from hepdist.search.record import Event, Trial, read_trials
from hepdist.search.spec import SearchSpec
from hepdist.shards.manifest import Manifest
from hepdist.training.launch import KEEP_MEMORY, with_absolute_paths
from hepdist.training.preflight import fits_cluster, fits_cohort, has_start
from hepdist.training.run_folder import Writer, sweep, write_whole
from hepdist.training.stop import stoppable

TUNES = ".tune"
"""Ray Tune's own state, in the search's folder; ours is the folder itself, so a restart does without it."""
AHEAD = 16
"""Trials that may wait for room at a time."""
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


def tune(recipe: Recipe, *, fresh: bool = False) -> Path:
    """Search as the recipe's `search:` section says, or go on with the search of that name; returns the search's folder.

    Raises RecipeError and CohortError before anything starts, and RunError where every trial failed, with the commonest error.
    """
    recipe = as_base(recipe)
    folder = Path(recipe.search.folder) / recipe.name
    manifest = Manifest.load(recipe.data.cohort)
    fits_cohort(recipe, manifest)
    check_cohort(recipe.data.cohort, manifest)
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    same_search(recipe, manifest, folder)

    from hepdist.search.space import Space

    space = Space.of(recipe, manifest)
    folder.mkdir(parents=True, exist_ok=True)
    writer = Writer(folder, patience_s=0.0)
    try:
        sweep(folder)
        write_whole(folder, "recipe.yaml", recipe.dump())
        write_whole(folder, "cohort.sha256", manifest.sha256())
        for name, value in {**ENVIRONMENT, **KEEP_MEMORY}.items():
            os.environ.setdefault(name, value)
        with connect() as cluster, stoppable(recipe.train.stop_grace_s):  # a signal ends at once: what is saved is enough to go on
            device = fits_search(recipe, cluster)
            from hepdist.search.confirm import confirm
            from hepdist.search.report import write_report

            trials = run_trials(recipe, space, manifest, folder, device)
            write_report(folder)
            all_failed(trials)
            if recipe.search.confirm:
                confirm(recipe, space, manifest, folder, device)
                write_report(folder)
        return folder
    finally:
        writer.release()


def preview(recipe: Recipe) -> Iterable[Any]:
    """What `tune` would do, to be printed: the space, its size, and what trials take, measured here. Starts no trial."""
    from hepdist.search.estimate import dry_run

    recipe = as_base(recipe)
    manifest = Manifest.load(recipe.data.cohort)
    fits_cohort(recipe, manifest)
    with connect() as cluster:
        fits_search(recipe, cluster)
        yield from dry_run(recipe, manifest, cluster)


def as_base(recipe: Recipe) -> Recipe:
    """The recipe that trials are made from: paths that hold everywhere, no look at the test split, no second place for every trial's files."""
    recipe = with_absolute_paths(recipe)
    has_start(recipe)
    search = recipe.search.model_copy(update={"folder": absolute(recipe.search.folder)})
    evaluation = recipe.evaluation.model_copy(update={"splits": ()})
    return recipe.model_copy(update={"search": search, "evaluation": evaluation, "train": recipe.train.model_copy(update={"mirror": ""})})


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


def room(recipe: Recipe, cluster_resources: dict[str, float], device: str) -> int:
    """Trials for which the cluster has room at a time."""
    train = recipe.train
    by_cpu = cluster_resources.get("CPU", 1.0) / (train.most * train.cpus_per_worker)
    by_gpu = cluster_resources.get("GPU", 0.0) / (train.most * recipe.search.gpus_per_worker) if device == "cuda" else by_cpu
    return max(1, int(min(by_cpu, by_gpu) + 1e-6))


def run_trials(
    recipe: Recipe,
    space: Any,
    manifest: Manifest,
    folder: Path,
    device: str,
    searcher: Any = None,
    known: list[Trial] | None = None,
) -> list[Trial]:
    """Run what a searcher proposes under the recipe's scheduler, on top of what is on record; returns all trials with their events.

    searcher: instead of the one that the recipe names; known: instead of the trials on record.
    """
    import ray
    from ray import tune as ray_tune

    logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it misses the logs that it would have written itself

    from hepdist.search import searchers
    from hepdist.search.budget import Limits
    from hepdist.search.live import Live
    from hepdist.search.proposer import Proposer, current
    from hepdist.search.recorder import Recorder, Spent
    from hepdist.search.schedulers import build as build_scheduler
    from hepdist.search.tracking import Tracking
    from hepdist.search.trial import TrialRun
    from hepdist.tasks import build as build_task

    search = recipe.search
    task = build_task(recipe, manifest)
    known = read_trials(folder) if known is None else known
    for trial in known:
        if (end := trial.end) and end.kind == "stopped" and end.facts["reason"].startswith("the search ended"):
            trial.events.remove(end)  # there may be more to spend now
    if len(known) >= search.trials and all(trial.end for trial in known):
        return known
    limits = Limits(search.device_hours, search.money, search.hours)
    going = [current(trial) for trial in known if not trial.end]
    searcher = searcher or searchers.build(recipe, space, told(known, task.higher_is_better), going)
    proposer = Proposer(folder, known, searcher, search.trials, task.higher_is_better, lambda: limits.reached(*recorder.totals()))
    slots = min(room(recipe, ray.cluster_resources(), device), search.concurrent or search.trials)
    population = search.scheduler in ("pbt", "hyperband")
    tracking = Tracking(recipe, folder, task.select, task.higher_is_better)
    with Live(recipe.model_dump(mode="json"), planned=max(search.trials, len(known))) as live:

        def changed(trial: Trial | None, event: Event | None) -> None:
            live.update(proposer.all, *recorder.totals())
            if trial and event:
                tracking.heard(trial, event)

        scheduler = build_scheduler(recipe, space, lambda *facts: recorder.exploited(*facts))
        reasons: Callable[[str], str] = lambda name: getattr(scheduler, "reasons", {}).get(name, "")  # noqa: E731
        recorder = Recorder(folder, proposer, recipe.train.epochs, changed, reasons)
        shutil.rmtree(folder / TUNES, ignore_errors=True)
        # Proposals that wait for room ask an autoscaler for it; one that learns from results is not asked before they are there.
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "1" if search.searcher == "tpe" else str(AHEAD)
        devices = recipe.train.most * (search.gpus_per_worker if device == "cuda" else recipe.train.cpus_per_worker)
        ray_tune.run(  # not a Tuner, which pickles all this before it starts
            TrialRun,
            name=TUNES,
            storage_path=str(folder),
            config={
                "base": recipe.model_dump(mode="json"), "folder": str(folder), "device": device, "select": task.select,
                "devices": devices, "prices": search.prices, "population": search.scheduler == "pbt",
            },
            metric="score",
            mode="max" if task.higher_is_better else "min",
            search_alg=proposer,
            scheduler=scheduler,
            num_samples=max(search.trials, len(known)),
            max_concurrent_trials=None if population or not search.concurrent else slots,
            reuse_actors=True,
            stop=Spent(proposer.spent),
            callbacks=[recorder],
            max_failures=search.retries,
            raise_on_failed_trial=False,
            trial_name_creator=lambda trial: f"trial-{trial.config['trial']}",
            trial_dirname_creator=lambda trial: str(trial.config["trial"]),
            verbose=0,
        )  # fmt: skip
    shutil.rmtree(folder / TUNES, ignore_errors=True)
    return proposer.all


def told(known: list[Trial], higher_is_better: bool) -> list[tuple[dict[str, Any], float | None, dict[str, float]]]:
    """What a searcher is to know of the trials on record that have ended: config, best score, other objectives."""
    best = [(trial, trial.best(higher_is_better)) for trial in known if trial.end]
    return [(trial.config, event.facts["score"] if event else None, (event.facts["cost"] or {}) if event else {}) for trial, event in best]


def all_failed(trials: list[Trial]) -> None:
    """Raise RunError with the commonest error where no trial has a score."""
    failed = [trial.end for trial in trials if trial.end and trial.end.kind == "failed"]
    if trials and not any(trial.results for trial in trials) and failed:
        errors = Counter(event.facts["error"] for event in failed)
        error, times = errors.most_common(1)[0]
        raise RunError(f"every trial failed, {times} of {len(failed)} with: {error}")
    for event in failed:
        plain(f"trial {event.trial} failed ({event.facts['cause']}): {event.facts['error']}")


def ordered(trials: list[Trial], higher_is_better: bool) -> list[Trial]:
    """Those with a score, best validation first; equals in the order in which they were proposed."""
    scored = [(trial, best.facts["score"]) for trial in trials if (best := trial.best(higher_is_better))]
    return [trial for trial, _ in sorted(scored, key=lambda pair: -pair[1] if higher_is_better else pair[1])]
