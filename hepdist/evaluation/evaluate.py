"""From a trained run to its numbers: predictions.parquet, result.json and report.html of the splits asked for."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hepdist.cluster import connect
from hepdist.errors import RunError
from hepdist.evaluation.further import Chosen, choose, further
from hepdist.evaluation.metrics import choose_threshold
from hepdist.evaluation.report import write_report
from hepdist.evaluation.report_restoration import keep_triplets
from hepdist.evaluation.report_segmentation import EXAMPLES
from hepdist.evaluation.result import CLASSIFYING, RESTORATION, read_result, summarise, write_result
from hepdist.evaluation.score import Scorer, cases_of, score_splits
from hepdist.evaluation.subgroups import groups_of
from hepdist.place import absolute
from hepdist.recipe import Recipe, load_recipe
from hepdist.shards.manifest import SPLITS, Manifest
from hepdist.shards.read import SplitReader
from hepdist.training.metrics_file import read_metrics
from hepdist.training.preflight import fits_cluster

PREDICTIONS = "predictions.parquet"
SHOWN = 2
"""Worst, middle and best cases each, whose masks are kept for the report."""


def evaluate(run: str | Path, *, split: str | Sequence[str] = "test", cohort: str | None = None) -> dict[str, Any]:
    """Score the best model of a run exactly and write result.json, predictions.parquet and report.html; returns the result.

    split: one or more of train, val, test of the run's own cohort; splits scored before for the same model are kept. cohort:
    another cohort, scored whole as external validation into `run/external/<name>`, with the run's own threshold.
    """
    run = Path(run).resolve()
    if not (run / "recipe.yaml").is_file():
        raise RunError(f"no run at '{run.name}' (no recipe.yaml); train one with: hepdist train RECIPE")
    recipe = load_recipe(run / "recipe.yaml")
    with connect() as cluster:
        device = fits_cluster(recipe, cluster)
        if cohort is not None:
            return _evaluate_external(run, recipe, cohort, device)
        splits = (split,) if isinstance(split, str) else tuple(split)
        return _evaluate_own(run, recipe, splits, device)


def _evaluate_own(run: Path, recipe: Recipe, splits: tuple[str, ...], device: str) -> dict[str, Any]:
    manifest = Manifest.load(recipe.data.cohort)
    model = (run / "model" / "sha256.json").read_text() if (run / "model").is_dir() else ""
    before = _still_true(run, model, manifest)
    wanted = set(splits) | ({"val"} if recipe.task.threshold == "validation" and "val" not in before else set())
    tables = {**before, **predict_splits(run, recipe, manifest, recipe.data.cohort, [s for s in SPLITS if s in wanted], device)}
    threshold = threshold_of(recipe, manifest, tables.get("val"))
    chosen = choose(recipe.task.kind, tables.get("val"), _names(recipe, manifest), recipe.evaluation)
    _write(run, recipe, manifest, recipe.data.cohort, tables, threshold, chosen, {"model_sha256s": model})
    _keep_examples(run, recipe, recipe.data.cohort, tables, device)
    write_report(run, recipe.data.cohort, split="test" if "test" in tables else splits[-1])
    return read_result(run)


def _evaluate_external(run: Path, recipe: Recipe, cohort: str, device: str) -> dict[str, Any]:
    cohort = absolute(cohort)
    manifest, own = Manifest.load(cohort), Manifest.load(recipe.data.cohort)
    _comparable(recipe, own, manifest, cohort)
    folder = run / "external" / manifest.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(run / "recipe.yaml", folder / "recipe.yaml")
    parts = predict_splits(run, recipe, manifest, cohort, [s for s in SPLITS if manifest.rows(s)], device)
    table = pd.concat(parts.values(), ignore_index=True).assign(split="external")
    result = read_result(run)
    threshold, chosen = float(result["threshold"]["value"]), Chosen.of(result)
    _write(folder, recipe, manifest, cohort, {"external": table}, threshold, chosen, {"trained_on": own.sha256(), "cohort": manifest.name})
    write_report(folder, cohort, split="external")
    return read_result(folder)


def predict_splits(run: Path, recipe: Recipe, manifest: Manifest, cohort: str, splits: list[str], device: str) -> dict[str, pd.DataFrame]:
    """The rows of predictions.parquet (docs/format.md) of each split, every case of it once."""
    for split in splits:
        if not manifest.rows(split):
            there = ", ".join(s for s in SPLITS if manifest.rows(s))
            raise RunError(f"cohort '{manifest.name}' has no rows in split '{split}'; choose one of {there}")
    scored = score_splits(run, recipe, cohort, splits, device)
    return {split: _table(recipe, manifest, cohort, split, scored[split]) for split in splits}


def _table(recipe: Recipe, manifest: Manifest, cohort: str, split: str, scored: dict[str, np.ndarray]) -> pd.DataFrame:
    keys = SplitReader(cohort, manifest, split).strings(("sample_id", "patient", "split")).take(scored["row"]).to_pandas()
    columns: dict[str, Any] = {name: keys[name] for name in keys}
    if recipe.task.kind in CLASSIFYING:
        if "followup" in scored:
            columns |= {"days": scored["followup"][:, 0], "event": scored["followup"][:, 1]}
        if scored["label"].ndim == 1:
            columns["label"] = pd.Series(scored["label"], dtype="Int64").mask(scored["label"] < 0)
        else:
            columns |= {f"label_{k}": scored["label"][:, k] for k in range(scored["label"].shape[1])}
        columns |= {f"probability_{k}": scored["probability"][:, k] for k in range(scored["probability"].shape[1])}
    else:
        measured = RESTORATION if recipe.task.kind == "restoration" else ("dice", "hd95", "nsd", "volume_ml", "true_volume_ml")
        for what in measured:
            if what in scored:
                columns |= {f"{what}_{name}": scored[what][:, k] for k, name in enumerate(_names(recipe, manifest))}
    return pd.DataFrame(columns)


def _names(recipe: Recipe, manifest: Manifest) -> tuple[str, ...]:
    """What scores are by: classes, foreground classes or degradations."""
    if recipe.task.kind == "restoration":
        return recipe.degrade.kinds
    return manifest.label_names if recipe.task.kind in CLASSIFYING else manifest.fields["mask"].classes[1:]


def _write(
    folder: Path,
    recipe: Recipe,
    manifest: Manifest,
    cohort: str,
    tables: dict[str, pd.DataFrame],
    threshold: float,
    chosen: Chosen,
    facts: dict[str, Any],
) -> None:
    names = _names(recipe, manifest)
    part = folder / f".{PREDICTIONS}.part"
    pd.concat(tables.values(), ignore_index=True).to_parquet(part, index=False)
    part.rename(folder / PREDICTIONS)
    bootstrap, seed = recipe.evaluation.bootstrap, recipe.train.seed
    task = recipe.task
    blocks = {
        split: summarise(task.kind, table, threshold, names, bootstrap, seed, ordinal=task.ordinal) for split, table in tables.items()
    }
    groups = groups_of(cohort, manifest, recipe.evaluation.subgroups)
    for split, table in tables.items():
        blocks[split] |= further(task.kind, table, threshold, names, bootstrap, seed, chosen, groups)
    if recipe.task.kind in CLASSIFYING:
        facts |= chosen.facts()
        facts["threshold"] = {"value": threshold, "rule": recipe.task.threshold}
        facts["positive"] = names[-1] if len(names) == 2 else None
    else:
        facts["threshold"] = {"value": 0.5, "rule": "half"}
    if recipe.task.kind == "segmentation":
        facts["tolerance_mm"] = recipe.evaluation.tolerance_mm
    train = training_facts(folder, recipe)
    write_result(
        folder,
        task=recipe.task.kind,
        split=blocks,
        train=train,
        cohort_sha256=manifest.sha256(),
        seed=recipe.train.seed,
        label_names=list(names),
        **facts,
    )


def training_facts(run: Path, recipe: Recipe) -> dict[str, Any]:
    """The `train` block of result.json, from metrics.jsonl: rates are means over training time, validation left out."""
    lines = [line for line in read_metrics(run) if "loss" in line]
    seconds = [
        (now["samples"] - before) / now["samples_per_s"]
        for before, now in zip([0, *[n["samples"] for n in lines]], lines, strict=False)
        if now["samples_per_s"]
    ]
    total = sum(seconds)
    waited = sum(s * line["data_wait_share"] for s, line in zip(seconds, lines, strict=False))
    samples = lines[-1]["samples"] if lines else 0
    return {
        "epochs": lines[-1]["epoch"] if lines else 0,
        "samples": samples,
        "samples_per_s": samples / total if total else None,
        "data_wait_share": waited / total if total else None,
        "workers": recipe.train.workers,
        "wall_s": lines[-1]["wall_s"] if lines else None,
    }


def threshold_of(recipe: Recipe, manifest: Manifest, validation: pd.DataFrame | None) -> float:
    """The probability from which a case is positive, fixed beforehand or chosen on validation."""
    if recipe.task.kind not in CLASSIFYING or len(manifest.label_names) != 2 or recipe.task.threshold == "half" or validation is None:
        return 0.5
    labelled = validation[validation["label"].notna()]
    return choose_threshold(labelled["probability_1"].to_numpy(float), labelled["label"].to_numpy(np.int64), recipe.task.threshold)


def _still_true(run: Path, model: str, manifest: Manifest) -> dict[str, pd.DataFrame]:
    """Splits scored before, where the model and the cohort are still the same."""
    if not (run / PREDICTIONS).is_file() or not (run / "result.json").is_file():
        return {}
    result = read_result(run)
    if result.get("model_sha256s") != model or result["cohort_sha256"] != manifest.sha256():
        return {}
    table = pd.read_parquet(run / PREDICTIONS)
    return {str(split): rows.reset_index(drop=True) for split, rows in table.groupby("split", sort=False)}


def _comparable(recipe: Recipe, own: Manifest, other: Manifest, cohort: str) -> None:
    """Raise RunError where a model of one cohort can't read the other."""
    if recipe.task.kind == "classification" and other.in_bricks:
        raise RunError(f"cohort '{cohort}' can't be scored: it is in bricks, whose label is their volume's; ingest it with size= instead")
    for name, field in own.fields.items():
        theirs = other.fields.get(name)
        if theirs is None or (theirs.shape, theirs.dtype) != (field.shape, field.dtype):
            found = f"{theirs.dtype} {list(theirs.shape)}" if theirs else "missing"
            raise RunError(
                f"cohort '{cohort}' can't be scored: column '{name}' is {found}, the model reads {field.dtype} {list(field.shape)}; ingest it with the same size and dtype"
            )
    if own.label_rule.get("horizon_days") != other.label_rule.get("horizon_days"):
        raise RunError(f"cohort '{cohort}' can't be scored: its labels are of another horizon; ingest it with the same horizon=DAYS")
    if own.label_names != other.label_names:
        raise RunError(f"cohort '{cohort}' can't be scored: its classes are {list(other.label_names)}, the model's {list(own.label_names)}")


def _keep_examples(run: Path, recipe: Recipe, cohort: str, tables: dict[str, pd.DataFrame], device: str) -> None:
    """The predicted masks of the worst, middle and best test cases, for the report's overlays; the pictures of a restoration."""
    table = tables.get("test")
    if recipe.task.kind in CLASSIFYING or table is None:
        return
    if recipe.task.kind == "restoration":
        keep_triplets(run, table, recipe.degrade.kinds, Scorer(str(run), cohort, device, threads=1))
        return
    order = np.argsort(table[[c for c in table if str(c).startswith("dice_")]].mean(axis=1).fillna(0).to_numpy())
    middle = len(order) // 2
    chosen = dict.fromkeys([*order[:SHOWN], *order[middle : middle + SHOWN], *order[-SHOWN:]])
    scorer = Scorer(str(run), cohort, device, threads=1)
    cases = cases_of(recipe, scorer.manifest, "test")
    with zipfile.ZipFile(run / EXAMPLES, "w", zipfile.ZIP_DEFLATED) as archive:  # as numpy.savez_compressed, with one mask in memory
        for case in chosen:
            mask = scorer.predict("test", np.arange(cases[case], cases[case + 1]), ("mask",))["mask"][0]
            with archive.open(f"{table['sample_id'][case]}/pred.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, mask)
