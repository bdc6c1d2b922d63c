"""The limits of a model that follow from the facts of its run: few patients, one source, a test split unlike the rest, what nobody measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hepdist.evaluation.wording import cautions, counted, prevalence_caution

if TYPE_CHECKING:
    from hepdist.recipe import Recipe
    from hepdist.shards.manifest import Manifest

FEW_TO_TRAIN = 200
"""Patients below which a deep network's score is known to move with the draw of its train split."""
NONE_OTHER = "It was scored on no other cohort, so how it does elsewhere is not known."


def limits(recipe: Recipe, manifest: Manifest, result: dict[str, Any], external: dict[str, Any], people: dict[str, Any]) -> list[str]:
    """A sentence for each; people: counts of modality, manufacturer, sex as the card shows them."""
    train = manifest.counts.get("train", {})
    found = [f"All data come from one cohort (source kind {manifest.source}), the test split too. " + ("" if external else NONE_OTHER)]
    if train.get("patients", 0) < FEW_TO_TRAIN:
        found.append(f"Only {counted(train.get('patients', 0), 'patient')} were trained on.")
    splits = result.get("split", {})
    if not splits:
        found.append("It was not evaluated: nothing is known of how well it does.")
    for split, block in splits.items():
        found += [
            f"{split}: {text}"
            for text in cautions(block, result, split, "row") + prevalence_caution(block, train.get("classes", {}), split)
        ]
    if splits and "test" not in splits:
        found.append("Its test split was not scored: scores of val are too good, since val chose the weights.")
    if not any("subgroups" in block for block in splits.values()):
        found.append("Whether it does worse for some ages, sexes, sites or scanners was not measured.")
    for name, what in (("manufacturer", "one manufacturer's scanners"), ("modality", "one modality"), ("sex", "one sex")):
        values = set(people.get(name) or ()) - {"not recorded"}
        if len(values) == 1:
            found.append(f"The cohort knows {what} only: {values.pop()}.")
    if not people.get("sex") or not people.get("age"):
        lacking = " and ".join(name for name in ("age", "sex") if not people.get(name))
        found.append(f"The cohort does not record {lacking}, so nothing can be said about who is in it in that respect.")
    if recipe.task.kind == "classification" and not manifest.multilabel:
        found.append("It knows its classes alone: whatever else is shown to it is given one of them.")
    if recipe.task.kind == "restoration":
        found.append("It was taught synthetic degradations; it may draw structures that were never there.")
    return found
