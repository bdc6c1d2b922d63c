"""The mean of several runs' predicted probabilities, scored like a run (Lakshminarayanan et al., 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hepdist.evaluation.evaluate import PREDICTIONS, evaluate, threshold_of
from hepdist.evaluation.result import summarise
from hepdist.recipe import Recipe
from hepdist.shards.manifest import Manifest

SPLITS = ("val", "test")


def ensemble(runs: Sequence[Path], recipe: Recipe, manifest: Manifest) -> dict[str, Any]:
    """{'members', 'test': the block of result.json}; a threshold is chosen on validation where the recipe chooses it there."""
    tables = []
    for run in runs:
        evaluate(run, split=SPLITS)
        tables.append(pd.read_parquet(run / PREDICTIONS).set_index(["split", "sample_id"]).sort_index())
    chances = [name for name in tables[0].columns if name.startswith("probability")]
    mean = tables[0].copy()
    mean[chances] = sum(table.loc[mean.index, chances] for table in tables) / len(tables)
    mean = mean.reset_index()
    val, test = (mean[mean["split"] == split] for split in SPLITS)
    block = summarise(
        recipe.task.kind, test, threshold_of(recipe, manifest, val), manifest.label_names, recipe.evaluation.bootstrap, recipe.train.seed,
        ordinal=recipe.task.ordinal,
    )  # fmt: skip
    return {"members": [run.name for run in runs], "test": block}
