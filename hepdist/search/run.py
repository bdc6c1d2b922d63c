"""Ray Tune over the trials of a search: from what is on record to as many trials as the limits allow."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hepdist.recipe import Recipe
from hepdist.search.halving import ASHA, Halving, rung_epochs
from hepdist.search.record import Event, Trial, read_trials
from hepdist.shards.manifest import Manifest

TUNES = ".tune"
"""Ray Tune's own state, in the search's folder; ours is the folder itself, so a restart does without it."""
AHEAD = 16
"""Trials that may wait for room at a time."""


def room(recipe: Recipe, cluster_resources: dict[str, float], device: str) -> int:
    """Trials for which the cluster has room at a time."""
    train = recipe.train
    by_cpu = cluster_resources.get("CPU", 1.0) / (train.most * train.cpus_per_worker)
    by_gpu = cluster_resources.get("GPU", 0.0) / (train.most * recipe.search.gpus_per_worker) if device == "cuda" else by_cpu
    return max(1, int(min(by_cpu, by_gpu) + 1e-6))


def ahead(recipe: Recipe, growth: dict[str, float] | None, device: str) -> int:
    """Trials that may wait for room at a time. Those ask an autoscaler for it, all at once, since a machine takes minutes; where there is
    none, a searcher that learns from results is not asked before they are there."""
    if recipe.search.searcher != "tpe":
        return AHEAD
    return 1 if growth is None else min(AHEAD, room(recipe, growth, device))


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

    from hepdist.autoscaling import growth
    from hepdist.prometheus import of_search
    from hepdist.search import searchers
    from hepdist.search.budget import Limits
    from hepdist.search.estimate import share_of_epochs
    from hepdist.search.live import Live
    from hepdist.search.promotion import Promotion
    from hepdist.search.proposer import Proposer, current
    from hepdist.search.recorder import ENDED, Recorder, Spent
    from hepdist.search.schedulers import USUAL_REASONS
    from hepdist.search.schedulers import build as build_scheduler
    from hepdist.search.standing import state
    from hepdist.search.tracking import Tracking
    from hepdist.search.trial import TrialRun
    from hepdist.tasks import build as build_task

    search = recipe.search
    task = build_task(recipe, manifest)
    known = read_trials(folder) if known is None else known
    planned = max(search.trials, len(known))
    halving = Halving(rung_epochs(search, recipe.train, recipe.optim), search.reduction, task.higher_is_better, planned)
    for trial in known:
        if (end := trial.end) and end.facts.get("reason", "").startswith(ENDED):
            trial.events.remove(end)  # there may be more to spend now
    reopen(known, halving)
    if len(known) >= search.trials and all(trial.end for trial in known):
        return known
    limits = Limits(search.device_hours, search.money, search.hours)
    going = [current(trial) for trial in known if not trial.end]
    searcher = searcher or searchers.build(recipe, space, told(known, task.higher_is_better), going)
    proposer = Proposer(
        folder, known, searcher, search.trials, task.higher_is_better, lambda: limits.reached(*recorder.totals()), lambda: full()
    )
    kind = "GPU" if device == "cuda" else "CPU"
    devices = recipe.train.most * (search.gpus_per_worker if device == "cuda" else recipe.train.cpus_per_worker)
    grown = growth(ray.get_runtime_context().gcs_address)
    places = min(room(recipe, grown or ray.cluster_resources(), device), search.concurrent or search.trials)
    numbers = of_search(folder)
    tracking = Tracking(recipe, folder, task.select, task.higher_is_better)
    usual_epochs = share_of_epochs(recipe)[0] * recipe.train.epochs
    with Live(recipe.model_dump(mode="json"), planned=planned, usual_epochs=usual_epochs) as live:

        def changed(trial: Trial | None, event: Event | None) -> None:
            busy = sum(state(trial) == "running" for trial in proposer.all)
            device_s, money = recorder.totals()
            ended = sum(trial.end is not None for trial in proposer.all)
            numbers.set(search_money=money, search_device_hours=device_s / 3600, search_running_trials=busy, search_ended_trials=ended)
            live.update(proposer.all, device_s, money, busy=round(busy * devices), devices=round(ray.cluster_resources().get(kind, 0.0)))
            if trial and event:
                tracking.heard(trial, event)

        scheduler = build_scheduler(recipe, space, halving, lambda: proposer.planned, places, lambda *facts: recorder.exploited(*facts))
        full: Callable[[], bool] = lambda: isinstance(scheduler, Promotion) and scheduler.full()  # noqa: E731
        reasons: Callable[[str], str] = lambda name: getattr(scheduler, "reasons", {}).get(name, "")  # noqa: E731
        otherwise = USUAL_REASONS.get(search.scheduler, "the scheduler ended it")
        recorder = Recorder(folder, proposer, recipe.train.epochs, changed, reasons, otherwise)
        shutil.rmtree(folder / TUNES, ignore_errors=True)
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(ahead(recipe, grown, device))
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
            num_samples=planned,
            max_concurrent_trials=search.concurrent if search.concurrent and search.scheduler != "asha" else None,  # it counts paused ones
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
    recorder.over()
    return proposer.all


def told(known: list[Trial], higher_is_better: bool) -> list[tuple[dict[str, Any], float | None, dict[str, float]]]:
    """What a searcher is to know of the trials on record that have ended: config, best score, other objectives."""
    best = [(trial, trial.best(higher_is_better)) for trial in known if trial.end]
    return [(trial.config, event.facts["score"] if event else None, (event.facts["cost"] or {}) if event else {}) for trial, event in best]


def reopen(known: list[Trial], halving: Halving) -> None:
    """Tell ASHA what is on record; trials that it had stopped in a search of fewer trials, of which it would now let more go on, are open again."""
    halving.read(known)
    rungs = halving.rungs()
    for trial in known:
        if (end := trial.end) and end.facts.get("reason", "").startswith(ASHA) and halving.verdict(trial.id, rungs) != "is out":
            trial.events.remove(end)


def ordered(trials: list[Trial], higher_is_better: bool) -> list[Trial]:
    """Those with a score, best validation first; equals in the order in which they were proposed."""
    scored = [(trial, best.facts["score"]) for trial in trials if (best := trial.best(higher_is_better))]
    return [trial for trial, _ in sorted(scored, key=lambda pair: -pair[1] if higher_is_better else pair[1])]
