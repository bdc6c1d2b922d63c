"""The MONAI bundle: a folder with the program, its configuration, the scripts that run it, the model card and a licence; and running it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from hepdist.errors import RunError
from hepdist.export import bundle_scripts, program
from hepdist.export.samples import Samples

SECONDS = 1800
"""After which a bundle that is being checked counts as hung."""
FORMATS = {"HU": "hounsfield"}
"""MONAI's word for what a tensor holds, by our unit; else 'magnitude'."""
LICENSE = """The configuration and the scripts of this bundle come from hepdist and are licensed under the Apache License, Version 2.0
(http://www.apache.org/licenses/LICENSE-2.0).

The weights come from a training run on the cohort that docs/README.md describes. The run records no licence for them: ask whoever holds the
rights to that cohort and that run.
"""


def write(traced: ExportedProgram, folder: Path, facts: dict[str, Any], card: str, description: str) -> None:
    """facts: metadata.json of hepdist.export.describe; card: the model card, Markdown."""
    for name in ("configs", "models", "docs"):
        (folder / name).mkdir(parents=True)
    text = json.dumps(facts, indent=1, ensure_ascii=False)
    program.save(traced, folder / "models" / "model.pt2", text)
    module = bundle_scripts.Exported(str(folder / "models" / "model.pt2"))
    torch.save(module.state_dict(), folder / "models" / "model.pt")
    shutil.copytree(Path(bundle_scripts.__file__).parent, folder / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    _dump(folder / "configs" / "metadata.json", _metadata(facts, description))
    _dump(folder / "configs" / "inference.json", _inference(facts))
    (folder / "docs" / "README.md").write_text(card, encoding="utf-8")
    (folder / "LICENSE").write_text(LICENSE, encoding="utf-8")


def run_on(folder: Path, samples: Samples) -> np.ndarray:
    """The samples as files through `python -m monai.bundle run`, in a process of its own, as a user would call it; float32[n, ...]."""
    with tempfile.TemporaryDirectory(prefix="hepdist-bundle-") as name:
        inputs, outputs = Path(name) / "inputs", Path(name) / "outputs"
        inputs.mkdir()
        for row in range(len(samples.live)):
            np.savez(inputs / f"{row:06d}.npz", **{key: values[row] for key, values in samples.inputs.items()})
        command = [
            sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json", "--bundle_root", ".",
            "--input_folder", str(inputs), "--output_folder", str(outputs), "--batch_size", str(samples.at_once),
        ]  # fmt: skip
        plain = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}  # nothing of hepdist's source
        done = subprocess.run(command, cwd=folder, env=plain, capture_output=True, text=True, timeout=SECONDS, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise RunError(f"the bundle does not run: {last}")
        return np.stack([np.load(outputs / f"{row:06d}.npy") for row in range(len(samples.live))])


def answers_in_order(found: np.ndarray) -> Any:
    """`run_on`'s answers as a function of successive batches, for `verify.compare`."""
    place = 0

    def run(arrays: Sequence[np.ndarray]) -> np.ndarray:
        nonlocal place
        place += len(arrays[0])
        return found[place - len(arrays[0]) : place]

    return run


def _inference(facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "imports": ["$import glob", "$import scripts"],
        "bundle_root": ".",
        "input_folder": "$@bundle_root + '/inputs'",
        "output_folder": "$@bundle_root + '/outputs'",
        "batch_size": 8,
        "inputs": [{"name": entry["name"], "dtype": entry["dtype"]} for entry in facts["inputs"]],
        "output": facts["outputs"][0]["name"],
        "network_def": {"_target_": "scripts.Exported", "path": "$@bundle_root + '/models/model.pt2'"},
        "files": "$sorted(glob.glob(@input_folder + '/*.npz') + glob.glob(@input_folder + '/*.npy'))",
        "run": ["$scripts.infer(@network_def, @files, @inputs, @output, @output_folder, @batch_size)"],
    }


def _metadata(facts: dict[str, Any], description: str) -> dict[str, Any]:
    """The keys that MONAI's bundle specification asks for, and `hepdist` with our own."""
    return {
        "version": "1.0.0",
        "changelog": {"1.0.0": "exported by hepdist"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch"),
        "numpy_version": version("numpy"),
        "required_packages_version": {"fire": version("fire")},
        "optional_packages_version": {},
        "name": facts["run"],
        "task": f"{facts['task']} by {facts['family']}",
        "description": description,
        "authors": "not recorded",
        "copyright": "not recorded",
        "intended_use": "Research. Not a medical device.",
        "network_data_format": {
            "inputs": {entry["name"]: _tensor(entry, facts) for entry in facts["inputs"]},
            "outputs": {entry["name"]: _tensor(entry, facts) for entry in facts["outputs"]},
        },
        "hepdist": facts,
    }


def _tensor(entry: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    _, channels, *spatial = entry["shape"]
    output = entry in facts["outputs"]
    names = entry.get("classes") or [column["name"] for column in entry.get("columns", ())]
    image = entry["name"] in ("image", "restored") or (output and bool(spatial))
    return {
        "type": "image" if image else "probabilities" if output else "tuples",
        "format": "classes" if output and "classes" in entry else FORMATS.get(entry.get("unit", ""), "magnitude") if image else "raw",
        "modality": facts.get("modality", "n/a"),
        "num_channels": channels,
        "spatial_shape": [side if isinstance(side, int) else side.replace("n", "*n").lstrip("*") for side in spatial],
        "dtype": entry["dtype"],
        "value_range": [0, 1] if output and "classes" in entry else [],
        "is_patch_data": "bricks" in facts,
        "channel_def": {str(index): name for index, name in enumerate(names)} or {"0": entry["name"]},
    }


def _dump(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
