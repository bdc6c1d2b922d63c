"""`hepdist demo`: the whole road on made-up patients, from DICOM and EMR files to a report, with the verbs a user has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from hepdist.console import out, progress, score_table, step
from hepdist.ingest import ingest
from hepdist.phantom import write_phantom
from hepdist.recipe import Recipe, load_recipe
from hepdist.shards.manifest import MANIFEST
from hepdist.training.launch import train

PATIENTS, SEED = 600, 0
SOURCE = Path("cohorts/demo-source")
SALT = Path("cohorts/demo.salt")
OPTIONS = (f"emr={SOURCE / 'emr.csv'}", "label=hepatitis", "modality=CR", "size=128,128", f"salt={SALT}", "near_identical=false")
"""near_identical: all phantoms are drawn from one anatomy, and some look as alike as two copies of one image; no two real X-rays did."""


def run_demo(overrides: list[str] | None = None, *, fresh: bool = False) -> Path:
    """Phantom, ingest, train with 2 workers, evaluate, report; returns the run's folder.

    What is there already is kept, so that a second call goes on where the first stopped; `fresh` starts over.
    """
    recipe = load_recipe("demo", overrides)
    cohort = Path(recipe.data.cohort)
    if fresh:
        shutil.rmtree(SOURCE, ignore_errors=True)
        shutil.rmtree(cohort, ignore_errors=True)
    _phantom()
    _ingest(cohort)
    step("3 of 3: training under Ray and DeepSpeed, then evaluation")
    folder = train(recipe, fresh=fresh)
    _show(recipe, folder)
    return folder


def _phantom() -> None:
    step(f"1 of 3: {PATIENTS} phantom patients as DICOM X-rays and EMR tables in {SOURCE}")
    if (SOURCE / "phantom.json").is_file():  # written last
        return
    shutil.rmtree(SOURCE, ignore_errors=True)  # of a call that was killed
    with progress("phantom") as report:
        write_phantom(SOURCE, PATIENTS, SEED, ct=False, progress=report)


def _ingest(cohort: Path) -> None:
    step(f"2 of 3: ingest into {cohort}")
    if (cohort / MANIFEST).is_file():
        return
    # No patient hides behind these pseudonyms, so the secret is none: every machine gets the same cohort and scores.
    SALT.write_text("phantom patients need no secret, only the same one everywhere\n", encoding="utf-8")
    with progress("ingest") as report:
        ingest(str(SOURCE / "dicom"), str(cohort), list(OPTIONS), report)


def _show(recipe: Recipe, folder: Path) -> None:
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    bayes: dict[str, dict[str, Any]] = json.loads((SOURCE / "phantom.json").read_text(encoding="utf-8"))["bayes"]
    out.print(score_table(result, {"best possible": bayes["both"]}))
    out.print(f"best possible AUROC from the image alone {bayes['image']['auroc']:.3f}, from the EMR alone {bayes['emr']['auroc']:.3f}")
    facts = result["train"]
    out.print(
        f"{recipe.train.most} workers, {facts['epochs']:g} epochs, {facts['samples_per_s']:.0f} samples/s, {facts['wall_s']:.0f} s of training"
    )
    out.print(f"report: {folder / 'report.html'}", soft_wrap=True)
