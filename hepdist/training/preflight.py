"""Everything that can be refused before a process starts: does the recipe fit the cohort, and the run the cluster."""

from __future__ import annotations

import json
from pathlib import Path

from hepdist.cluster import Cluster
from hepdist.errors import RecipeError, RunError
from hepdist.evaluation.subgroups import groups_of
from hepdist.models import LACKING
from hepdist.recipe import Recipe
from hepdist.shards.manifest import Manifest


def fits_cohort(recipe: Recipe, manifest: Manifest) -> None:
    """Raise RecipeError where the cohort lacks what the recipe needs."""
    cohort, kind = recipe.data.cohort, recipe.task.kind
    if not manifest.rows("train"):
        raise RecipeError(f"cohort '{cohort}' has no train rows; ingest more patients or another split")
    if not manifest.rows("val"):
        raise RecipeError(f"cohort '{cohort}' has no val rows, so no checkpoint can be chosen; ingest with split=6,2,2")
    if kind == "classification" and manifest.in_bricks:
        raise RecipeError(
            f"recipe key 'task.kind' is 'classification', but cohort '{cohort}' is in bricks, whose label is their volume's; ingest it with size="
        )
    if kind == "classification" and not manifest.label_names:
        raise RecipeError(f"recipe key 'task.kind' is 'classification', but cohort '{cohort}' has no labels; ingest it with label=COLUMN")
    if manifest.in_bricks and recipe.data.normalise == "image":
        raise RecipeError(
            f"recipe key 'data.normalise' is 'image', but cohort '{cohort}' is in bricks, and neighbours would differ where they overlap; use data.normalise=cohort"
        )
    if kind == "survival" and "followup" not in manifest.fields:
        raise RecipeError(
            f"recipe key 'task.kind' is 'survival', but cohort '{cohort}' has no follow-up; ingest it with event=COLUMN and horizon=DAYS"
        )
    if kind == "segmentation" and "mask" not in manifest.fields:
        raise RecipeError(f"recipe key 'task.kind' is 'segmentation', but cohort '{cohort}' has no masks")
    for name in recipe.model.reads:
        if name not in manifest.fields:
            raise RecipeError(f"recipe key 'model.family' is '{recipe.model.family}', but cohort '{cohort}' {LACKING[name]}")
    if recipe.model.reads == ("image",) and "image_missing" in manifest.fields:
        raise RecipeError(
            f"recipe key 'model.family' is '{recipe.model.family}', but some rows of cohort '{cohort}' have no image; use model.family=fusion,"
            " or ingest without keep_unmatched"
        )
    if recipe.evaluation.subgroups != "auto":
        groups_of(cohort, manifest, recipe.evaluation.subgroups)  # refuses what is not there before a model is trained for it
    if "image" in manifest.fields:
        axes = len(manifest.fields["image"].shape) - 1
        for key, sides in (("augment.crop", recipe.augment.crop), ("evaluation.window", recipe.evaluation.window)):
            if sides and len(sides) != axes:
                raise RecipeError(f"recipe key '{key}' has {len(sides)} sides, but images of cohort '{cohort}' have {axes} axes")
        for key, flips in (("flip", recipe.augment.flip), ("test_flip", recipe.augment.test_flip)):
            if any(axis >= axes for axis in flips):
                raise RecipeError(f"recipe key 'augment.{key}' is {list(flips)}, but images of cohort '{cohort}' have axes 0 to {axes - 1}")


def has_splits(recipe: Recipe, manifest: Manifest) -> None:
    """Raise RecipeError where a split that is to be scored after training has no rows: hours of training would end in that."""
    for split in recipe.evaluation.splits:
        if not manifest.rows(split):
            there = json.dumps([name for name in recipe.evaluation.splits if manifest.rows(name)])
            raise RecipeError(
                f"recipe key 'evaluation.splits' names '{split}', of which cohort '{recipe.data.cohort}' has no rows; ingest more patients, or set"
                f" evaluation.splits={there}"
            )


def has_start(recipe: Recipe) -> None:
    """Raise RecipeError where the run that a fresh start takes its weights from has none."""
    start = recipe.train.init_from
    if start and not (Path(start) / "model" / "model.safetensors").is_file():
        raise RecipeError(
            f"recipe key 'train.init_from' is '{start}', which is no run with a trained model; train that run first, or give another folder"
        )


def same_experiment(recipe: Recipe, manifest: Manifest, folder: Path) -> None:
    """Raise RunError where `folder` holds another experiment under the same name, which a resume would spoil."""
    stored = folder / "recipe.yaml"
    if not stored.exists():
        return
    import yaml

    before, now = yaml.safe_load(stored.read_text(encoding="utf-8")), json.loads(recipe.model_dump_json())
    for section in ("task", "model", "augment", "degrade", "adversary", "optim"):
        if before.get(section) != now[section]:
            raise RunError(f"run '{recipe.name}' was started with another '{section}'; use another name=, or --fresh to start over")
    for key in ("epochs", "seed", "global_batch", "init_from"):
        if before["train"].get(key) != now["train"][key]:
            raise RunError(
                f"run '{recipe.name}' was started with train.{key}={before['train'].get(key)}; use another name=, or --fresh to start over"
            )
    sums = folder / "cohort.sha256"
    if sums.exists() and sums.read_text().strip() != manifest.sha256():
        raise RunError(
            f"run '{recipe.name}' was started on another state of cohort '{recipe.data.cohort}', which was ingested anew or added to since;"
            " use another name=, or --fresh to start over"
        )


def fits_cluster(recipe: Recipe, cluster: Cluster) -> str:
    """'cuda' or 'cpu' for the workers; raise RecipeError where the cluster can never hold them."""
    train, cpus, gpus = recipe.train, cluster.cpus, cluster.gpus
    if train.device == "cuda" and gpus < train.fewest:
        raise RecipeError(
            f"recipe key 'train.workers' is {train.fewest}, but the cluster {cluster.has} {gpus:g} GPUs; use train.workers={max(1, int(gpus))} or train.device=cpu"
        )
    needed = train.fewest * train.cpus_per_worker
    if needed > cpus:
        fitting = max(1, int(cpus / train.cpus_per_worker))
        raise RecipeError(
            f"recipe key 'train.workers' is {train.fewest}, but the cluster {cluster.has} {cpus:g} CPUs and each worker takes {train.cpus_per_worker:g}; use train.workers={fitting} or a larger cluster"
        )
    device = "cuda" if train.device == "cuda" or (train.device == "auto" and gpus >= train.fewest) else "cpu"
    if train.offload != "none" and device == "cpu":
        raise RecipeError(
            f"recipe key 'train.offload' is '{train.offload}', which moves tensors from GPUs to the machine's memory, but the workers have no GPU;"
            " set train.offload=none"
        )
    return device
