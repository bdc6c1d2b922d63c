"""The classifier's threshold, sensitivity and specificity: as given, or from a hepdist run's result.json and predictions.parquet.

Probabilities are those of `hepdist predict`, scaled by the run's temperature; what a run says of itself was measured before scaling.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hepdist.errors import RecipeError, RunError
from hepdist.evaluation.calibration import apply_temperature, decisions_of
from hepdist.evaluation.result import read_result
from hepdist.surveillance.prevalence import Accuracy
from hepdist.surveillance.spec import SurveilSpec


def classifier(spec: SurveilSpec) -> tuple[float | None, Accuracy | None]:
    """Threshold for a column of probabilities, and accuracy at it; None where nothing says it.

    Raises RunError where the run has no such scores, RecipeError where its classifier says nothing.
    """
    if spec.run:
        return _of_run(Path(spec.run), spec.run_split, spec.threshold)
    if spec.sensitivity is None or spec.specificity is None:
        return spec.threshold, None
    known = float("inf")
    return spec.threshold, Accuracy(spec.sensitivity, spec.specificity, spec.sensitivity_n or known, spec.specificity_n or known)


def _of_run(folder: Path, split: str, wanted: float | None) -> tuple[float, Accuracy]:
    result = read_result(folder)
    block = result["split"].get(split)
    if block is None:
        raise RunError(
            f"run '{folder.name}' has no scores of split '{split}', only of {', '.join(result['split'])}; give one of them as run_split"
        )
    if not isinstance(block.get("sensitivity"), float) or not isinstance(block.get("specificity"), float):
        raise RunError(
            f"run '{folder.name}' is no classifier of two classes; give sensitivity=, specificity= and threshold= instead of run="
        )
    fixed, temperature = decisions_of(folder)
    threshold = float(_scaled(np.array([fixed]), temperature)[0])
    if wanted is None or wanted == threshold:
        cases = int(block["classes"][result["positive"]])
        accuracy = Accuracy(block["sensitivity"], block["specificity"], cases, sum(block["classes"].values()) - cases)
    else:
        accuracy = _at(folder, split, wanted, list(block["classes"]).index(result["positive"]), temperature)
    if accuracy.sensitivity + accuracy.specificity <= 1:
        raise RecipeError(f"surveil key 'run': sensitivity + specificity of '{folder.name}' is 1 or less, so its results say nothing")
    return wanted or threshold, accuracy


def _scaled(probability: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """The positive class's probabilities as `hepdist predict` gives them; unscaled ones stay to the bit."""
    if temperature == 1:
        return probability
    return apply_temperature(np.stack([1 - probability, probability], axis=1), temperature, multilabel=False)[:, 1]


def _at(folder: Path, split: str, threshold: float, positive: int, temperature: float) -> Accuracy:
    """At another threshold than the run's own, from its predictions."""
    path = folder / "predictions.parquet"
    if not path.is_file():
        raise RunError(
            f"run '{folder.name}' has no predictions.parquet to take the accuracy at another threshold from; leave threshold out"
        )
    table: Any = pd.read_parquet(path, columns=["split", "label", f"probability_{positive}"])
    table = table[(table["split"] == split) & table["label"].notna()]
    case = table["label"] == positive
    called = _scaled(table[f"probability_{positive}"].to_numpy(np.float64), temperature) >= threshold
    if case.all() or not case.any():
        raise RunError(f"split '{split}' of run '{folder.name}' has no two classes to take an accuracy from; choose another run_split")
    return Accuracy(float(called[case].mean()), float((~called[~case]).mean()), int(case.sum()), int((~case).sum()))
