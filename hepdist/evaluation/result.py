"""result.json: the scores of a run with their intervals, for machines; what a person reads is report.py's."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from hepdist.errors import RunError
from hepdist.evaluation.bootstrap import Interval, intervals
from hepdist.evaluation.concordance import concordance
from hepdist.evaluation.delong import auroc_covariance, auroc_interval
from hepdist.evaluation.metrics import classification_scores, multilabel_scores, restoration_scores, segmentation_scores
from hepdist.evaluation.provenance import versions

RESULT = "result.json"
CLASSIFYING = ("classification", "survival")
"""Tasks that predict the probability of each class; of survival the classes are no event and the event within the horizon."""
RESTORATION = ("psnr", "ssim", "psnr_input", "ssim_input")
"""What restoration measures on each row and degradation, in the order of `restoration_scores`."""


def summarise(
    task_kind: str,
    predictions: pd.DataFrame | pa.Table,
    threshold: float,
    label_names: tuple[str, ...],
    bootstrap: int,
    seed: int,
    *,
    ordinal: bool = False,
) -> dict[str, Any]:
    """The block of one split: every score under its usual name, and `<name>_ci` [low, high], a 95 % interval over patients.

    predictions: the rows of one split, with the columns of predictions.parquet (docs/format.md); rows without a label count in
    `unlabelled` alone. label_names: class names by index (segmentation: foreground classes, restoration: degradations); ordinal: they
    are in order. Scores by class are mappings. `auroc_delong_ci`, or `auroc_per_class_delong_ci`, is a second interval of the AUROC,
    by DeLong's variance.
    `resamples_skipped` names the scores that some resamples could not give. Raises RunError where there is nothing to score.
    """
    table = predictions.to_pandas() if isinstance(predictions, pa.Table) else predictions
    table = table.sort_values("sample_id")  # sums in one order: the same last bit, however many workers gathered the rows
    if task_kind in CLASSIFYING:
        several = "label_0" in table
        labelled = table[table["label_0" if several else "label"].notna()]
        label, probability = labels_and_probabilities(labelled, len(label_names))
        if several:
            scores = partial(multilabel_scores, label, probability, threshold=threshold)
        else:
            scores = partial(classification_scores, label, probability, threshold=threshold, ordinal=ordinal)
    elif task_kind == "restoration":
        labelled = table
        measured = [values for key in RESTORATION if (values := by_class(table, key, label_names)) is not None]
        if len(measured) < len(RESTORATION):
            raise RunError(f"predictions lack the columns psnr_{label_names[0]}, ...; evaluate the run again")
        scores = partial(restoration_scores, *measured)
    else:
        labelled = table
        measures = ("dice", "hd95", "volume_ml", "true_volume_ml", "nsd")
        dice, hd95, volume, true_volume, nsd = (by_class(table, key, label_names) for key in measures)
        if dice is None:
            raise RunError(f"predictions lack the columns dice_{label_names[0]}, ...; evaluate the run again")
        scores = partial(segmentation_scores, dice, hd95, volume, true_volume, nsd=nsd)
    if labelled.empty:
        raise RunError("none of the rows to score has a label; choose another split")

    patient = labelled["patient"].to_numpy(dtype=str)
    points = {name: value[0] for name, value in scores(weight=np.ones((1, len(labelled)))).items()}
    bounds = intervals(lambda weight: scores(weight=weight), patient, bootstrap, seed)
    if task_kind == "survival":
        agreed, bound = _concordance(table, bootstrap, seed)
        points["concordance"], bounds["concordance"] = agreed, bound
    block: dict[str, Any] = {"n": len(labelled), "patients": len(np.unique(patient)), "unlabelled": len(table) - len(labelled)}
    if task_kind in CLASSIFYING:
        block["classes"] = {name: int((label[:, k] if several else label == k).sum()) for k, name in enumerate(label_names)}
    for name, point in points.items():
        block |= {name: _named(point, label_names), f"{name}_ci": _named_bounds(bounds[name], label_names)}
    if task_kind in CLASSIFYING:
        block |= _delong(label, probability, patient, label_names)
    block["resamples"] = bootstrap
    block["resamples_skipped"] = {name: bound.skipped for name, bound in bounds.items() if bound.skipped}
    return block


def write_result(
    run_folder: Path, *, task: str, split: dict[str, dict[str, Any]], train: dict[str, Any], cohort_sha256: str, seed: int, **facts: Any
) -> Path:
    """Write result.json (aside, then renamed) and return its path; nan and infinities become null, so that it is valid JSON.

    split: blocks of `summarise` by split. train: epochs, samples, samples_per_s, data_wait_share, workers, wall_s. facts: further
    top-level entries, such as `threshold` {"value", "rule"}, `label_names` and `positive`, the name of the positive class; `versions`
    are those of this process.
    """
    values = {"task": task, "split": split, "train": train, "cohort_sha256": cohort_sha256, "seed": seed, "versions": versions(), **facts}
    path = run_folder / RESULT
    part = run_folder / f".{RESULT}.part"
    part.write_text(json.dumps(plain(values), indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    part.rename(path)
    return path


def read_result(run_folder: Path) -> dict[str, Any]:
    """The result.json of a run folder. Raises RunError where there is none yet."""
    path = run_folder / RESULT
    if not path.is_file():
        raise RunError(f"run '{run_folder.name}' has no {RESULT} yet; evaluate it with: hepdist evaluate {run_folder.name}")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def labels_and_probabilities(predictions: pd.DataFrame, classes: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """label int64[n] (multi-label: int64[n, classes] of 0 and 1) and probability float64[n, classes] of labelled rows."""
    columns = [f"probability_{k}" for k in range(classes)]
    missing = [c for c in columns if c not in predictions]
    if missing:
        raise RunError(f"predictions lack the column {missing[0]} for {classes} classes; evaluate the run again")
    labels = [f"label_{k}" for k in range(classes)] if "label_0" in predictions else "label"
    return predictions[labels].to_numpy(dtype=np.int64), predictions[columns].to_numpy(dtype=np.float64)


def by_class(predictions: pd.DataFrame, what: str, classes: tuple[str, ...]) -> NDArray[np.float64] | None:
    """The columns `<what>_<class>` as float64[n, C]; None where they were not measured."""
    columns = [f"{what}_{name}" for name in classes]
    if not set(columns) <= set(predictions.columns):
        return None
    return predictions[columns].to_numpy(dtype=np.float64)


def plain(value: Any) -> Any:
    """The same value of JSON's types alone: NumPy scalars and arrays unpacked, numbers that are not finite as None."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(entry) for entry in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value


def _delong(
    label: NDArray[np.int64], probability: NDArray[np.float64], patient: NDArray[np.str_], names: tuple[str, ...]
) -> dict[str, Any]:
    """The interval of each AUROC by DeLong's variance, beside the bootstrap's; a class that all or no rows have is left as null."""
    truth = label == 1 if label.ndim == 2 else label[:, None] == np.arange(len(names))
    bounds = {}
    for k, name in enumerate(names):
        bounds[name] = (float("nan"), float("nan"))
        if truth[:, k].any() and not truth[:, k].all():
            area, covariance = auroc_covariance(truth[:, k], probability[None, :, k], patient)
            bounds[name] = auroc_interval(float(area[0]), float(covariance[0, 0]))
    if label.ndim == 1 and len(names) == 2:
        return plain({"auroc_delong_ci": bounds[names[1]]})
    return plain({"auroc_per_class_delong_ci": bounds})


def _concordance(table: pd.DataFrame, bootstrap: int, seed: int) -> tuple[NDArray[np.float64], Interval]:
    """Harrell's, with its interval over patients, of all rows with a follow-up: also those that are censored before the horizon."""
    followed = table[table["days"] > 0]
    risk, days = (followed[name].to_numpy(np.float64) for name in ("probability_1", "days"))
    score = partial(concordance, risk, days, followed["event"].to_numpy(np.float64) > 0)
    bounds = intervals(lambda weight: {"concordance": score(weight)}, followed["patient"].to_numpy(dtype=str), bootstrap, seed)
    return score(np.ones((1, len(followed))))[0], bounds["concordance"]


def _named(value: NDArray[np.float64] | np.float64, names: tuple[str, ...]) -> Any:
    return plain(value) if np.ndim(value) == 0 else plain(dict(zip(names, np.asarray(value), strict=True)))


def _named_bounds(bound: Interval, names: tuple[str, ...]) -> Any:
    if bound.low.ndim == 0:
        return plain([float(bound.low), float(bound.high)])
    return plain({name: [low, high] for name, low, high in zip(names, bound.low, bound.high, strict=True)})
