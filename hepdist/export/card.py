"""The model card: what a reader must know before using a model, from the run's own files alone; what they don't say is 'not recorded'."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from hepdist.evaluation.cohort_flow import cohort_flow
from hepdist.evaluation.provenance import commands, shown_recipe
from hepdist.evaluation.result import CLASSIFYING, RESULT
from hepdist.evaluation.wording import counted, number, scores_of, span, threshold_sentence
from hepdist.export.card_limits import limits
from hepdist.export.card_pages import Block, Card, Code, Points, Section, Table
from hepdist.place import place_of
from hepdist.shards.manifest import SPLITS, Manifest
from hepdist.shards.read import SplitReader

if TYPE_CHECKING:
    from hepdist.recipe import Recipe
    from hepdist.training.saved_model import Signature

UNKNOWN = "not recorded"


def model_card(run: Path, recipe: Recipe, signature: Signature, manifest: Manifest, result: dict[str, Any], facts: dict[str, Any]) -> Card:
    """result: result.json, empty where the run was not evaluated; facts: metadata.json of the export."""
    people = _people(recipe, manifest)
    external = {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted((run / "external").glob(f"*/{RESULT}"))}
    lead = _lead(recipe, facts, manifest)
    return Card(
        f"Model card: {run.name}",
        lead,
        (
            Section("Intended use", _use(facts, people)),
            Section("Inputs and outputs", _interface(facts)),
            Section("Training data", _data(recipe, manifest, people)),
            Section("Results", _results(result, external)),
            Section("Subgroups", _subgroups(result)),
            Section("Decisions", _decisions(result, facts)),
            Section("Calibration", _calibration(result)),
            Section("Limits", (Points(tuple(limits(recipe, manifest, result, external, people))),)),
            Section("How to repeat it", _repeat(recipe, run, manifest, result, facts)),
        ),
    )


def _lead(recipe: Recipe, facts: dict[str, Any], manifest: Manifest) -> str:
    what = {
        "classification": f"tells {_listed(facts['classes'])} apart",
        "survival": f"gives the probability of an event within {manifest.label_rule.get('horizon_days', 0):g} days",
        "segmentation": f"outlines {_listed(facts['classes'][1:])}",
        "restoration": f"restores images from {_listed(list(recipe.degrade.kinds))}",
    }[recipe.task.kind]
    if manifest.multilabel and recipe.task.kind == "classification":
        what = f"finds {_listed(facts['classes'])}, which may occur together,"
    return f"A network ({recipe.model.family}) that {what}, trained on cohort {manifest.name}. Not a medical device."


def _use(facts: dict[str, Any], people: dict[str, Any]) -> tuple[Block, ...]:
    modality = people.get("modality")
    like = f"inputs like those of its cohort (modality: {_counts(modality) if modality else UNKNOWN})"
    return (
        f"Research: {facts['task']} on {like}. A use beyond that is {UNKNOWN} in the run.",
        "This is not a medical device. Nothing in the run records a clinical assessment or an approval, so it must not decide about a patient.",
    )


def _interface(facts: dict[str, Any]) -> tuple[Block, ...]:
    rows = [
        (kind, entry["name"], entry["dtype"], " x ".join(map(str, entry["shape"])), entry.get("unit") or "", entry["meaning"])
        for kind, entries in (("input", facts["inputs"]), ("output", facts["outputs"]))
        for entry in entries
    ]
    found: list[Block] = [Table(("", "name", "type", "shape", "unit", "meaning"), tuple(rows))]
    if facts["classes"]:
        found.append("Classes by index: " + ", ".join(f"{k} {name}" for k, name in enumerate(facts["classes"])) + ".")
    columns = [
        (entry["name"], c["name"], c["kind"], c["unit"], ", ".join(c["categories"]))
        for entry in facts["inputs"]
        for c in entry.get("columns", ())
    ]
    if columns:
        found.append(Table(("input", "column, in order", "kind", "unit", "categories, by index"), tuple(columns)))
    averaged = facts["averaged_over"]
    if averaged["mirrored_axes"] or averaged["moved_by_voxels"]:
        found.append(
            f"The answer is a mean over the image and its mirrored selves (spatial axes {averaged['mirrored_axes'] or 'none'})"
            + (f" and over images moved by {averaged['moved_by_voxels']} voxel(s)" if averaged["moved_by_voxels"] else "")
            + ", as in evaluation."
        )
    return tuple(found)


def _data(recipe: Recipe, manifest: Manifest, people: dict[str, Any]) -> tuple[Block, ...]:
    flow = cohort_flow(recipe.data.cohort, manifest)
    noun = "volumes" if manifest.in_bricks else "rows"
    names = manifest.label_names
    splits = tuple(
        (part.split, f"{part.patients:,}", f"{part.rows:,}", *(f"{part.classes.get(name, 0):,}" for name in names)) for part in flow.splits
    )
    rule = manifest.split_rule
    how = "the data set's official split" if rule.get("kind") == "official" else f"split by patient ({rule.get('kind', UNKNOWN)})"
    found: list[Block] = [
        f"Cohort {manifest.name}, source kind {manifest.source}, sha256 {manifest.sha256()}; {how}. No patient is in two splits.",
        f"{counted(flow.found, 'file')} found, {flow.ingested:,} ingested.",
        Table(("split", "patients", noun, *names), splits),
    ]
    if flow.left_out:
        found.append(
            Table(
                ("left out", "check", "files", "reason"),
                tuple((item.outcome, item.check, f"{item.files:,}", item.reason) for item in flow.left_out),
            )
        )
    known = (
        ("modality", _counts(people.get("modality"))), ("manufacturer", _counts(people.get("manufacturer"))),
        ("body part", _counts(people.get("body_part"))), ("sex", _shown(people.get("sex"))), ("age", _shown(people.get("age"))),
        ("voxel spacing", _spacing(manifest)), ("licence of the data", UNKNOWN), ("ethics approval and consent", UNKNOWN),
    )  # fmt: skip
    return (*found, Table(("fact", "whole cohort"), known))


def _results(result: dict[str, Any], external: dict[str, Any]) -> tuple[Block, ...]:
    blocks = dict(result.get("split", {})) | {f"external: {name}": found["split"]["external"] for name, found in external.items()}
    if not blocks:
        return (f"Scores: {UNKNOWN} (the run was not evaluated; hepdist evaluate makes them).",)
    found: list[Block] = ["95 % intervals are bootstraps over patients."]
    for name, block in blocks.items():
        rows = tuple((score.title, score.value, score.interval) for score in scores_of(block))
        classes = "; ".join(f"{key} {count:,}" for key, count in block.get("classes", {}).items())
        found.append(f"{name}: {block['n']:,} scored, {block['patients']:,} patients{'; ' + classes if classes else ''}.")
        found.append(Table(("score", name, "95 % interval"), rows))
    return tuple(found)


def _subgroups(result: dict[str, Any]) -> tuple[Block, ...]:
    rows = []
    for split, block in result.get("split", {}).items():
        for group in (block.get("subgroups") or {}).get("groups", ()):
            who = (split, group["column"], str(group["group"]))
            if "scores" not in group:
                rows.append((*who, "", "", group.get("note", ""), "", ""))
                continue
            for name, score in group["scores"].items():
                p = score.get("p_holm")
                rows.append(
                    (*who, f"{group['patients']:,}", name, number(score["value"]), span(score["ci"]), "" if p is None else f"{p:.3g}")
                )
    if not rows:
        return (f"Scores of subgroups: {UNKNOWN}.",)
    columns = ("split", "column", "group", "patients", "score", "value", "95 % interval", "p against the others (Holm)")
    return (Table(columns, tuple(rows)),)


def _decisions(result: dict[str, Any], facts: dict[str, Any]) -> tuple[Block, ...]:
    kind = facts["decision"]["kind"]
    if kind == "two classes":
        return (threshold_sentence(result["threshold"], result.get("positive")) if result.get("threshold") else f"Threshold: {UNKNOWN}.",)
    sentences = {
        "several classes": "The most probable class is taken.",
        "findings": f"A finding is called from a probability of {facts['decision']['threshold']:g}." if kind == "findings" else "",
        "voxels": "Each voxel gets its most probable class.",
        "overlapping voxels": "A voxel has every class whose probability is above 0.5.",
        "none": "No decision is made: the answer is an image.",
    }
    return (sentences[kind],)


def _calibration(result: dict[str, Any]) -> tuple[Block, ...]:
    if result.get("task") not in CLASSIFYING:
        return (f"Calibration: {UNKNOWN}.",)
    rows = tuple(
        (split, *(f"{number(block.get(key))} ({span(block.get(f'{key}_ci') or [None, None])})" for key in ("ece", "brier")))
        for split, block in result["split"].items()
    )
    fitted = result.get("calibration") or {}
    if fitted.get("temperature"):
        text = f"Temperature {fitted['temperature']:.3f}, fitted on {fitted.get('n', UNKNOWN)} validation cases; the exported files do not apply it."
    else:
        text = f"Temperature: {UNKNOWN}" + (f" ({fitted['reason']})." if fitted.get("reason") else ".")
    return (Table(("split", "calibration error (ECE)", "Brier score"), rows), text)


def _repeat(recipe: Recipe, run: Path, manifest: Manifest, result: dict[str, Any], facts: dict[str, Any]) -> tuple[Block, ...]:
    text = (run / "model" / "recipe.yaml").read_text(encoding="utf-8")
    split = "test" if "test" in result.get("split", {}) or not result else next(iter(result["split"]))
    lines = [f"{command}  # {what}" for what, command in commands(recipe.model_dump(mode="json"), split)]
    packages = result.get("versions") or {}
    rows = (
        ("seed", str(recipe.train.seed)), ("cohort sha256", manifest.sha256()), ("weights sha256", facts["model_sha256"]),
        ("source commit", packages.get("commit", UNKNOWN)), *((name, value) for name, value in packages.items() if name != "commit"),
    )  # fmt: skip
    return (Code("\n".join(lines)), Table(("fact", "value"), rows), "The resolved recipe:", Code(shown_recipe(text)))


def _people(recipe: Recipe, manifest: Manifest) -> dict[str, Any]:
    """Counts of modality, manufacturer, body part and sex, and the spread of age, from headers.parquet or the EMR columns; no extremes."""
    place = place_of(recipe.data.cohort)
    found: dict[str, Any] = {}
    if place.exists("headers.parquet"):
        with place.open_input("headers.parquet") as file:
            headers = pq.read_table(file).to_pandas()
        for name in ("modality", "manufacturer", "body_part"):
            found[name] = Counter(value or UNKNOWN for value in headers[name])
        persons = headers.drop_duplicates("patient")
        found["sex"] = Counter(value or UNKNOWN for value in persons["sex"])
        found["age"] = _spread(persons["age_years"].dropna().to_numpy(), "years")
    columns = {column.name.lower(): (index, column) for index, column in enumerate(manifest.emr)}
    for name in [name for name in ("age", "sex") if name in columns and not found.get(name)]:
        index, column = columns[name]
        values = _emr_values(recipe.data.cohort, manifest, index)
        if column.kind != "number":
            names = dict(enumerate(column.categories))
            found[name] = Counter(names.get(int(value), UNKNOWN) for value in values)
        elif name == "age":
            found[name] = _spread(values, column.unit)
        else:  # a table may code sex by numbers without saying what they mean
            found[name] = Counter(f"code {value:g}" for value in values)
    return found


def _emr_values(cohort: str, manifest: Manifest, index: int) -> np.ndarray:
    """The known values of an EMR column, of one row a patient."""
    parts = []
    for split in SPLITS:
        reader = SplitReader(cohort, manifest, split)
        if not len(reader):
            continue
        patients = reader.strings(("patient",))["patient"].to_numpy(zero_copy_only=False)
        first = np.sort(np.unique(patients, return_index=True)[1])
        arrays = reader.arrays(first, ("emr", "emr_missing"))
        parts.append(arrays["emr"][:, index][arrays["emr_missing"][:, index] == 0])
    return np.concatenate(parts)


def _spread(values: np.ndarray, unit: str) -> str:
    if not len(values):
        return ""
    low, middle, high = np.percentile(values.astype(np.float64), [25, 50, 75])
    return f"median {middle:.3g} {unit}, middle half {low:.3g} to {high:.3g} (of {counted(len(values), 'patient')})"


def _shown(value: Counter[str] | str | None) -> str:
    return value or UNKNOWN if isinstance(value, str) else _counts(value)


def _counts(counter: Counter[str] | None) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counter.most_common()) if counter else UNKNOWN


def _spacing(manifest: Manifest) -> str:
    spacing = manifest.fingerprint.get("median_spacing")
    return "median " + " x ".join(f"{side:.3g}" for side in spacing) if spacing else UNKNOWN


def _listed(names: list[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)
