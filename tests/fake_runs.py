"""Builders of run folders as training and evaluation leave them, without training: for tests of the report; no assertions here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from hepdist.evaluation.further import choose, further
from hepdist.evaluation.result import summarise, write_result
from hepdist.evaluation.subgroups import groups_of
from hepdist.recipe import Recipe
from hepdist.shards.manifest import SPLITS, Manifest
from hepdist.shards.read import SplitReader
from hepdist.tasks.surface import surface_agreement

TRAIN = {"epochs": 8, "samples": 192, "samples_per_s": 412.5, "data_wait_share": 0.031, "workers": 2, "wall_s": 151.0}


def classification_run(run: Path, cohort: Path, *, seed: int = 0, sharpness: float = 1.6, resamples: int = 100) -> dict:
    """A run whose probabilities follow the labels with noise; returns its result.json."""
    manifest, rng = Manifest.load(cohort), np.random.default_rng(seed)
    classes = len(manifest.label_names)
    tables = {}
    for split in ("val", "test"):
        table = SplitReader(cohort, manifest, split).strings(["sample_id", "patient", "split", "label"]).to_pandas()
        table["label"] = table["label"].astype("Int64")
        truth = table["label"].fillna(0).to_numpy(dtype=int)
        logits = rng.normal(0, 1, (len(table), classes)) + sharpness * np.eye(classes)[truth]
        probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        tables[split] = table.assign(**{f"probability_{k}": probability[:, k].astype(np.float32) for k in range(classes)})
    return _finish(run, cohort, manifest, "classification", manifest.label_names, tables, seed, resamples)


def segmentation_run(run: Path, cohort: Path, *, seed: int = 0, resamples: int = 100) -> dict:
    """A run whose predicted masks are the true ones, shifted by a voxel or two; examples.npz holds the test split's."""
    manifest, rng = Manifest.load(cohort), np.random.default_rng(seed)
    names = manifest.fields["mask"].classes[1:]
    tables, examples = {}, {}
    for split in SPLITS[1:]:
        reader = SplitReader(cohort, manifest, split)
        table = reader.strings(["sample_id", "patient", "split"]).to_pandas()
        arrays = reader.arrays(np.arange(len(reader)), ["mask", "spacing"])
        for i, (truth, spacing) in enumerate(zip(arrays["mask"], arrays["spacing"], strict=True)):
            shift = rng.integers(-2, 3, truth.ndim - 1)
            prediction = np.roll(truth, shift, axis=range(1, truth.ndim))
            if split == "test":
                examples[f"{table.loc[i, 'sample_id']}/pred"] = prediction[0]
            for k, name in enumerate(names, 1):
                t, p = truth == k, prediction == k
                ml = float(np.prod(spacing)) / 1000
                table.loc[i, f"dice_{name}"] = 2 * (t & p).sum() / (t.sum() + p.sum()) if (t | p).any() else np.nan
                table.loc[i, f"hd95_{name}"] = float(np.linalg.norm(shift * spacing))
                table.loc[i, f"nsd_{name}"] = surface_agreement(p[0], t[0], spacing.tolist(), 1.0)[1]
                table.loc[i, f"volume_ml_{name}"] = p.sum() * ml * rng.normal(1, 0.1)
                table.loc[i, f"true_volume_ml_{name}"] = t.sum() * ml
        tables[split] = table
    result = _finish(run, cohort, manifest, "segmentation", names, tables, seed, resamples)
    np.savez_compressed(run / "examples.npz", **examples)
    return result


def _finish(
    run: Path, cohort: Path, manifest: Manifest, task: str, names: tuple[str, ...], tables: dict, seed: int, resamples: int
) -> dict:
    run.mkdir(parents=True)
    recipe = Recipe(
        name=run.name, runs=str(run.parent), data={"cohort": str(cohort)}, task={"kind": task},
        model={"family": "unet" if task == "segmentation" else "resnet"}, train={"seed": seed}, evaluation={"bootstrap": resamples},
    )  # fmt: skip
    (run / "recipe.yaml").write_text(recipe.dump())
    pd.concat(tables.values(), ignore_index=True).to_parquet(run / "predictions.parquet", index=False)
    split = {name: summarise(task, table, 0.5, names, resamples, seed) for name, table in tables.items()}
    facts = {"threshold": {"value": 0.5, "rule": "half"}, "label_names": list(names)}
    chosen, groups = choose(task, tables["val"], names, recipe.evaluation), groups_of(cohort, manifest, "auto")
    for name, table in tables.items():
        split[name] |= further(task, table, 0.5, names, resamples, seed, chosen, groups)
    if task == "classification":
        facts |= chosen.facts()
        facts["positive"] = names[-1] if len(names) == 2 else None
    else:
        facts["tolerance_mm"] = recipe.evaluation.tolerance_mm
    path = write_result(run, task=task, split=split, train=TRAIN, cohort_sha256=manifest.sha256(), seed=seed, **facts)
    _metrics(run / "metrics.jsonl", "dice" if task == "segmentation" else "auroc", seed)
    return json.loads(path.read_text())


def _metrics(path: Path, select: str, seed: int) -> None:
    """Eight epochs of ten reports, and a line cut short as a kill leaves it."""
    rng = np.random.default_rng(seed)
    lines = []
    for step in range(1, 81):
        epoch = step / 10
        facts = {"step": step, "epoch": epoch, "samples": step * 24}
        train = {"loss": 0.7 * np.exp(-epoch / 3) + rng.normal(0, 0.03) + 0.1, "lr": 1e-3 * 0.5 * (1 + np.cos(np.pi * step / 80))}
        rates = {
            "samples_per_s": rng.normal(410, 15),
            "data_wait_share": abs(rng.normal(0.03, 0.01)),
            "memory_gib": 0.8,
            "wall_s": step * 1.9,
        }
        lines.append(json.dumps(facts | train | rates))
        if step % 10 == 0:
            scores = {
                "val_loss": 0.7 * np.exp(-epoch / 3) + 0.2,
                f"val_{select}": 0.97 - 0.4 * np.exp(-epoch / 2),
                "val_accuracy": 0.93 - 0.4 * np.exp(-epoch / 2),
            }
            lines.append(json.dumps(facts | scores | {"wall_s": step * 1.9}))
    path.write_text("\n".join(lines) + '\n{"step": 81, "epo')
