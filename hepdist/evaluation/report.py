"""report.html: one page that holds everything a reader needs to judge a run, and needs nothing from outside itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml
from markupsafe import Markup

from hepdist.errors import RunError
from hepdist.evaluation import plots_training
from hepdist.evaluation.cohort_flow import cohort_flow
from hepdist.evaluation.provenance import commands, shown_recipe, versions
from hepdist.evaluation.report_classification import classification_part
from hepdist.evaluation.report_restoration import restoration_part, restoration_sentence
from hepdist.evaluation.report_segmentation import segmentation_part
from hepdist.evaluation.report_subgroups import subgroup_cautions, subgroup_part
from hepdist.evaluation.result import CLASSIFYING, read_result
from hepdist.evaluation.wording import (
    MEANINGS,
    calibration_sentence,
    cautions,
    class_table,
    counted,
    headlines,
    number,
    prevalence_caution,
    scores_of,
    span,
    threshold_sentence,
)
from hepdist.shards.manifest import Manifest
from hepdist.training.metrics_file import METRICS, read_metrics

REPORT = "report.html"
Figure = tuple[Markup, str, str]


def write_report(run_folder: Path, cohort_folder: str | Path, *, split: str = "test") -> Path:
    """Write run_folder/report.html about one split and return its path.

    Reads recipe.yaml, result.json, predictions.parquet and, where they are, metrics.jsonl and examples.npz of the run, and the
    cohort's manifest, audit and the rows of the cases shown. Nothing in it is raw: identifiers are the cohort's pseudonyms and
    absolute folders are cut to their last name. Raises RunError where the split has not been scored.
    """
    result = read_result(run_folder)
    if split not in result["split"]:
        raise RunError(
            f"split '{split}' of run '{run_folder.name}' has no scores; make them with: hepdist evaluate {run_folder.name} --split {split}"
        )
    recipe_text = (run_folder / "recipe.yaml").read_text(encoding="utf-8")
    recipe, manifest = yaml.safe_load(recipe_text), Manifest.load(cohort_folder)
    table = pd.read_parquet(run_folder / "predictions.parquet")
    predictions = table[table["split"] == split].sort_values("sample_id").reset_index(drop=True)
    block, task = result["split"][split], result["task"]
    noun = _noun(manifest)

    if task in CLASSIFYING:
        part = classification_part(block, result, predictions, cohort_folder, manifest, result["seed"])
    elif task == "restoration":
        part = restoration_part(block, predictions, run_folder)
    else:
        part = segmentation_part(block, predictions, run_folder, cohort_folder, manifest, result.get("tolerance_mm"))
    kind = task if task in ("segmentation", "restoration") else "binary" if "specificity" in block else "classes"
    page = environment().get_template(REPORT).render(
        name=recipe["name"], cohort=manifest.name, task=task, split=split, noun=noun, block=block, result=result, part=part,
        sentence=_sentence(block, result, noun), headlines=headlines(block, kind),
        cautions=[*cautions(block, result, split, noun), *prevalence_caution(block, manifest.counts.get("train", {}).get("classes", {}), split),
                  *subgroup_cautions(block)],
        calibration=calibration_sentence(result), subgroups=subgroup_part(block),
        table={name: {s.key: s for s in scores_of(scored)} for name, scored in result["split"].items()}, meanings=MEANINGS,
        class_table=class_table(block), flow=cohort_flow(cohort_folder, manifest), colours=_class_colours(manifest.label_names), split_rule=_split_rule(manifest),
        curves=_curves(run_folder, recipe, task), train=_train_facts(result["train"], recipe), recipe=shown_recipe(recipe_text),
        commands=commands(recipe, split), versions=result.get("versions") or versions(), cohort_sha256=result["cohort_sha256"],
    )  # fmt: skip
    path = run_folder / REPORT
    part_path = run_folder / f".{REPORT}.part"
    part_path.write_text(page, encoding="utf-8")
    part_path.rename(path)
    return path


def environment() -> jinja2.Environment:
    """Of the templates in this folder, which include page.css."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def _noun(manifest: Manifest) -> str:
    image = manifest.fields.get("image")
    return "record" if image is None else "volume" if len(image.shape) == 4 else "image"


def _sentence(block: dict[str, Any], result: dict[str, Any], noun: str) -> str:
    """The result in words, for who reads no further."""
    if result["task"] == "restoration":
        return restoration_sentence(block, noun)
    if result["task"] == "segmentation":
        classes = ", ".join(f"{number(value)} for {name}" for name, value in block["dice_per_class"].items())
        return f"The predicted regions overlap the reference with a mean Dice of {number(block['dice'])} ({span(block['dice_ci'])}): {classes}."
    if "ppv" not in block:
        return _right_decisions(block, result, noun)
    negative, positive = block["classes"]
    parts = []
    for name, key in ((positive, "sensitivity"), (negative, "specificity")):
        if block[key] is not None:
            total = block["classes"][name]
            parts.append(
                f"{round(block[key] * total):,} of {counted(total, f'{name} {noun}')} were recognised ({key} {number(block[key])})"
            )
    return "; ".join(parts) + ". " + threshold_sentence(result["threshold"], positive)


def _right_decisions(block: dict[str, Any], result: dict[str, Any], noun: str) -> str:
    accuracy, names = (
        f"accuracy {number(block['accuracy'])}, {span(block['accuracy_ci'])}",
        result.get("label_names", list(block["classes"])),
    )
    if "specificity" in block:  # findings that may occur together: a decision each
        return f"Of {counted(block['n'] * len(names), 'decision')}, one a finding and {noun}, {100 * block['accuracy']:.1f} % are right ({accuracy})."
    return f"{round(block['accuracy'] * block['n']):,} of {counted(block['n'], noun)} were given the right one of {len(names)} classes ({accuracy})."


def _class_colours(names: tuple[str, ...]) -> dict[str, str]:
    """The page's colour of each class, as in the plots: of two, the negative one is grey."""
    if len(names) == 2:
        return {names[0]: "--s8", names[1]: "--s1"}
    return {name: f"--s{k % 8 + 1}" for k, name in enumerate(names)}


def _split_rule(manifest: Manifest) -> str:
    rule = manifest.split_rule
    if rule.get("kind") == "official":
        return "The split is the data set's official one; no patient is in two of its parts."
    ratio = ":".join(str(share) for share in rule.get("ratio", ())) or "by hash"
    return f"Patients, not {_noun(manifest)}s, were split {ratio} by a salted hash{', within classes' if rule.get('stratified') else ''}; no patient is in two parts."


def _curves(run_folder: Path, recipe: dict[str, Any], task: str) -> list[Figure]:
    """Learning curves; none for an external validation, which has no training of its own."""
    if not (run_folder / METRICS).is_file():
        return []
    reports = read_metrics(run_folder)
    if not reports:
        return []
    usual = {"segmentation": "dice", "survival": "concordance", "restoration": "psnr"}
    select = recipe["task"].get("select") or usual.get(task, "auroc")
    return [
        (plots_training.loss_plot(reports), "Loss", "Faint: each report; solid: smoothed."),
        (plots_training.score_plot(reports, select), "Validation", f"The circle marks the best {select}, whose weights were scored."),
        (plots_training.rate_plot(reports), "Learning rate", ""),
        (plots_training.throughput_plot(reports), "Throughput", "Below: share of the time in which training waited for data."),
    ]


def _train_facts(train: dict[str, Any], recipe: dict[str, Any]) -> list[tuple[str, str]]:
    """Facts of training as (what, value); those that are not known are left out."""
    spec, optim = recipe["train"], recipe["optim"]
    seconds = train.get("wall_s")
    facts = [
        ("Model", recipe["model"]["family"]),
        ("Epochs", f"{train['epochs']:g}" if train.get("epochs") else ""),
        ("Samples seen", f"{train['samples']:,}" if train.get("samples") else ""),
        ("Throughput", f"{train['samples_per_s']:,.0f} samples/s" if train.get("samples_per_s") else ""),
        ("Waited for data", f"{100 * train['data_wait_share']:.1f} % of the time" if train.get("data_wait_share") is not None else ""),
        ("Wall time", f"{seconds / 60:.1f} min" if seconds else ""),
        ("Workers", f"{train['workers']}, ZeRO stage {spec['zero_stage']}, {spec['precision']}"),
        ("Global batch", f"{spec['global_batch']}"),
        ("Peak learning rate", f"{optim['lr']:g}, {optim['schedule']}"),
        ("Seed", f"{spec['seed']}"),
    ]
    return [(what, value) for what, value in facts if value]
