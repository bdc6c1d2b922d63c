"""The segmentation part of the report: plots over cases, and overlays of the worst, middle and best, as what the template shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray

from hepdist.evaluation import plots_segmentation as plots
from hepdist.evaluation.cases import load_cases
from hepdist.evaluation.overlays import busiest_slice, panels
from hepdist.evaluation.result import by_class
from hepdist.evaluation.wording import number, span
from hepdist.shards.manifest import Manifest

EXAMPLES = "examples.npz"
"""Predicted masks of a few cases, uint8 [*spatial] under '<sample_id>/pred'; evaluate.py writes it."""


@dataclass(frozen=True)
class Example:
    """One case as it is shown."""

    sample_id: str
    patient: str
    rank: int
    """1 is the worst."""
    of: int
    dice: dict[str, str]
    place: str
    """Which slice it is; empty in 2D."""
    panels: dict[str, Markup]


def segmentation_part(
    block: dict[str, Any],
    predictions: pd.DataFrame,
    run_folder: Path,
    cohort_folder: str | Path,
    manifest: Manifest,
    tolerance_mm: float | None,
) -> dict[str, Any]:
    """`figures` [(svg, title, caption)] and `examples` of one split, for the template; `wide` holds figures over the full width."""
    classes = manifest.fields["mask"].classes[1:]
    dice = by_class(predictions, "dice", classes)
    assert dice is not None, "summarise has read it"
    hd95, nsd, volume, true_volume = (by_class(predictions, what, classes) for what in ("hd95", "nsd", "volume_ml", "true_volume_ml"))
    caption = f"A point a case; the box holds the middle half. Mean {number(block['dice'])} ({span(block['dice_ci'])})."
    figures = [(plots.overlap_plot(dice, classes, "Dice", "dice"), "Overlap", caption)]
    if nsd is not None and np.isfinite(nsd).any():
        caption = f"Share of both surfaces within {tolerance_mm:g} mm of the other. Mean {number(block['nsd'])} ({span(block['nsd_ci'])})."
        figures.append((plots.overlap_plot(nsd, classes, "surface Dice", "nsd"), "Surface Dice", caption))
    if hd95 is not None and np.isfinite(hd95).any():
        caption = f"Mean {number(block['hd95'], ' mm')} ({span(block['hd95_ci'], ' mm')}); pairs with one side empty are left out."
        figures.append((plots.distance_plot(hd95, classes), "Surface distance", caption))
    wide: list[tuple[Markup, str, str]] = []
    if volume is not None and true_volume is not None and np.isfinite(volume - true_volume).any():
        caption = "Bland-Altman: the solid line is the bias, the dashed lines hold 95 % of the differences if they are normal."
        (wide if len(classes) > 1 else figures).append(
            (plots.bland_altman_plot(volume, true_volume, classes), "Agreement of volumes", caption)
        )
    return {
        "figures": figures,
        "wide": wide,
        "examples": _examples(predictions, dice, classes, run_folder, cohort_folder, manifest),
        "classes": classes,
    }


def _examples(
    predictions: pd.DataFrame,
    dice: NDArray[np.float64],
    classes: tuple[str, ...],
    run_folder: Path,
    cohort_folder: str | Path,
    manifest: Manifest,
) -> list[Example]:
    """The cases of examples.npz that belong to these predictions, worst first."""
    path = run_folder / EXAMPLES
    if not path.is_file():
        return []
    ids = predictions["sample_id"].tolist()
    mean = np.nan_to_num(pd.DataFrame(dice).mean(axis=1).to_numpy())  # a case with nothing to find and nothing found has no rank of its own
    order = np.argsort(mean, kind="stable").tolist()
    ranks = {ids[i]: rank for rank, i in enumerate(order, 1)}
    examples = []
    with np.load(path) as stored:
        predicted = {key.removesuffix("/pred") for key in stored.files} & set(ids)
        for name, row in load_cases(cohort_folder, manifest, predicted, ("image", "mask", "spacing")):
            truth, i = row["mask"], ids.index(name)
            prediction = stored[f"{name}/pred"].reshape(truth.shape)
            spacing = tuple(row["spacing"].tolist()) if "spacing" in row else (1.0,) * (truth.ndim - 1)
            index = busiest_slice(truth, prediction)
            place = "" if index is None else f"slice {index + 1} of {truth.shape[1]}"
            shown = panels(row["image"], truth, prediction, spacing, name)
            values = {c: number(None if np.isnan(d) else float(d)) for c, d in zip(classes, dice[i], strict=True)}
            examples.append(Example(name, predictions["patient"].iloc[i], ranks[name], len(ids), values, place, shown))
    return sorted(examples, key=lambda example: example.rank)
