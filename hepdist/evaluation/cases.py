"""Which cases a reader should see, and their rows of the cohort: confident errors first, then the right ones, or worst to best."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hepdist.evaluation.metrics import Floats, decide
from hepdist.shards.manifest import SPLITS, Manifest
from hepdist.shards.read import SplitReader

SHOWN = 12
"""Cases of each kind on the page."""


@dataclass(frozen=True)
class Case:
    """One classified row worth looking at."""

    sample_id: str
    patient: str
    truth: int
    decision: int
    probability: float
    """Of the class that was decided."""


def choose_cases(predictions: pd.DataFrame, label: NDArray[np.int64], probability: Floats, threshold: float) -> dict[str, list[Case]]:
    """Up to SHOWN cases each: 'wrong', the most confident first, and 'right', the most confident of each class in turn.

    predictions: the labelled rows, with sample_id and patient; label int64[n], probability float[n, K] of exclusive classes.
    """
    decision = decide(probability, threshold)
    sure = probability[np.arange(len(label)), decision]
    order = np.lexsort((predictions["sample_id"].to_numpy(dtype=str), -sure))  # ties in an order of their own
    wrong = [i for i in order if decision[i] != label[i]][:SHOWN]
    by_class = [[i for i in order if decision[i] == label[i] == k] for k in range(probability.shape[1])]
    deepest = max(map(len, by_class), default=0)
    right = [indices[place] for place in range(deepest) for indices in by_class if place < len(indices)][:SHOWN]
    ids, patients = predictions["sample_id"].tolist(), predictions["patient"].tolist()

    def case(i: int) -> Case:
        return Case(ids[i], patients[i], int(label[i]), int(decision[i]), float(sure[i]))

    return {"wrong": [case(i) for i in wrong], "right": [case(i) for i in right]}


def load_rows(
    cohort_folder: str | Path, manifest: Manifest, sample_ids: Iterable[str], columns: tuple[str, ...]
) -> dict[str, dict[str, NDArray[Any]]]:
    """The tensors `columns` (those the cohort has) of the rows with these sample_ids, by sample_id; unknown ones are left out."""
    wanted = set(sample_ids)
    held = [name for name in columns if name in manifest.fields]
    found: dict[str, dict[str, NDArray[Any]]] = {}
    if not held:
        return found
    for split in SPLITS:
        if not wanted - set(found):
            break
        reader = SplitReader(cohort_folder, manifest, split)
        names = reader.strings(["sample_id"])["sample_id"].to_pylist()
        rows = np.array([i for i, name in enumerate(names) if name in wanted], dtype=np.int64)
        if len(rows):
            arrays = reader.arrays(rows, held)
            found |= {names[row]: {name: arrays[name][place] for name in held} for place, row in enumerate(rows)}
    return found
