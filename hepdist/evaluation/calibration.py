"""Temperature scaling: one number, fitted on validation, that makes stated probabilities as sure as they are right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepdist.evaluation.metrics import LEAST_PROBABILITY, Floats, calibration_scores

SHARPEST, FLATTEST = 0.05, 20.0
"""Temperatures that are looked among: beyond them a probability is 0, 1/2 or 1 in all but name."""


def apply_temperature(probability: Floats, temperature: float, *, multilabel: bool) -> Floats:
    """Probabilities float[n, K] with their log-odds divided by the temperature; order, decisions by the largest and AUROC of two classes stay.

    multilabel: findings that may occur together, each by itself; else the classes of a row add up to 1. Of an ensemble's mean probabilities
    it is their logarithms that are scaled. Guo et al., 2017.
    """
    if multilabel:
        clipped = probability.clip(LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
        return 1 / (1 + ((1 - clipped) / clipped) ** (1 / temperature))
    logits = np.log(probability.clip(LEAST_PROBABILITY)) / temperature
    scaled = np.exp(logits - logits.max(axis=1, keepdims=True))
    return scaled / scaled.sum(axis=1, keepdims=True)


def fit_temperature(label: NDArray[np.int64], probability: Floats) -> dict[str, Any]:
    """The `calibration` block of result.json, from labelled validation rows: the temperature of least log loss.

    `temperature` is null, with the `reason`, where these rows say nothing of it: few of them, or none that is wrong.
    """
    from scipy.optimize import minimize_scalar

    several = label.ndim == 2
    weight = np.ones((1, len(label)))

    def loss(log_temperature: float) -> float:
        scaled = apply_temperature(probability, float(np.exp(log_temperature)), multilabel=several)
        return float(calibration_scores(label, scaled, weight)["log_loss"][0])

    facts: dict[str, Any] = {"method": "temperature", "fitted_on": "val", "n": len(label)}
    if len(label) < 2 or (not several and len(np.unique(label)) < 2):
        return facts | {"temperature": None, "reason": "the validation split holds one class only"}
    found = minimize_scalar(loss, bounds=(np.log(SHARPEST), np.log(FLATTEST)), method="bounded", options={"xatol": 1e-6})
    temperature = float(np.exp(found.x))
    if temperature < 1.01 * SHARPEST:
        return facts | {"temperature": None, "reason": "no validation case is on the wrong side, so nothing says how sure to be"}
    if temperature > 0.99 * FLATTEST:
        return facts | {"temperature": None, "reason": "the probabilities say nothing about the validation cases"}
    return facts | {"temperature": temperature, "log_loss_before": loss(0.0), "log_loss_after": float(found.fun)}


def decisions_of(run: Path) -> tuple[float, float]:
    """The threshold between two classes, of probabilities before scaling, and the temperature that a run's evaluation fixed.

    0.5 and 1.0 where none could be fitted, and where there is no result: the run was trained with evaluation.splits=[], or only its model's
    folder was handed on.
    """
    from hepdist.evaluation.result import RESULT, read_result

    result = read_result(run) if (run / RESULT).is_file() else {}
    calibration = result.get("calibration") or {}
    return float(result.get("threshold", {}).get("value", 0.5)), float(calibration.get("temperature") or 1.0)
