"""`hepdist predict` of one large CT and of many radiographs: peak memory and cases a second of the whole command, models with random weights.

The CT has 512 x 512 x --planes voxels of int16. It is predicted by a model that was trained on bricks, and by one that was trained on whole volumes
and predicts by windows, at --spacing (mm, D,H,W; 1,0.75,0.75 is the CT's own); the mask and the SEG have the CT's resolution in any case. Both
networks are small, so that memory is what is measured: the largest resident set of the command (wait4), which runs in one process.

    python benchmarks/predict.py [--planes 600] [--spacing 4,3,3] [--radiographs 200] [--dropout-samples 20]
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from common import machine, markdown

from hepdist.ingest.fit import Layout
from hepdist.phantom.dicom import Encoding, Person, ct_slices, write_ct, write_xray
from hepdist.recipe import Recipe
from hepdist.spec import parse
from hepdist.training.saved_model import Signature, build_model, save_model

SPACING = (1.0, 0.75, 0.75)


def person(number: int) -> Person:
    return Person(f"PHA{number:05d}", f"Phantom^{number}", "F", 50, "A", datetime.date(2024, 1, 2), 0)


def write_series(folder: Path, planes: int) -> None:
    """Noise with a bright block, a hundred planes in memory at a time."""
    rng = np.random.default_rng(0)
    volume = rng.integers(-60, 60, (planes, 512, 512), dtype=np.int16)
    volume[planes // 4 : planes // 2, 150:350, 100:300] += 80
    write_ct(folder, ct_slices(volume, SPACING, person(1)))


def model(run: Path, kind: str, layout: Layout, network: dict[str, Any]) -> str:
    shape, axes = [layout.channels, *layout.size], "CDHW" if len(layout.size) == 3 else "CHW"
    tensors: dict[str, dict[str, Any]] = {"image": {"dtype": layout.dtype, "shape": shape, "unit": layout.unit, "axes": axes}}
    names = ("normal", "pneumonia")
    if kind == "segmentation":
        names = ()
        tensors["mask"] = {"dtype": "uint8", "shape": shape, "unit": "class index", "axes": axes, "classes": ["background", "liver"]}
    origin = {"source": "dicom", "layout": asdict(layout), "options": {}, "fingerprint": {}}
    signature = Signature(tensors, names, False, (), (), {"image": {"mean": [0.0], "std": [50.0]}}, origin)
    recipe: Recipe = parse(
        Recipe, {"name": run.name, "runs": str(run.parent), "data": {"cohort": "none"}, "task": {"kind": kind}, "model": network}
    )
    save_model(run, dict(build_model(recipe, signature).state_dict()), recipe, signature, samples=1)
    return str(run)


def measured(*arguments: str) -> tuple[float, float]:
    """Seconds and peak GiB of one command."""
    begin = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "hepdist", "predict", *arguments, "workers=1"], env={**os.environ, "HEPDIST_SALT": "0" * 32}
    )
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"predict ended with {os.waitstatus_to_exitcode(status)}")
    return time.monotonic() - begin, used.ru_maxrss / (1 << 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planes", type=int, default=600)
    parser.add_argument("--spacing", default="4,3,3")
    parser.add_argument("--radiographs", type=int, default=200)
    parser.add_argument("--dropout-samples", type=int, default=0, help="of the CT; 0: dropout is off")
    asked = parser.parse_args()
    rows, spacing = [], tuple(float(side) for side in asked.spacing.split(","))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        coarse = {"family": "unet", "width": 4, "depth": 2, "stride": 2, "norm": "group", "dropout": 0.2}
        passes = [f"dropout_samples={asked.dropout_samples}"] if asked.dropout_samples else []
        told = f", {asked.dropout_samples} passes" if passes else ""
        forms = {
            "bricks": Layout(1, (48, 96, 96), spacing, "int16", "HU", False, 0.25),
            "windows": Layout(1, (48, 96, 96), spacing, "int16", "HU", False),
        }
        if asked.planes:
            write_series(folder / "ct", asked.planes)
            for name, layout in forms.items():
                run = model(folder / name, "segmentation", layout, coarse)
                seconds, peak = measured(run, str(folder / "ct"), str(folder / f"out-{name}"), *passes)
                rows.append([f"CT 512 x 512 x {asked.planes}, {name} at {asked.spacing} mm{told}", f"{seconds:.0f} s", f"{peak:.2f} GiB"])
        if asked.radiographs:
            rng = np.random.default_rng(1)
            for number in range(asked.radiographs):
                picture = rng.random((1024, 1024), np.float32)
                write_xray(folder / f"cr/{number}", picture, 0.2, person(number), Encoding.of(0))
            layout = Layout(1, (224, 224), None, "uint8", "display 0..255", True)
            run = model(folder / "resnet", "classification", layout, {"family": "resnet", "depth": 18, "width": 32})
            seconds, peak = measured(run, str(folder / "cr"), str(folder / "out-cr"))
            rows.append(
                [f"{asked.radiographs} CR 1024 x 1024, ResNet-18 at 224", f"{asked.radiographs / seconds:.2f} cases/s", f"{peak:.2f} GiB"]
            )
    print(machine())
    print(markdown(["input", "time", "peak memory"], rows))


if __name__ == "__main__":
    main()
