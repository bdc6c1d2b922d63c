"""metadata.json beside the files and inside them: names, shapes, types and meanings of inputs and outputs, classes and how to decide."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hepdist.augment.degrade import stored_ends
from hepdist.export.program import sides
from hepdist.export.verify import Decision
from hepdist.shards.format import TensorField

if TYPE_CHECKING:
    from hepdist.recipe import Recipe
    from hepdist.shards.manifest import Manifest
    from hepdist.training.saved_model import Signature

FORMAT = "hepdist.export/1"
MEANINGS = {
    "image": "voxels as the cohort stores them; normalisation is inside the graph",
    "image_missing": "1: this row has no image, and what stands in `image` has no influence",
    "emr": "columns in their units, a category as its index in `categories`; any number where missing",
    "emr_missing": "1 where the value of that column is missing",
    "sequence": "visits, oldest first, in the columns' units; any number where missing or after the last visit",
    "sequence_missing": "1 where the value is missing, and everywhere after the last visit",
    "sequence_gap": "days since the visit before; 0 for the first and after the last",
    "sequence_length": "visits that there are",
}


def decision_of(recipe: Recipe, signature: Signature, manifest: Manifest, result: dict[str, Any]) -> Decision:
    """How the run's answers become labels; the threshold is that of result.json, one half where the run was not evaluated."""
    kind = recipe.task.kind
    if kind == "restoration":
        low, high = stored_ends(manifest)
        return Decision("none", span=high - low)
    if kind == "segmentation":
        return Decision("overlapping voxels" if recipe.task.activation == "sigmoid" else "voxels")
    threshold = float(result.get("threshold", {}).get("value", 0.5))
    if signature.multilabel:
        return Decision("findings", threshold)
    return Decision("two classes", threshold) if len(signature.label_names) == 2 else Decision("several classes")


def describe(
    names: Sequence[str],
    recipe: Recipe,
    signature: Signature,
    manifest: Manifest,
    result: dict[str, Any],
    grid: Sequence[int],
    identity: dict[str, str],
) -> dict[str, Any]:
    """identity: facts that say which run and cohort this is. Nothing in it is of a patient."""
    decision = decision_of(recipe, signature, manifest, result)
    inputs = [_input(name, recipe, signature, grid) for name in names]
    output = _output(recipe, signature, grid)
    calibration = result.get("calibration") or {}
    facts: dict[str, Any] = {
        "format": FORMAT,
        **identity,
        "task": recipe.task.kind,
        "family": recipe.model.family,
        "inputs": inputs,
        "outputs": [output],
        "classes": output.get("classes", []),
        "decision": {"kind": decision.kind, "threshold": None if decision.kind in ("none", "several classes", "voxels") else decision.threshold,
                     "rule": result.get("threshold", {}).get("rule", "not recorded"), "positive": result.get("positive")},
        "temperature": calibration.get("temperature"),
        "temperature_note": "not applied: divide the logarithms of the probabilities by it and normalise again, where it is not null",
        "averaged_over": {"mirrored_axes": list(recipe.augment.test_flip), "moved_by_voxels": recipe.augment.test_shift},
        "normalisation": recipe.data.normalise,
    }  # fmt: skip
    if recipe.task.kind == "survival":
        facts["horizon_days"] = manifest.label_rule["horizon_days"]
    if manifest.in_bricks:
        facts["bricks"] = manifest.fingerprint["bricks"]
        facts["bricks_note"] = "one row is a brick; blend bricks by a Gaussian of 1/8 of their sides for the volume's probabilities"
    if recipe.evaluation.window:
        facts["window"] = list(recipe.evaluation.window)
    return facts


def properties(facts: dict[str, Any]) -> dict[str, str]:
    """The metadata as ONNX's metadata_props: each entry as text, lists and mappings as JSON."""
    return {f"hepdist.{key}": value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for key, value in facts.items()}


def _input(name: str, recipe: Recipe, signature: Signature, grid: Sequence[int]) -> dict[str, Any]:
    field = signature.fields.get(name) or TensorField("image_missing", "uint8", (1,))
    shape = [field.shape[0], *sides(field.shape[1:], grid)] if name == "image" else list(field.shape)
    found: dict[str, Any] = {
        "name": name, "dtype": field.dtype, "shape": ["batch", *shape], "axes": field.axes, "unit": field.unit, "meaning": MEANINGS[name],
    }  # fmt: skip
    columns = {"emr": signature.emr, "sequence": signature.sequence}.get(name)
    if columns:
        found["columns"] = [
            {key: value for key, value in asdict(column).items() if key in ("name", "kind", "unit", "categories")} for column in columns
        ]
    if name == "image" and recipe.task.kind == "restoration":
        found["meaning"] = "a degraded image, as the cohort stores images; normalisation is inside the graph"
    return found


def _output(recipe: Recipe, signature: Signature, grid: Sequence[int]) -> dict[str, Any]:
    kind = recipe.task.kind
    if kind in ("classification", "survival"):
        classes = list(signature.label_names)
        meaning = "probability of each finding by itself" if signature.multilabel else "probability of each class; they sum to 1"
        if kind == "survival":
            meaning = "probability of no event and of the event by the horizon; they sum to 1"
        return {"name": "probability", "dtype": "float32", "shape": ["batch", len(classes)], "classes": classes, "meaning": meaning}
    image = signature.fields["image"]
    if kind == "restoration":
        shape = ["batch", image.shape[0], *sides(image.shape[1:], grid)]
        meaning = "the restored image in the unit of the input, neither rounded nor clipped"
        return {"name": "restored", "dtype": "float32", "shape": shape, "unit": image.unit, "meaning": meaning}
    classes = list(signature.fields["mask"].classes)
    meaning = "probability of each class at each voxel" + ("" if recipe.task.activation == "sigmoid" else "; they sum to 1")
    shape = ["batch", len(classes), *sides(image.shape[1:], grid)]
    return {"name": "probability", "dtype": "float32", "shape": shape, "classes": classes, "meaning": meaning}
