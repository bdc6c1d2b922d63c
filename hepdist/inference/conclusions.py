"""What is concluded from an answer, the same wherever it is told: classes that a case is called to be of, sizes of what was found, a remark."""

from __future__ import annotations

import numpy as np

from hepdist.inference.case import Case
from hepdist.inference.identity import Identity
from hepdist.inference.predictor import Answer, Predictor


def calls(probability: np.ndarray, identity: Identity, *, multilabel: bool) -> list[bool]:
    """Which classes a case is called to be of: by the threshold of two, one half of each finding, else the most probable one."""
    if multilabel:
        return [bool(p >= 0.5) for p in probability]
    if len(probability) == 2:
        positive = bool(probability[1] >= identity.threshold)
        return [not positive, positive]
    return [k == int(probability.argmax()) for k in range(len(probability))]


def sizes(case: Case, answer: Answer) -> np.ndarray:
    """float64[K - 1] of each foreground class of a mask: ml of a volume, mm2 of a picture; NaN where the source has no spacing."""
    assert answer.mask is not None and answer.volumes_ml is not None
    if answer.mask.ndim == 3:
        return answer.volumes_ml
    pixel = float(np.prod(case.sample.spacing)) if case.sample.spacing is not None else float("nan")
    classes = len(answer.volumes_ml) + 1
    return np.bincount(answer.mask.reshape(-1), minlength=classes)[1:classes] * pixel


def field_of_view(case: Case, predictor: Predictor) -> str:
    """A remark where a volume shows far more of the patient than any that the model was trained on."""
    facts = predictor.signature.origin.get("fingerprint", {})
    largest, spacing = facts.get("largest_shape"), facts.get("median_spacing")
    if case.spacing is None or len(case.shape) != 3 or not largest or not spacing or len(largest) != 3:
        return ""
    # sorted, since a series may lie along another axis than the cohort's do
    have, seen = (np.sort(np.multiply(*pair)) for pair in ((case.shape, case.spacing), (largest, spacing)))
    if not (have > 2 * seen).any():
        return ""
    sides = " x ".join(f"{mm:.0f}" for mm in np.multiply(case.shape, case.spacing))
    trained = " x ".join(f"{mm:.0f}" for mm in np.multiply(largest, spacing))
    return f"shows {sides} mm, and the model was trained on at most {trained} mm"
