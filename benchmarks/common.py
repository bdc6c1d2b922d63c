"""What the benchmarks share: the machine in words, medians, tables and random cohorts. Nothing that is measured lives here."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from hepdist.shards.format import TensorField, encode, write_shard
from hepdist.shards.manifest import Manifest, Shard, sha256_of

PACKAGES = ("ray", "deepspeed", "torch", "pyarrow", "monai", "litdata", "webdataset")
ROW_GROUP_BYTES = 4 << 20
"""As hepdist ingest writes them."""


def machine() -> str:
    """One paragraph on what the numbers were measured with, load included: other work on the machine spoils absolute figures."""
    processor = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = ", ".join(f"{name} {found}" for name in PACKAGES if (found := _version(name)))
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{len(os.sched_getaffinity(0))} CPUs ({processor}), {memory:.0f} GiB, Python {platform.python_version()}, {packages}; load {load}."
    )


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float], digits: int = 0) -> str:
    """'median (least-most)'."""
    return f"{median(values):,.{digits}f} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as docs/benchmarks.md holds it."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in [header, ["---"] * len(header), *rows]]
    return "\n".join(lines)


def random_cohort(
    folder: Path, rows: dict[str, int], image: tuple[int, ...], *, dtype: str = "uint8", mask: bool = False, classes: int = 2, seed: int = 0
) -> Manifest:
    """A cohort of noise on disk: random integers 0 to 255 as images, a class each, and with `mask` a box of class 1.

    rows: by split. image: channel first. Row groups have the size that ingest gives them. Written once: an existing cohort
    is returned as it is.
    """
    if (folder / "manifest.json").exists():
        return Manifest.load(folder)
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    axes = "CDHW" if len(image) == 4 else "CHW"
    fields = [TensorField("image", dtype, image, unit="raw", axes=axes)]
    if mask:
        names = tuple(f"class {k}" for k in range(classes))
        fields += [
            TensorField("mask", "uint8", (1, *image[1:]), unit="class index", axes=axes, classes=names),
            TensorField("spacing", "float32", (len(image) - 1,), unit="mm"),
        ]
    shards, counts = [], {}
    for split, count in rows.items():
        table = _rows(split, count, fields, classes, rng)
        row_group = int(np.clip(ROW_GROUP_BYTES // sum(f.nbytes for f in fields), 1, 1024))
        path = f"shards/{split}-00000.parquet"
        write_shard(str(folder / path), table, row_group)
        sizes = tuple(min(row_group, count - first) for first in range(0, count, row_group))
        shards.append(Shard(path, split, sizes, (folder / path).stat().st_size, sha256_of(folder / path)))
        counts[split] = {"rows": count, "patients": count, "classes": {}}
    manifest = Manifest(
        name="noise", source="images", shards=tuple(shards), counts=counts, created_by="benchmarks/common.py",
        tensors={f.name: {"dtype": f.dtype, "shape": list(f.shape), "unit": f.unit, "axes": f.axes, "classes": list(f.classes)} for f in fields},
        label_names=() if mask else tuple(f"class {k}" for k in range(classes)),
        normalisation={"image": {"mean": [127.5] * image[0], "std": [73.9] * image[0]}},
    )  # fmt: skip
    manifest.save(folder)
    return manifest


def hepdist_train(folder: Path, recipe: dict[str, Any]) -> Path:
    """Run the command `hepdist train` on a recipe, written to `folder`; returns the run's folder. A local Ray of its own."""
    done = subprocess.run(hepdist_command(folder, recipe), capture_output=True, text=True, env=without_ray(), timeout=900)
    if done.returncode:
        raise SystemExit(f"hepdist train failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return folder / "runs" / recipe["name"]


def hepdist_command(folder: Path, recipe: dict[str, Any]) -> list[str]:
    """`hepdist train` on a recipe, which is written to `folder`."""
    path = folder / f"{recipe['name']}.yaml"
    path.write_text(yaml.safe_dump({**recipe, "runs": str(folder / "runs")}))
    return [str(Path(sys.executable).with_name("hepdist")), "train", str(path)]


def without_ray() -> dict[str, str]:
    """The environment of a command that starts a Ray of its own."""
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}


def _rows(split: str, count: int, fields: list[TensorField], classes: int, rng: np.random.Generator) -> pa.Table:
    names = [f"{split}{i:08d}" for i in range(count)]
    plain = {"sample_id": names, "patient": names, "study": names, "split": [split] * count, "label": rng.integers(0, classes, count)}
    tensors = {}
    for field in fields:
        shape = (count, *field.shape)
        if field.name == "image":
            tensors[field.name] = rng.integers(0, 256, shape, dtype=np.uint8).astype(field.dtype, copy=False)
        else:
            tensors[field.name] = np.ones(shape, field.dtype)
        if field.name == "mask":
            tensors[field.name][..., : field.shape[-1] // 2] = 0
    columns = {name: pa.array(values) for name, values in plain.items()}
    schema = pa.schema([pa.field(name, array.type) for name, array in columns.items()] + [f.arrow() for f in fields])
    return pa.table([*columns.values(), *[encode(f, tensors[f.name]) for f in fields]], schema=schema)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
