"""Which parameters matter: permutation importance of a random forest over the trials' configurations and scores, with intervals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepdist.search.record import Trial
from hepdist.search.standing import FAMILY, best_score, config_now, usable

FEWEST = 10
"""Trials with a score below which a forest tells nothing: half of a resample's left-out trials would be one or two."""
RESAMPLES, TREES, SHUFFLES = 30, 20, 6
LEVEL = 0.95


@dataclass(frozen=True)
class Importance:
    """How much one parameter matters: the share of the scores' variance by which predictions get worse when its values are shuffled."""

    key: str
    """Recipe key; a model's field under its family, as `densenet.growth`, where several families are looked at together."""
    value: float
    low: float
    high: float
    """95 % interval over resampled trials; where it holds 0, nothing is shown to matter."""


@dataclass(frozen=True)
class Importances:
    family: str
    """Empty: all families together."""
    trials: int
    """Those with a score."""
    rows: tuple[Importance, ...] | None
    """Most important first; None where the trials are too few or too alike."""
    sentence: str
    """Why there are none, else what the numbers rest on."""


def importances(trials: Sequence[Trial], higher_is_better: bool, *, seed: int = 0) -> list[Importances]:
    """Over all trials, and over those of each family where there are several.

    A stopped trial counts with the best score that it reached. A parameter that a trial's family does not have is no difference between
    families: it is shuffled among the trials that have it, and `model.family` tells them apart. Random forests: Breiman, 2001.
    """
    families = sorted({trial.family for trial in trials if best_score(trial, higher_is_better) is not None})
    found = [_importances(trials, higher_is_better, "", seed)]
    if len(families) > 1:
        found += [_importances([t for t in trials if t.family == family], higher_is_better, family, seed) for family in families]
    return found


def _importances(trials: Sequence[Trial], higher_is_better: bool, family: str, seed: int) -> Importances:
    scored = [(trial, score) for trial in trials if (score := best_score(trial, higher_is_better)) is not None]
    among = f" of {family}" if family else ""
    if len(scored) < FEWEST:
        sentence = f"{len(scored)} trials{among} have a score; from {FEWEST} on it can be said which parameters matter."
        return Importances(family, len(scored), None, sentence)
    keys, columns, present = _columns([trial for trial, _ in scored], alone=bool(family))
    scores = np.array([score for _, score in scored])
    if not keys or scores.std() < 1e-12:
        what = "configurations" if not keys else "scores"
        return Importances(family, len(scored), None, f"The {what} of the {len(scored)} trials{among} are all the same.")
    drops = _resampled_drops(columns, present, scores, seed)
    tail = (1 - LEVEL) / 2
    rows = [
        Importance(key, float(values.mean()), float(np.quantile(values, tail)), float(np.quantile(values, 1 - tail)))
        for key, values in zip(keys, drops.T, strict=True)
    ]
    rows.sort(key=lambda row: -row.value)
    sentence = f"From {len(scored)} trials{among}; bars are means over {RESAMPLES} resamples of trials, whiskers hold 95 % of them."
    return Importances(family, len(scored), tuple(rows), sentence)


def _columns(trials: Sequence[Trial], alone: bool) -> tuple[list[str], NDArray[np.float64], NDArray[np.bool_]]:
    """Names of what varies, its values float64[n, d] as a forest takes them, and where a trial has it bool[n, d].

    Trees ask for an order alone, so numbers stay as they are and other values become their place in sorted order. A value that is not
    there becomes the middle of those that are: absence then says nothing that the family does not say.
    """
    table = [{_name(key, trial, alone): value for key, value in config_now(trial).items()} for trial in trials]
    names, columns, present = sorted({key for row in table for key in row}), [], []
    kept = []
    for name in names:
        values: list[Any] = [row.get(name) for row in table]
        there = np.array([name in row for row in table])
        known = [value for value, is_there in zip(values, there, strict=True) if is_there]
        if len({_text(value) for value in known}) < 2:
            continue
        numbers = {_text(value): float(value) for value in known} if all(usable(value) for value in known) else _places(known)
        middle = float(np.median([numbers[_text(value)] for value in known]))
        columns.append([numbers[_text(value)] if is_there else middle for value, is_there in zip(values, there, strict=True)])
        present.append(there)
        kept.append(name)
    shape = (len(kept), len(trials))
    return kept, np.array(columns, dtype=np.float64).reshape(shape).T, np.array(present, dtype=bool).reshape(shape).T


def _name(key: str, trial: Trial, alone: bool) -> str:
    if key == FAMILY or alone or not key.startswith("model."):
        return key
    return f"{trial.family}.{key.removeprefix('model.')}"


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _places(values: Sequence[Any]) -> dict[str, float]:
    return {text: float(place) for place, text in enumerate(sorted({_text(value) for value in values}))}


def _resampled_drops(
    columns: NDArray[np.float64], present: NDArray[np.bool_], scores: NDArray[np.float64], seed: int
) -> NDArray[np.float64]:
    """float64[resamples, d]: growth of the mean squared error on the trials that a resample left out, over the variance of all scores.

    scikit-learn's permutation_importance shuffles all rows alike and predicts once a shuffle; here a parameter is shuffled where it is
    present, and one prediction takes all shuffles, which is twenty times as fast.
    """
    from sklearn.ensemble import RandomForestRegressor

    rng, (rows, dims) = np.random.default_rng(seed), columns.shape
    drops: list[NDArray[np.float64]] = []
    while len(drops) < RESAMPLES:
        drawn = rng.integers(0, rows, rows)
        left_out = np.setdiff1d(np.arange(rows), drawn)
        if len(left_out) < 3:
            continue
        forest = RandomForestRegressor(TREES, min_samples_leaf=2, random_state=int(rng.integers(2**31)), n_jobs=1)
        forest.fit(columns[drawn], scores[drawn])
        asked = [columns[left_out]]
        for dim in range(dims):
            where = np.flatnonzero(present[left_out, dim])
            for _ in range(SHUFFLES):
                shuffled = columns[left_out].copy()
                shuffled[where, dim] = shuffled[rng.permutation(where), dim]
                asked.append(shuffled)
        errors = ((forest.predict(np.concatenate(asked)).reshape(len(asked), -1) - scores[left_out]) ** 2).mean(axis=1)
        drops.append((errors[1:].reshape(dims, SHUFFLES).mean(axis=1) - errors[0]) / scores.var())
    return np.array(drops)
