"""One run's model as an ensemble's member: loaded with what its evaluation fixed, and whether it belongs with others. No case is seen here."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hepdist.errors import RunError
from hepdist.evaluation.calibration import apply_temperature, decisions_of
from hepdist.ingest.fit import Layout
from hepdist.recipe import Recipe
from hepdist.training.saved_model import Signature, load_model


@dataclass
class Member:
    """One run's model."""

    run: str
    model: nn.Module
    recipe: Recipe
    signature: Signature
    task: Any
    sha256: str
    """Of `model.safetensors`."""
    threshold: float
    """Probability from which a case of two classes counts as the second one, as evaluation fixed it, after scaling."""
    temperature: float
    """What evaluation found the logits must be divided by for probabilities that are as sure as they are right; 1: as they are."""


def load_member(run: Path, device: torch.device, tta: bool) -> Member:
    """tta: as for Predictor. Raises RunError where there is no model."""
    from hepdist.tasks import build

    model, recipe, signature = load_model(run)
    if not tta:
        augment = recipe.augment.model_copy(update={"test_flip": (), "test_shift": 0})
        recipe = recipe.model_copy(update={"augment": augment})
    # balanced weights are those of a loss, and their counts stayed with the cohort
    plain = recipe.model_copy(update={"task": recipe.task.model_copy(update={"class_weights": "none"})})
    sums = json.loads((run / "model" / "sha256.json").read_text(encoding="utf-8"))
    threshold, temperature = decisions_of(run)
    if recipe.task.kind in ("classification", "survival"):  # the threshold was chosen before scaling
        pair = np.array([[1 - threshold, threshold]])
        threshold = float(apply_temperature(pair, temperature, multilabel=signature.multilabel)[0, 1])
    return Member(
        str(run), model.to(device), recipe, signature, build(plain, signature.manifest()), sums["model.safetensors"], threshold,
        temperature,
    )  # fmt: skip


def check_together(first: Member, other: Member) -> None:
    """Raise RunError where two runs can't be one ensemble."""
    pairs = {
        "task": (first.recipe.task.kind, other.recipe.task.kind),
        "classes": (first.task.classes, other.task.classes),
        "label names": (first.signature.label_names, other.signature.label_names),
        "form of images": (layout_of(first), layout_of(other)),
        "EMR columns": (_columns(first), _columns(other)),
    }
    for what, (ours, theirs) in pairs.items():
        if ours != theirs:
            raise RunError(
                f"runs '{Path(first.run).name}' and '{Path(other.run).name}' differ in {what}; an ensemble needs runs of one cohort"
            )


def layout_of(member: Member) -> Layout | None:
    """How an image is brought to the form of the model's cohort; None where it reads none.

    Unlike a cohort's own, it also holds for images of other sizes and spacings than any of its: pictures are scaled to its size and volumes
    resampled to its median spacing. Raises RunError for a model that was saved without it.
    """
    signature = member.signature
    if "image" not in signature.tensors:
        return None
    kept = signature.origin.get("layout")
    if not kept:
        raise RunError(
            f"run '{Path(member.run).name}' was trained by an older hepdist, which did not keep how images were read; train it again, or score"
            " cohorts with: hepdist evaluate RUN --cohort COHORT"
        )
    layout = Layout.from_json(kept)
    if len(layout.size) == 2:
        return replace(layout, resized=layout.spacing is None and layout.overlap is None)
    median = signature.origin.get("fingerprint", {}).get("median_spacing")
    return layout if layout.spacing is not None or not median else replace(layout, spacing=tuple(median))


def _columns(member: Member) -> list[tuple[str, str, str, tuple[str, ...]]]:
    signature = member.signature
    return [(c.name, c.kind, c.unit, c.categories) for c in (*signature.emr, *signature.sequence)]
