"""`hepdist explain`: on what a classifier's decisions rest, of the most telling cases and of all columns; writes explain.json and explain.html."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib import colormaps
from numpy.typing import NDArray
from torch import Tensor

from hepdist.errors import RunError
from hepdist.evaluation.attribution import Importance, evidence_for, grad_cam, permutation_importance
from hepdist.evaluation.cases import Case, choose_cases
from hepdist.evaluation.images import data_uri, displayed, slice_of
from hepdist.evaluation.metrics import Floats
from hepdist.evaluation.plots_forest import ForestLine, forest_plot
from hepdist.evaluation.report import environment
from hepdist.evaluation.result import CLASSIFYING, labels_and_probabilities, plain, read_result
from hepdist.evaluation.subgroup_scores import ranking
from hepdist.shards.manifest import Manifest
from hepdist.shards.read import SplitReader, columns_of
from hepdist.shards.tensors import tensor_of

PAGE, FACTS = "explain.html", "explain.json"
MOST_ROWS = 2000
"""Of a split, that importance is measured on; drawn by the run's seed."""
REPEATS = 5
RESAMPLES = 300
SHOWN = 6
"""Cases of each kind."""
GROUPS = {
    "image": ("image", "image_missing"),
    "emr": ("emr", "emr_missing"),
    "visits": ("sequence", "sequence_missing", "sequence_gap", "sequence_length"),
}
"""Inputs that are dealt as a whole, where a model reads more than one."""

Progress = Callable[[int, int], None]


def explain(run: str | Path, split: str = "test", progress: Progress | None = None) -> Path:
    """Write explain.json and explain.html into the run's folder, from its model, cohort and stored predictions; returns the page.

    Images get Grad-CAM maps for the decided class, of the most confident errors and right decisions; EMR columns, and the inputs of a fusion as a
    whole, get permutation importance on up to MOST_ROWS labelled rows. Raises RunError for tasks other than classification and
    survival, and where the split isn't scored.
    """
    from hepdist.training.saved_model import load_model

    run = Path(run).resolve()
    model, recipe, signature = load_model(run)
    if recipe.task.kind not in CLASSIFYING:
        raise RunError(
            f"run '{run.name}' does {recipe.task.kind}; explain is for {' and '.join(CLASSIFYING)}, whose decisions have no place of their own"
        )
    result = read_result(run)
    if split not in result["split"]:
        raise RunError(f"run '{run.name}' is not scored on split '{split}'; score it with: hepdist evaluate {run.name} --split {split}")
    manifest = Manifest.load(recipe.data.cohort)
    device = torch.device("cuda" if recipe.train.device != "cpu" and torch.cuda.is_available() else "cpu")
    model = model.to(device)
    reader = SplitReader(recipe.data.cohort, manifest, split)
    columns = columns_of(recipe, manifest)
    table = pd.read_parquet(run / "predictions.parquet").query("split == @split").set_index("sample_id")
    ids = reader.strings(("sample_id",))["sample_id"].to_pylist()
    table = table.loc[ids].reset_index()  # row i is row i of the split
    known = np.flatnonzero(table["label_0" if "label_0" in table else "label"].notna())
    label, probability = labels_and_probabilities(table.iloc[known], len(manifest.label_names))

    def batch_of(
        rows: NDArray[np.int64], dealt: tuple[str, ...] = (), source: NDArray[np.int64] | None = None, column: int | None = None
    ) -> dict[str, Tensor]:
        """Normalised rows; the tensors `dealt`, or one column of them, are those of the rows `source`."""
        from hepdist.augment import normalise

        arrays = reader.arrays(rows, columns)
        if source is not None:
            for name, values in reader.arrays(source, [name for name in dealt if name in arrays]).items():
                if column is None:
                    arrays[name] = values
                else:
                    arrays[name] = arrays[name].copy()
                    arrays[name][:, column] = values[:, column]
        tensors = {name: tensor_of(values.copy()).to(device) for name, values in arrays.items()}
        return normalise(tensors, recipe.data.normalise, signature.normalisation)

    facts: dict[str, Any] = {"run": run.name, "split": split, "label_names": list(manifest.label_names)}
    maps: list[dict[str, Any]] = []
    if "image" in recipe.model.reads and label.ndim == 1:
        chosen = choose_cases(table.iloc[known], label, probability, float(result["threshold"]["value"]))
        place = {name: i for i, name in enumerate(ids)}
        for kind, cases in chosen.items():
            for case in cases[:SHOWN]:
                batch = batch_of(np.array([place[case.sample_id]]))
                evidence = evidence_for(recipe.task.kind, case.decision, ordinal=recipe.task.ordinal)
                found = grad_cam(model, batch, evidence)[0].cpu().numpy()
                image = reader.arrays(np.array([place[case.sample_id]]), ("image",))["image"][0]
                maps.append({"kind": kind, "case": case, "picture": _overlaid(image, found), "plain": _picture(image, found)})
    some = np.sort(np.random.default_rng(recipe.train.seed).permutation(len(known))[:MOST_ROWS])
    rows = known[some]
    importance = _importance(model, recipe, manifest, batch_of, rows, label[some], table["patient"].to_numpy(dtype=str)[rows], progress)
    facts["rows"] = len(rows)
    facts["importance"] = [{"input": i.name, "fall": i.fall, "fall_ci": [i.low, i.high]} for i in importance]
    facts["maps"] = [
        {"sample_id": m["case"].sample_id, "kind": m["kind"], "explained": manifest.label_names[m["case"].decision]} for m in maps
    ]
    (run / FACTS).write_text(json.dumps(plain(facts), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page = (
        environment()
        .get_template(PAGE)
        .render(facts=facts, maps=[_card(m, manifest.label_names) for m in maps], forest=_forest(importance), repeats=REPEATS)
    )
    (run / PAGE).write_text(page, encoding="utf-8")
    return run / PAGE


def _importance(
    model: Any,
    recipe: Any,
    manifest: Manifest,
    batch_of: Any,
    rows: NDArray[np.int64],
    label: NDArray[np.int64],
    patient: NDArray[np.str_],
    progress: Progress | None,
) -> list[Importance]:
    """Of each EMR column, and of each input of a model that reads several."""
    from hepdist.tasks import build as build_task

    task, size = build_task(recipe, manifest), recipe.evaluation.batch
    reads = set(recipe.model.reads)
    inputs: dict[str, tuple[tuple[str, ...], int | None]] = {}
    if len(reads) > 1:
        inputs |= {name: (tensors, None) for name, tensors in GROUPS.items() if tensors[0] in reads}
    if "emr" in reads:
        inputs |= {column.name: (GROUPS["emr"], k) for k, column in enumerate(manifest.emr)}
    if not inputs:
        return []

    def predict(name: str | None, order: NDArray[np.int64]) -> Floats:
        parts = []
        for start in range(0, len(rows), size):
            mine = slice(start, start + size)
            dealt, column = inputs[name] if name is not None else ((), None)
            batch = batch_of(rows[mine], dealt, rows[order[mine]] if name is not None else None, column)
            parts.append(task.predict(model, batch)["probability"])
        return np.concatenate(parts).astype(np.float64)

    return permutation_importance(
        predict,
        list(inputs),
        lambda p: ranking(label, p),
        patient,
        repeats=REPEATS,
        resamples=RESAMPLES,
        seed=recipe.train.seed,
        progress=progress,
    )


def _forest(importance: list[Importance]) -> Any:
    if not importance:
        return None
    lines = [ForestLine(i.name, i.fall, i.low, i.high, f"{i.fall:+.3f}".replace("-", "−"), strong=i.low > 0) for i in importance]
    return forest_plot(
        lines, "importance", "fall of the AUROC when its values change hands, 95 % interval", 0.0, "Permutation importance of each input"
    )


def _picture(image: NDArray[Any], found: Floats) -> str:
    return data_uri(displayed(slice_of(image, _slice(found))))


def _overlaid(image: NDArray[Any], found: Floats) -> str:
    """The map over the image, in the slice where it is strongest: its colour is as opaque as the map is high."""
    index = _slice(found)
    shown = displayed(slice_of(image, index)).astype(np.float64)
    grey = shown if shown.ndim == 3 else np.repeat(shown[..., None], 3, axis=2)
    heat = found if index is None else found[index]
    colour = colormaps["inferno"](heat)[..., :3] * 255
    opacity = 0.65 * heat[..., None]
    return data_uri((grey * (1 - opacity) + colour * opacity).round().astype(np.uint8))


def _slice(found: Floats) -> int | None:
    return None if found.ndim == 2 else int(found.sum(axis=(1, 2)).argmax())


def _card(found: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    case: Case = found["case"]
    return {
        "kind": found["kind"], "sample_id": case.sample_id, "decision": names[case.decision], "truth": names[case.truth],
        "percent": 100 * case.probability, "plain": found["plain"], "picture": found["picture"],
    }  # fmt: skip
