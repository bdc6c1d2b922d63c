"""EMR models against scikit-learn and Cox regression on the same folds of the same patients; see docs/benchmarks.md.

    python benchmarks/emr.py RECIPE [key=value ...] [--folds 5] [--repeats 3]

Cohorts are those of the recipes' headers. The references see what the network sees: all rows of a fold's other patients; of visits
the last one, with what was not measured then carried forward. Their settings are chosen by cross-validation inside those rows.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import machine, markdown
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import QuantileTransformer, StandardScaler

from hepdist.evaluation.bootstrap import percentile_interval
from hepdist.evaluation.crossval import FoldScores, compare, crossval, folds_of
from hepdist.recipe import load_recipe
from hepdist.shards.manifest import EMRColumn, Manifest
from hepdist.training.local import Rows, load_rows

Floats = NDArray[np.float64]
Reference = Callable[[Floats, Floats, "Known"], Floats]
SCORES = ("auroc", "average_precision", "accuracy", "balanced_accuracy", "brier")


class Known:
    """What a reference may learn from: the rows of a fold's other patients."""

    def __init__(self, rows: Rows, inside: NDArray[np.int64]) -> None:
        self.label = rows.arrays["label"][inside]
        self.patient = rows.patient[inside]
        self.followup = rows.arrays["followup"][inside] if "followup" in rows.arrays else None

    def chosen(self, model: Any, grid: dict[str, list[Any]], x: Floats) -> Any:
        """`model` with the settings of `grid` that have the least log loss on three folds of these patients, fitted on labelled rows."""
        labelled = self.label >= 0
        search = GridSearchCV(model, grid, scoring="neg_log_loss", cv=StratifiedGroupKFold(3))
        return search.fit(x[labelled], self.label[labelled], groups=self.patient[labelled])


def logistic(inside: Floats, outside: Floats, known: Known) -> Floats:
    """Logistic regression on standardised columns, medians and an indicator where missing."""
    model = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler(), LogisticRegression(max_iter=2000))
    return known.chosen(model, {"logisticregression__C": [0.003, 0.01, 0.03, 0.1, 0.3, 1, 10]}, inside).predict_proba(outside)


def boosting(inside: Floats, outside: Floats, known: Known) -> Floats:
    """Histogram gradient boosting, which takes missing values as they are."""
    grid = {"learning_rate": [0.03, 0.1], "max_leaf_nodes": [4, 16], "max_iter": [50, 150]}
    return known.chosen(HistGradientBoostingClassifier(random_state=0), grid, inside).predict_proba(outside)


def cox(inside: Floats, outside: Floats, known: Known) -> Floats:
    """Cox regression (Breslow's ties, ridge) on normal scores; its linear predictor, which ranks like the risk at any horizon.

    Takes all rows, those too whose follow-up is too short for a label.
    """
    ready = make_pipeline(
        SimpleImputer(strategy="median", add_indicator=True),
        QuantileTransformer(n_quantiles=100, output_distribution="normal"),
        StandardScaler(),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer rows than quantiles in small folds
        x, y = (torch.from_numpy(values) for values in (ready.fit_transform(inside), ready.transform(outside)))
    assert known.followup is not None
    days, event = (torch.from_numpy(column.astype(np.float64)) for column in known.followup.T)
    order = torch.argsort(days, descending=True)
    x, days, event = x[order], days[order], event[order]
    last = torch.searchsorted(-days, -days, right=True) - 1  # of those at risk at a day, the last in the order
    weight = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        risk = x @ weight
        value = -(event * (risk - risk.logcumsumexp(0)[last])).sum() / event.sum() + RIDGE * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    probability = torch.sigmoid(y @ weight.detach()).numpy()
    return np.stack([1 - probability, probability], axis=1)


RIDGE = 0.01
"""Of the mean negative log partial likelihood an event."""


def features(rows: Rows, manifest: Manifest) -> Floats:
    """float64[n, columns], NaN where missing: static columns, and of visits the last, carried forward, with its day and the number before."""
    parts = []
    if "emr" in rows.arrays:
        parts.append(_columns(rows.arrays["emr"], rows.arrays["emr_missing"], manifest.emr))
    if "sequence" in rows.arrays:
        values, missing = (torch.from_numpy(rows.arrays[name].copy()) for name in ("sequence", "sequence_missing"))
        from hepdist.models.rnn import carried

        values, missing = (x.numpy() for x in carried(values, missing))
        length = rows.arrays["sequence_length"][:, 0]
        at = np.arange(len(rows)), np.maximum(length - 1, 0)
        parts.append(_columns(values[at], missing[at], manifest.sequence))
        parts.append(np.stack([rows.arrays["sequence_gap"].sum(1), length], axis=1).astype(np.float64))
    return np.concatenate(parts, axis=1)


def _columns(values: NDArray[np.float32], missing: NDArray[np.uint8], columns: tuple[EMRColumn, ...]) -> Floats:
    """Numbers as they are, categories one-hot, NaN where missing."""
    parts = []
    for i, column in enumerate(columns):
        known = missing[:, i] == 0
        hot = values[:, i, None] == np.arange(len(column.categories))[None, 1:] if column.kind == "category" else values[:, i, None]
        parts.append(np.where(known[:, None], hot.astype(np.float64), np.nan))
    return np.concatenate(parts, axis=1)


def reference_predictions(reference: Reference, rows: Rows, x: Floats, folds: int, repeats: int, seed: int) -> pd.DataFrame:
    """What `reference` predicts for each fold, in the form of `crossval`'s predictions."""
    tables = []
    for repeat in range(repeats):
        fold = folds_of(rows.patient, rows.arrays["label"], folds, seed + repeat)
        for number in range(folds):
            inside, outside = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            probability = reference(x[inside], x[outside], Known(rows, inside))
            label = rows.arrays["label"][outside]
            columns = {"repeat": repeat, "fold": number, "sample_id": rows.sample_id[outside], "patient": rows.patient[outside]}
            table = pd.DataFrame({**columns, "label": pd.Series(label, dtype="Int64").mask(label < 0)})
            tables.append(table.assign(**{f"probability_{k}": p for k, p in enumerate(probability.T)}))
    return pd.concat(tables, ignore_index=True)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("recipe")
    arguments.add_argument("overrides", nargs="*")
    arguments.add_argument("--folds", type=int, default=5)
    arguments.add_argument("--repeats", type=int, default=3)
    asked = arguments.parse_args()
    torch.set_num_threads(1)
    recipe = load_recipe(asked.recipe, asked.overrides)
    manifest = Manifest.load(recipe.data.cohort)
    timed = "followup" in manifest.fields
    rows = load_rows(recipe, manifest, ("followup",) if timed else ())
    x, classes = features(rows, manifest), len(manifest.label_names)
    references: dict[str, Reference] = {"logistic regression": logistic, "gradient boosting": boosting} | ({"Cox": cox} if timed else {})

    folder = crossval(recipe, asked.folds, asked.repeats)
    found = {recipe.name: FoldScores.of(pd.read_parquet(folder / "predictions.parquet"), classes)}
    for name, reference in references.items():
        found[name] = FoldScores.of(reference_predictions(reference, rows, x, asked.folds, asked.repeats, recipe.train.seed), classes)
    first = found[recipe.name]
    print(f"{machine()}\n\n{asked.repeats} x {asked.folds} folds of {first.patients} patients, {first.rows} labelled rows\n")
    table = []
    for name, scores in found.items():
        bounds = {score: percentile_interval(scores.drawn[score]) for score in SCORES}
        cells = [f"{scores.mean[score]:.3f} [{bounds[score].low:.3f}, {bounds[score].high:.3f}]" for score in SCORES]
        table.append([name, *cells])
    print(markdown(["model", *SCORES], table) + "\n")
    table = []
    for name in list(found)[1:]:
        d = compare(first, found[name])
        table.append([name, f"{d.mean:+.3f}", f"[{d.low:+.3f}, {d.high:+.3f}]", f"[{d.t_low:+.3f}, {d.t_high:+.3f}]", f"{d.p:.3f}"])
    print(markdown([f"AUROC of {recipe.name} above", "mean", "interval over patients", "corrected t interval", "p"], table))


if __name__ == "__main__":
    main()
