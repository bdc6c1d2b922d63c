"""What result.json says beyond plain scores: what is chosen on validation (temperature, operating points), and subgroups, for each split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from hepdist.evaluation.bootstrap import intervals
from hepdist.evaluation.calibration import apply_temperature, fit_temperature
from hepdist.evaluation.metrics import calibration_scores
from hepdist.evaluation.operating import apply_points, choose_points
from hepdist.evaluation.result import CLASSIFYING, labels_and_probabilities, plain
from hepdist.evaluation.subgroup_scores import subgroup_scores
from hepdist.evaluation.subgroups import Groups
from hepdist.sections import EvaluationSpec


@dataclass(frozen=True)
class Chosen:
    """What validation decided; nothing of it has seen a test row."""

    calibration: dict[str, Any] | None = None
    """As `fit_temperature` gives it; None where validation was not scored."""
    points: list[dict[str, Any]] = field(default_factory=list)
    """As `choose_points` gives them; for two classes only."""

    def facts(self) -> dict[str, Any]:
        """The top-level entries of result.json."""
        return {"calibration": plain(self.calibration), "operating_points": plain(self.points)}

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Chosen:
        """What a run's result.json holds: for another cohort, where nothing is chosen anew."""
        return cls(result.get("calibration"), result.get("operating_points") or [])


def choose(task_kind: str, validation: pd.DataFrame | None, names: tuple[str, ...], spec: EvaluationSpec) -> Chosen:
    """Temperature and operating points of a classifier, from the rows of its validation split; nothing where that was not scored."""
    if task_kind not in CLASSIFYING or validation is None:
        return Chosen()
    labelled = _labelled(validation)
    label, probability = labels_and_probabilities(labelled, len(names))
    points = []
    if label.ndim == 1 and len(names) == 2:
        points = choose_points(probability[:, 1], label, spec.sensitivities, spec.specificities)
    return Chosen(fit_temperature(label, probability), points)


def further(
    task_kind: str,
    predictions: pd.DataFrame,
    threshold: float,
    names: tuple[str, ...],
    bootstrap: int,
    seed: int,
    chosen: Chosen,
    groups: Groups,
) -> dict[str, Any]:
    """Entries for the block of one split: `calibrated`, `operating_points` and `subgroups`; see docs/format.md."""
    block: dict[str, Any] = {}
    if task_kind in CLASSIFYING:
        labelled = _labelled(predictions)
        label, probability = labels_and_probabilities(labelled, len(names))
        patient = labelled["patient"].to_numpy(dtype=str)
        temperature = (chosen.calibration or {}).get("temperature")
        if temperature:
            scores = partial(calibration_scores, label, apply_temperature(probability, temperature, multilabel=label.ndim == 2))
            bounds = intervals(scores, patient, bootstrap, seed)
            block["calibrated"] = {}
            for name, value in scores(np.ones((1, len(label)))).items():
                block["calibrated"] |= {name: value[0], f"{name}_ci": [float(bounds[name].low), float(bounds[name].high)]}
        if chosen.points:
            block["operating_points"] = apply_points(chosen.points, probability[:, 1], label, patient)
    if groups:
        block["subgroups"] = subgroup_scores(task_kind, predictions, threshold, names, groups, bootstrap, seed)
    return dict(plain(block))


def _labelled(predictions: pd.DataFrame) -> pd.DataFrame:
    known = predictions["label_0" if "label_0" in predictions else "label"].notna()
    return predictions[known].sort_values("sample_id")
