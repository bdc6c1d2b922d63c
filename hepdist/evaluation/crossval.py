"""Repeated cross-validation by patient: folds, one model a fold in this process, scores with intervals, and paired comparisons on the same folds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hepdist.errors import RecipeError, RunError
from hepdist.evaluation.bootstrap import percentile_interval, resampled_weights
from hepdist.evaluation.metrics import classification_scores, multilabel_scores
from hepdist.evaluation.result import CLASSIFYING, labels_and_probabilities, plain
from hepdist.recipe import Recipe
from hepdist.shards.manifest import Manifest

Floats = NDArray[np.float64]
Progress = Callable[[int, int], None]

RESAMPLES = 1000


def crossval(recipe: Recipe, folds: int = 5, repeats: int = 3, progress: Progress | None = None) -> Path:
    """Train and score the recipe on each fold of every repeat, over all rows of the cohort whatever their split; returns the folder.

    `runs/<name>-crossval/` holds predictions.parquet (one row a sample and repeat, predicted by the model that did not see its patient),
    result.json and the recipe. Repeat r has folds and weights of seed train.seed + r. Raises RecipeError where the cohort lacks
    what the recipe needs, or patients for so many folds.
    """
    import torch

    from hepdist.training.local import as_train_split, fit, load_rows, predict
    from hepdist.training.preflight import fits_cohort

    if recipe.task.kind not in CLASSIFYING:
        raise RecipeError(
            f"recipe key 'task.kind' is '{recipe.task.kind}', but cross-validation scores {' and '.join(CLASSIFYING)}; train it instead"
        )
    manifest = Manifest.load(recipe.data.cohort)
    fits_cohort(recipe, manifest)
    rows = load_rows(recipe, manifest)
    cuda = recipe.train.device == "cuda" or (recipe.train.device == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if cuda else "cpu")
    tables = []
    for repeat in range(repeats):
        seed = recipe.train.seed + repeat
        mine = recipe.model_copy(update={"train": recipe.train.model_copy(update={"seed": seed})})
        fold = folds_of(rows.patient, rows.arrays["label"], folds, seed)
        for number in range(folds):
            inside, outside = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            known = as_train_split(manifest, rows, inside)
            found = predict(mine, known, fit(mine, known, rows, inside, device), rows, outside, device)
            tables.append(_table(rows.sample_id[outside], rows.patient[outside], rows.arrays["label"][outside], found, repeat, number))
            if progress:
                progress(repeat * folds + number + 1, repeats * folds)
    folder = Path(recipe.runs) / f"{recipe.name}-crossval"
    folder.mkdir(parents=True, exist_ok=True)
    predictions = pd.concat(tables, ignore_index=True)
    predictions.to_parquet(folder / "predictions.parquet", index=False)
    (folder / "recipe.yaml").write_text(recipe.dump(), encoding="utf-8")
    facts = {"folds": folds, "repeats": repeats, "cohort_sha256": manifest.sha256(), "label_names": list(manifest.label_names)}
    scores = summary(predictions, len(manifest.label_names), recipe.evaluation.bootstrap, recipe.train.seed)
    (folder / "result.json").write_text(json.dumps(plain({**facts, **scores}), indent=1) + "\n", encoding="utf-8")
    return folder


def folds_of(patient: NDArray[np.str_], label: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each row, int64[n]: a patient's rows in one, the classes spread evenly; a function of its arguments alone.

    label: int64[n], or uint8[n, K] of several findings, which are spread by their number.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    if len(np.unique(patient)) < folds:
        raise RecipeError(f"{len(np.unique(patient))} patients can't fill {folds} folds; ask for fewer")
    stratum = label.sum(1) if label.ndim == 2 else label
    fold = np.empty(len(patient), np.int64)
    for number, (_, held_out) in enumerate(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(patient, stratum, patient)):
        fold[held_out] = number
    return fold


def summary(predictions: pd.DataFrame, classes: int, resamples: int, seed: int) -> dict[str, Any]:
    """Every score as the mean over folds and repeats, and `<name>_ci`: its 95 % interval over patients."""
    scored = FoldScores.of(predictions, classes, resamples, seed)
    facts: dict[str, Any] = {"patients": scored.patients, "rows": scored.rows}
    for name, value in scored.mean.items():
        bound = percentile_interval(scored.drawn[name])
        facts |= {name: value, f"{name}_ci": [float(bound.low), float(bound.high)]}
    return facts


@dataclass(frozen=True)
class FoldScores:
    """Scores of the labelled rows of each fold of each repeat, as they are and on resampled patients."""

    by_fold: dict[str, Floats]
    """By score, float64[repeats * folds]."""
    drawn: dict[str, Floats]
    """By score, float64[resamples]: the mean over folds of each resample of patients, the same patients in every repeat."""
    patients: int
    rows: int
    test_share: float
    """Rows of a fold over the rows that its model was trained on."""

    @property
    def mean(self) -> dict[str, float]:
        return {name: float(np.nanmean(values)) for name, values in self.by_fold.items()}

    @classmethod
    def of(cls, predictions: pd.DataFrame, classes: int, resamples: int = RESAMPLES, seed: int = 0) -> FoldScores:
        """predictions: the columns of `crossval`. Raises RunError where no row has a label."""
        labelled = predictions[predictions["label_0" if "label_0" in predictions else "label"].notna()].sort_values(
            ["repeat", "fold", "sample_id"]
        )
        if labelled.empty:
            raise RunError("none of the rows to score has a label; ingest the cohort with labels")
        label, probability = labels_and_probabilities(labelled, classes)
        score = multilabel_scores if label.ndim == 2 else classification_scores
        patient = labelled["patient"].to_numpy(dtype=str)
        weight = np.concatenate(list(resampled_weights(patient, resamples, seed)))
        weight = np.concatenate([np.ones((1, len(labelled))), weight])
        found = []
        for _, rows in labelled.reset_index(drop=True).groupby(["repeat", "fold"]):
            i = rows.index.to_numpy()
            values = score(label[i], probability[i], weight[:, i])
            found.append({name: value for name, value in values.items() if value.ndim == 1})
        whole = {name: np.stack([f[name] for f in found]) for name in found[0]}
        repeats = labelled["repeat"].nunique()
        folds = len(found) // repeats
        return cls(
            {name: values[:, 0] for name, values in whole.items()},
            {name: _mean_defined(values[:, 1:]) for name, values in whole.items()},
            len(np.unique(patient)),
            len(labelled) // repeats,
            1 / (folds - 1),
        )


@dataclass(frozen=True)
class Difference:
    """How much one model scores above another on the same folds."""

    mean: float
    low: float
    high: float
    """95 % interval of resampled patients."""
    t_low: float
    t_high: float
    p: float
    """Of the corrected resampled t-test, two-sided, with its 95 % interval."""


def compare(one: FoldScores, other: FoldScores, score: str = "auroc") -> Difference:
    """`one` minus `other`, both of the same folds, rows and resamples.

    The corrected resampled t-test adds the test share to 1/n in the variance of n fold differences, since folds share most of their train
    rows (Nadeau & Bengio, 2003); a plain t-test finds differences that aren't there.
    """
    from scipy.stats import t

    difference = one.by_fold[score] - other.by_fold[score]
    difference = difference[~np.isnan(difference)]  # folds of one class have no AUROC
    if len(difference) < 2:
        raise RunError(f"{score} is defined in {len(difference)} of the folds, which says nothing of a difference; take fewer folds")
    n, mean = len(difference), float(difference.mean())
    error = math.sqrt((1 / n + one.test_share) * difference.var(ddof=1))
    reach = float(t.ppf(0.975, n - 1)) * error
    p = float(2 * t.sf(abs(mean) / error, n - 1)) if error else float(mean == 0)  # equal in every fold
    bound = percentile_interval(one.drawn[score] - other.drawn[score])
    return Difference(mean, float(bound.low), float(bound.high), mean - reach, mean + reach, p)


def _table(
    sample_id: NDArray[np.str_], patient: NDArray[np.str_], label: NDArray[np.int64], found: dict[str, Any], repeat: int, fold: int
) -> pd.DataFrame:
    columns: dict[str, Any] = {"repeat": repeat, "fold": fold, "sample_id": sample_id, "patient": patient}
    if label.ndim == 1:
        columns["label"] = pd.Series(label, dtype="Int64").mask(label < 0)
    else:
        columns |= {f"label_{k}": label[:, k] for k in range(label.shape[1])}
    return pd.DataFrame(columns | {f"probability_{k}": p for k, p in enumerate(found["probability"].T)})


def _mean_defined(values: Floats) -> Floats:
    """Mean over folds of float64[folds, resamples], nan left out; nan where no fold has a value."""
    there = ~np.isnan(values)
    counted = there.sum(0)
    return np.where(counted > 0, np.where(there, values, 0.0).sum(0) / np.maximum(counted, 1), np.nan)
