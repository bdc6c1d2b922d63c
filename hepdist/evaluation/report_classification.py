"""The classification part of the report: curves, decisions, calibration and cases, as what the template shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray

from hepdist.evaluation import plots
from hepdist.evaluation.calibration import apply_temperature
from hepdist.evaluation.cases import Case, choose_cases, load_cases
from hepdist.evaluation.curves import net_benefit, net_benefit_of_all, precision_recall_curve, reliability, risk_by_coverage, roc_curve
from hepdist.evaluation.images import data_uri, displayed, slice_of
from hepdist.evaluation.metrics import Floats, decide, stated_and_observed, sureness
from hepdist.evaluation.result import labels_and_probabilities
from hepdist.evaluation.wording import number, span
from hepdist.shards.manifest import Manifest

MOST_CURVES = 8
"""Classes drawn in one plot: those the model ranks worst."""
MOST_CELLS = 12
"""Classes of the largest confusion matrix that a page can hold."""


@dataclass(frozen=True)
class Card:
    """One case as it is shown."""

    sample_id: str
    patient: str
    truth: str
    decision: str
    right: bool
    percent: float
    image: str
    """Data URI; empty where the cohort has no image."""
    small: bool
    """Few pixels: show them as squares."""


@dataclass(frozen=True)
class Confusion:
    names: tuple[str, ...]
    rows: list[list[tuple[int, float]]]
    """By true class: the number of rows for each decision, and its percentage of the true class."""


def classification_part(
    block: dict[str, Any], result: dict[str, Any], predictions: pd.DataFrame, cohort_folder: str | Path, manifest: Manifest, seed: int
) -> dict[str, Any]:
    """`figures` [(svg, title, caption)], `confusion`, `points` and `cards` of one split, for the template."""
    names = manifest.label_names
    several = "label_0" in predictions
    labelled = predictions[predictions["label_0" if several else "label"].notna()]
    label, probability = labels_and_probabilities(labelled, len(names))
    patient = labelled["patient"].to_numpy(dtype=str)
    threshold = result["threshold"]["value"]
    truth = label == 1 if several else label[:, None] == np.arange(len(names))
    part: dict[str, Any] = {
        "figures": _curve_figures(block, names, truth, probability, patient, seed),
        "confusion": None,
        "cards": {},
        "points": [],
    }
    if several:
        part["figures"].append(_pairs_figure(block, label, probability, _scaled(result, probability, multilabel=True), patient, seed))
        return part
    calibrated = _scaled(result, probability, multilabel=False)
    part["figures"].append(_reliability_figure(block, names, label, probability, calibrated, patient, seed))
    if len(names) == 2:
        caption = "How far apart the classes lie; what is on the wrong side of the line is an error."
        part["figures"].append((plots.probability_plot(label, probability[:, 1], names, threshold), "Probabilities", caption))
        if 0 < truth[:, 1].mean() < 1:
            part["figures"].append(_decision_figure(block, names, truth[:, 1], probability, calibrated, patient, seed))
        part["points"] = operating_lines(block.get("operating_points", []))
    part["figures"].append(_abstention_figure(label, probability, threshold, patient, block["resamples"], seed))
    if len(names) <= MOST_CELLS:
        part["confusion"] = confusion(label, decide(probability, threshold), names)
    chosen = choose_cases(labelled, label, probability, threshold)
    part["cards"] = _cards(chosen, names, cohort_folder, manifest)
    return part


def confusion(label: NDArray[np.int64], decision: NDArray[np.int64], names: Sequence[str]) -> Confusion:
    """Rows by true class (down) and decided class (across)."""
    counts = np.zeros((len(names), len(names)), np.int64)
    np.add.at(counts, (label, decision), 1)
    totals = counts.sum(axis=1).tolist()
    return Confusion(
        tuple(names), [[(n, 100 * n / total if total else 0.0) for n in row] for row, total in zip(counts.tolist(), totals, strict=True)]
    )


def operating_lines(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the table of operating points shows in each line; of shares the value and its interval."""
    lines = []
    for point in points:
        line: dict[str, Any] = {"rule": f"{point['rule']} of {100 * point['target']:g} %", "threshold": f"{point['threshold']:.3g}"}
        for name in ("sensitivity", "specificity", "ppv", "npv", "called"):
            line[name] = (number(point[name]), span(point[f"{name}_ci"]))
        lines.append(line)
    return lines


def _scaled(result: dict[str, Any], probability: Floats, *, multilabel: bool) -> Floats | None:
    """The probabilities after the run's temperature; None where it has none."""
    temperature = (result.get("calibration") or {}).get("temperature")
    return apply_temperature(probability, temperature, multilabel=multilabel) if temperature else None


def _reliability_figure(
    block: dict[str, Any],
    names: tuple[str, ...],
    label: NDArray[np.int64],
    probability: Floats,
    scaled: Floats | None,
    patient: NDArray[np.str_],
    seed: int,
) -> tuple[Markup, str, str]:
    bins = reliability(*stated_and_observed(label, probability), patient, block["resamples"], seed)
    after = None if scaled is None else reliability(*stated_and_observed(label, scaled), patient, block["resamples"], seed)
    axis = f"predicted probability of {names[1]}" if len(names) == 2 else "probability of the chosen class"
    caption = f"Calibration error {number(block['ece'])} ({span(block['ece_ci'])})"
    if scaled is not None and "calibrated" in block:
        caption += f", after scaling by the temperature fitted on validation {number(block['calibrated']['ece'])} ({span(block['calibrated']['ece_ci'])})"
    return plots.reliability_plot(bins, axis, after), "Reliability", f"{caption}. On the dashed line, stated and observed frequency agree."


def _pairs_figure(
    block: dict[str, Any], label: NDArray[np.int64], probability: Floats, scaled: Floats | None, patient: NDArray[np.str_], seed: int
) -> tuple[Markup, str, str]:
    """Reliability of findings that may occur together, over all pairs of a row and a finding."""
    truth, owner = (label == 1).ravel().astype(np.float64), np.repeat(patient, label.shape[1])
    before, *after = (reliability(p.ravel(), truth, owner, block["resamples"], seed) for p in (probability, scaled) if p is not None)
    caption = f"Calibration error {number(block['ece'])} ({span(block['ece_ci'])}), the mean over findings; the curve is over all of them."
    return plots.reliability_plot(before, "predicted probability of a finding", after[0] if after else None), "Reliability", caption


def _decision_figure(
    block: dict[str, Any],
    names: tuple[str, ...],
    truth: NDArray[np.bool_],
    probability: Floats,
    scaled: Floats | None,
    patient: NDArray[np.str_],
    seed: int,
) -> tuple[Markup, str, str]:
    curves = {"model": net_benefit(truth, probability[:, 1], patient, block["resamples"], seed)}
    if scaled is not None:
        curves["after temperature scaling"] = net_benefit(truth, scaled[:, 1], patient, 1, seed)
    prevalence = float(truth.mean())
    caption = (
        "Useful where it lies above both acting on all and acting on none. Who would act from 10 % on takes nine needless actions for one"
        " needed. Band: 95 % bootstrap over patients."
    )
    return plots.decision_plot(curves, net_benefit_of_all(prevalence), prevalence, names[1]), "Decision curve", caption


def _abstention_figure(
    label: NDArray[np.int64], probability: Floats, threshold: float, patient: NDArray[np.str_], resamples: int, seed: int
) -> tuple[Markup, str, str]:
    wrong = decide(probability, threshold) != label
    curve = risk_by_coverage(wrong, sureness(probability, threshold), patient, resamples, seed)
    half = float(curve.y[np.abs(curve.x - 0.5).argmin()])
    caption = (
        f"If the model left the less sure half to a reader, {100 * half:.1f} % of its decisions would be wrong instead of {100 * curve.y[-1]:.1f} %."
        " A curve that does not fall means that its sureness says nothing."
    )
    return plots.abstention_plot(curve), "Abstention", caption


def _curve_figures(
    block: dict[str, Any], names: tuple[str, ...], truth: NDArray[np.bool_], probability: Floats, patient: NDArray[np.str_], seed: int
) -> list[tuple[Markup, str, str]]:
    resamples = block["resamples"]
    defined = [k for k in range(len(names)) if truth[:, k].any() and not truth[:, k].all()]
    point_roc = point_pr = None
    if len(names) == 2 and "specificity" in block and "auroc_per_class" not in block:
        shown = [k for k in defined if k == 1]
        areas = {names[1]: (block["auroc"], block["average_precision"])}
        if None not in (block["specificity"], block["sensitivity"]):
            point_roc = (1 - block["specificity"], block["sensitivity"])
        if None not in (block["ppv"], block["sensitivity"]):
            point_pr = (block["sensitivity"], block["ppv"])
    else:
        ranked = sorted(defined, key=lambda k: block["auroc_per_class"][names[k]])
        shown = sorted(ranked[:MOST_CURVES])
        areas = {name: (block["auroc_per_class"][name], block.get("average_precision_per_class", {}).get(name)) for name in names}
    if not shown:
        return []
    roc = {names[k]: roc_curve(truth[:, k], probability[:, k], patient, resamples, seed) for k in shown}
    pr = {names[k]: precision_recall_curve(truth[:, k], probability[:, k], patient, resamples, seed) for k in shown}
    single = len(shown) == 1
    roc_labels = {name: f"AUROC {number(areas[name][0])}" if single else f"{name} {number(areas[name][0])}" for name in roc}
    pr_labels = {
        name: f"AP {number(areas[name][1])}" if single else name if areas[name][1] is None else f"{name} {number(areas[name][1])}"
        for name in pr
    }
    prevalence = {names[k]: float(truth[:, k].mean()) for k in shown}
    which = f"{names[1]} against {names[0]}" if single and len(names) == 2 else "Each class against the rest"
    band = "band: 95 % bootstrap over patients." if len(shown) <= plots.MOST_BANDS else "intervals are in the table by class."
    roc_caption = f"{which}; {band} AUROC {number(block['auroc'])} ({span(block['auroc_ci'])}"
    delong = span(block["auroc_delong_ci"]) if "auroc_delong_ci" in block else ""
    roc_caption += f"; by DeLong's variance {delong})." if delong else ")."
    pr_caption = f"{which}; {band} Dashed: prevalence. AP {number(block['average_precision'])} ({span(block['average_precision_ci'])})."
    return [
        (plots.roc_plot(roc, roc_labels, point_roc), "ROC", roc_caption),
        (plots.precision_recall_plot(pr, pr_labels, prevalence, point_pr), "Precision and recall", pr_caption),
    ]


def _cards(chosen: dict[str, list[Case]], names: tuple[str, ...], cohort_folder: str | Path, manifest: Manifest) -> dict[str, list[Card]]:
    rows = dict(load_cases(cohort_folder, manifest, [case.sample_id for cases in chosen.values() for case in cases], ("image",)))

    def card(case: Case) -> Card:
        image = rows.get(case.sample_id, {}).get("image")
        picture = displayed(slice_of(image)) if image is not None else None
        return Card(
            case.sample_id, case.patient, names[case.truth], names[case.decision], case.truth == case.decision, 100 * case.probability,
            "" if picture is None else data_uri(picture), picture is not None and max(picture.shape[:2]) <= 96,
        )  # fmt: skip

    return {kind: [card(case) for case in cases] for kind, cases in chosen.items()}
