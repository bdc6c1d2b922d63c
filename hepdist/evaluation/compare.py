"""Two runs on the same cases: which are they, are they comparable, and what the difference says in plain words; the tests are in compare_scores.py."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hepdist.errors import RunError
from hepdist.evaluation.compare_scores import Comparison, comparison_rows
from hepdist.evaluation.result import CLASSIFYING, plain, read_result
from hepdist.evaluation.wording import FEW_PATIENTS, counted, number

COMPARISON = "compare.json"
SURE = 0.05
"""p below which a difference is said to be more than chance."""


@dataclass(frozen=True)
class Scored:
    """A run's result and the rows of one split, by sample_id."""

    name: str
    result: dict[str, Any]
    table: pd.DataFrame


def compare(first: str | Path, second: str | Path, split: str = "test") -> dict[str, Any]:
    """What `hepdist compare` writes as compare.json (docs/format.md): every score of two runs, their difference, and its paired test.

    first, second: run folders that were evaluated on this split, or their `external/<cohort>` folders with split 'external'. Rows are
    matched by sample_id. Raises RunError where the two were not scored on the same cases.
    """
    one, other = (_load(Path(run), split) for run in (first, second))
    _refuse_different(one, other, split)
    if one.name == other.name:
        one, other = (Scored(f"{run.name} ({place})", run.result, run.table) for run, place in ((one, "first"), (other, "second")))
    sides = (one, other)
    thresholds = tuple(float(run.result["threshold"]["value"]) for run in sides)
    names = tuple(one.result["label_names"])
    ordinal = all("quadratic_kappa" in run.result["split"][split] for run in sides)
    resamples = max(run.result["split"][split]["resamples"] for run in sides)
    found = comparison_rows(
        one.result["task"], one.table, other.table, names, (thresholds[0], thresholds[1]), resamples, one.result["seed"], ordinal=ordinal
    )
    facts = {
        "first": one.name, "second": other.name, "task": one.result["task"], "split": split, "n": found.n, "patients": found.patients,
        "resamples": resamples, "cohort_sha256": one.result["cohort_sha256"], "label_names": list(names),
        "thresholds": list(thresholds) if one.result["task"] in CLASSIFYING else None,
        "primary": found.rows[0].score, "scores": [row.facts() for row in found.rows], "agreement": found.agreement,
    }  # fmt: skip
    return {**plain(facts), "conclusion": conclusion(found, one.name, other.name)}


def write_comparison(facts: dict[str, Any], folder: Path) -> Path:
    """Write compare.json into the folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / COMPARISON
    path.write_text(json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    return path


def conclusion(found: Comparison, first: str, second: str) -> str:
    """The outcome for the primary score, and what else differs, for who reads no further."""
    main = found.rows[0]
    cases = f"{counted(found.n, 'case')} of {counted(found.patients, 'patient')}"
    if main.first != main.first or main.second != main.second:
        return f"{main.title} can't be told from these {cases}, which lack what it compares, such as a second class; choose another split."
    both = f"{main.title} is {number(main.first, main.unit)} for {first} and {number(main.second, main.unit)} for {second}, on the same {cases}"
    span = f"95 % interval {_signed(main.low)} to {_signed(main.high, main.unit)}" if main.low == main.low else "no interval"
    if main.p != main.p:
        return f"{both}. These cases can't say whether that is chance."
    chance = "less than 0.001" if main.p < 0.001 else f"{main.p:.3f}"
    detail = f"difference {_signed(main.difference, main.unit)}, {span}, p = {chance} by {main.test}".replace("p = less", "p less")
    apart = main.low > 0 or main.high < 0
    if main.p < SURE:
        better = first if (main.difference > 0) == main.higher_is_better else second
        text = f"{both} ({detail}): {better} is better, by more than chance explains"
        text += "." if apart or main.low != main.low else ", though the interval of the mean difference holds 0."
    elif apart:
        text = f"{both} ({detail}): undecided, since the interval leaves out 0 but the test calls the difference one that chance explains."
    else:
        reach = (
            f": the true difference may be anything from {_signed(main.low)} to {_signed(main.high, main.unit)}"
            if main.low == main.low
            else ""
        )
        text = f"{both} ({detail}): a difference that chance explains. That is no proof that they are equal{reach}."
    if found.patients < FEW_PATIENTS:
        text += f" With {counted(found.patients, 'patient')}, only large differences can be told from chance."
    others = [row for row in found.rows[1:] if row.p_holm is not None and row.p_holm < SURE]
    if others:
        listed = ", ".join(f"{row.label} ({first if (row.difference > 0) == row.higher_is_better else second} better)" for row in others)
        return f"{text} Of the other scores these differ after correction for {counted(len(found.rows) - 1, 'test')}: {listed}."
    return f"{text} No other score differs after correction for {counted(len(found.rows) - 1, 'test')}."


def _signed(value: float, unit: str = "") -> str:
    text = number(abs(value), unit)
    return f"+{text}" if value > 0 else f"−{text}" if value < 0 else text


def _load(run: Path, split: str) -> Scored:
    run = run.resolve()
    if not (run / "result.json").is_file():
        raise RunError(f"run '{run.name}' has no result.json to compare; score it with: hepdist evaluate {run.name} --split {split}")
    result = read_result(run)
    if split not in result.get("split", {}):
        there = ", ".join(result.get("split", {})) or "folds of a cross-validation"
        raise RunError(
            f"run '{run.name}' is not scored on split '{split}', only on {there}; score it with: hepdist evaluate {run.name} --split {split}"
        )
    table = pd.read_parquet(run / "predictions.parquet")
    return Scored(run.name, result, table[table["split"] == split].set_index("sample_id").sort_index())


def _refuse_different(one: Scored, other: Scored, split: str) -> None:
    """Raise RunError where the two were not asked the same of the same cases."""
    pair = f"'{one.name}' and '{other.name}'"
    if one.result["task"] != other.result["task"]:
        raise RunError(f"runs {pair} can't be compared: one does {one.result['task']}, the other {other.result['task']}")
    if one.result["cohort_sha256"] != other.result["cohort_sha256"]:
        raise RunError(
            f"runs {pair} can't be compared: they were scored on different cohorts; score one on the other's with: hepdist evaluate RUN --cohort COHORT"
        )
    if one.result["label_names"] != other.result["label_names"]:
        raise RunError(f"runs {pair} can't be compared: their classes are {one.result['label_names']} and {other.result['label_names']}")
    if not one.table.index.equals(other.table.index):
        alone = len(one.table.index.symmetric_difference(other.table.index))
        raise RunError(
            f"runs {pair} can't be compared: {counted(alone, 'case')} of split '{split}' were scored by one of them only; evaluate both again"
        )
    truth = [name for name in one.table if str(name).startswith(("label", "days", "event", "true_volume_ml"))]
    for name in truth:
        if name in other.table and not one.table[name].equals(other.table[name]):
            raise RunError(f"runs {pair} can't be compared: their truths differ in column '{name}'; evaluate both again")
