"""Every shipped recipe's model as ONNX, torch.export program and MONAI bundle, each held against the live model on 50 real rows.

    python benchmarks/export.py [RECIPE ...] [--data ../shared/data] [--folder FOLDER] [--epochs 1]

Each recipe is trained for an epoch, so that no weight is what it was drawn as; how good the model is makes no difference here. Rows are those
of validation, or of training where validation has fewer than 50. A recipe whose data is not at hand is named and left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from common import machine, markdown, without_ray

from hepdist.recipe import load_recipe, shipped_recipes
from hepdist.shards.manifest import Manifest

ROWS = 50
FORMATS = ("onnx", "torch", "bundle")
HEPATITIS = (
    "class,age,sex,steroid,antivirals,fatigue,malaise,anorexia,liver_big,liver_firm,spleen_palpable,spiders,ascites,varices,bilirubin,"
    "alk_phosphate,sgot,albumin,protime,histology"
)
INGEST = {
    "pneumonia": ["medmnist/pneumoniamnist.npz"],
    "breast": ["medmnist/breastmnist.npz"],
    "adrenal": ["medmnist/adrenalmnist3d_64.npz", "spacing=2"],
    "hippocampus": ["msd_hippocampus/hippocampus_train.tar"],
    "lung": ["cxr_lung_masks/cxr_lung_masks.tar", "size=128,128", "classes=background,lung"],
    "hepatitis": ["emr/uci_hepatitis/hepatitis.data", "label=class", "label_names=2,1", f"emr_header={HEPATITIS}"],
    "pbc": [
        "emr/mayo_pbc/pbcseq.csv",
        "event=status",
        "event_values=1,2",
        "event_time=futime",
        "horizon=1826",
        "landmark=visits",
        "emr_visits=16",
    ],
    "phantom": ["dicom", "emr=emr.csv", "label=hepatitis", "modality=CR", "size=128,128", "near_identical=false"],
    "liver": ["dicom", "modality=CT", "brick=16,64,64", "near_identical=false"],
}
"""How the recipes' headers ingest, by the last part of data.cohort; of `phantom` and `liver` from what `hepdist phantom` draws."""
PHANTOM = ("phantom", "liver")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=[])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--folder", type=Path, help="where cohorts, runs and files go, and are taken from where they are there already")
    parser.add_argument("--epochs", type=int, default=1)
    asked = parser.parse_args()
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = (asked.folder or Path(scratch)).resolve()
        rows = []
        for name in asked.recipes or [name for name in shipped_recipes() if name != "demo"]:
            cohort = ingested(Path(load_recipe(name).data.cohort).name, asked.data, folder)
            if cohort is None:
                print(f"{name}: its data is not in {asked.data}", flush=True)
                continue
            rows += exported(name, cohort, folder, asked.epochs)
            print(rows[-len(FORMATS) :], flush=True)
    print(markdown(["recipe", "format", "rows", "largest difference", "labels that differ"], rows))
    print(machine())


def ingested(name: str, data: Path, folder: Path) -> Path | None:
    """The cohort of this name, ingested where it is not there yet; None where its data is missing."""
    source = folder / f"{name}-files" if name in PHANTOM else data
    first, *options = INGEST[name]
    if name in PHANTOM and not source.exists():
        hepdist("phantom", str(source), *(["--patients", "300", "--no-ct"] if name == "phantom" else ["--patients", "160"]))
    if not (source / first).exists():
        return None
    cohort = folder / "cohorts" / name
    if not (cohort / "manifest.json").exists():
        options = [f"emr={source / 'emr.csv'}" if option == "emr=emr.csv" else option for option in options]
        hepdist("ingest", str(source / first), str(cohort), *options)
    return cohort


def exported(name: str, cohort: Path, folder: Path, epochs: int) -> list[tuple[object, ...]]:
    """Train, export and read what export.json says; a row a format."""
    run, out = folder / "runs" / name, folder / "exports" / name
    if not (run / "model").exists():
        words = [f"data.cohort={cohort}", f"runs={run.parent}", f"train.epochs={epochs}", "evaluation.splits=[]"]
        hepdist("train", name, *words)
    split = "val" if Manifest.load(cohort).rows("val") >= ROWS else "train"
    hepdist("export", str(run), str(out), "--split", split, "--samples", str(ROWS), allowed=(0, 1))
    found = json.loads((out / "export.json").read_text())["files"]
    return [
        (
            name,
            form,
            f"{at['samples']} of {split}",
            f"{at['largest_difference']:.1e}",
            f"{at['decisions_differing']} of {at['decisions']:,}",
        )
        if (at := found.get(form))
        else (name, form, "", "failed", "")
        for form in FORMATS
    ]


def hepdist(*words: str, allowed: tuple[int, ...] = (0,)) -> None:
    """A command as a user gives it; ends the benchmark with its last words where it fails."""
    command = [str(Path(sys.executable).with_name("hepdist")), *words]
    done = subprocess.run(command, capture_output=True, text=True, env=without_ray(), timeout=3600)
    if done.returncode not in allowed:
        raise SystemExit(f"{' '.join(words[:2])} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


if __name__ == "__main__":
    main()
