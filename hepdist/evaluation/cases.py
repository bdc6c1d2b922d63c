"""Which cases a reader should see, and their rows of the cohort: confident errors first, then the right ones, or worst to best."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
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


def load_cases(
    cohort_folder: str | Path, manifest: Manifest, sample_ids: Iterable[str], columns: tuple[str, ...]
) -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
    """The tensors `columns` (those the cohort has) of the cases with these sample_ids, one after the other; unknown ones are left out.

    Of a cohort in bricks images and masks are those of whole volumes, and the rest is that of their first brick.
    """
    wanted = set(sample_ids)
    held = [name for name in columns if name in manifest.fields]
    for split in SPLITS if held else ():
        if not wanted:
            break
        reader = SplitReader(cohort_folder, manifest, split)
        names = reader.strings(["sample_id"])["sample_id"].to_pylist()
        for first, last in pairwise(manifest.cases(split).tolist()):
            if names[first] in wanted:
                wanted.remove(names[first])
                yield names[first], _case(reader, np.arange(first, last), held)


def _case(reader: SplitReader, rows: NDArray[np.int64], columns: list[str]) -> dict[str, NDArray[Any]]:
    if not reader.manifest.in_bricks:
        return {name: values[0] for name, values in reader.arrays(rows, columns).items()}
    places = {name: values.tolist() for name, values in reader.arrays(rows, ("offset", "original_shape")).items()}
    whole: dict[str, NDArray[Any]] = {}
    for i, (offset, shape) in enumerate(zip(places["offset"], places["original_shape"], strict=True)):
        for name, values in reader.arrays(rows[i : i + 1], columns).items():
            if name in ("image", "mask"):
                volume = whole.setdefault(name, np.zeros((values.shape[1], *shape), values.dtype))
                fit_in(volume, values[0], offset)
            else:
                whole.setdefault(name, values[0])
    return whole


def fit_in(volume: NDArray[Any], brick: NDArray[Any], offset: Sequence[int]) -> None:
    """Copy a brick [C, *spatial] whose voxel 0 is at `offset` (negative: padded) to its place in a volume [C, *spatial]."""
    window = [(max(0, o), min(n, o + side), o) for o, n, side in zip(offset, volume.shape[1:], brick.shape[1:], strict=True)]
    place = tuple(slice(low, high) for low, high, _ in window)
    volume[(slice(None), *place)] = brick[(slice(None), *(slice(low - o, high - o) for low, high, o in window))]
