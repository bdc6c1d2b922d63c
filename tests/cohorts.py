"""Builders of tiny, complete, deterministic cohorts on disk, for tests of everything after ingest; no assertions here."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hepdist.shards.format import TensorField, decode, encode
from hepdist.shards.manifest import SPLITS, EMRColumn, Manifest, Shard, sha256_of

Rows = int | dict[str, int]

EMR = (
    EMRColumn("alt", "number", unit="U/l"),
    EMRColumn("age", "number", unit="years"),
    EMRColumn("sex", "category", categories=("female", "male")),
)


def tiny_classification_cohort(
    folder: Path, rows: Rows = 40, seed: int = 0, emr: bool = False, *, classes: int = 2, side: int = 16, axes: int = 2, unlabelled: int = 0
) -> Manifest:
    """Grey uint8 images of `side` x `side` (or volumes) whose class is a bright square (or column) in a place of its own, over noise.

    rows: a total, cut 6:2:2, or the exact number by split. Patients have 1, 2 or 3 rows of one class. The first `unlabelled`
    rows of each split have no label. With `emr`, `alt` rises with the class and about a fifth of the values are missing.
    """
    rng = np.random.default_rng(seed)
    names = ("normal", "hepatitis", "cirrhosis", "other")[:classes] if classes <= 4 else tuple(f"class {k}" for k in range(classes))
    shape = (1, *(side,) * axes)
    image = TensorField("image", "uint8", shape, unit="display 0..255", axes="CDHW" if axes == 3 else "CHW")
    fields = [image]
    if emr:
        fields += [TensorField("emr", "float32", (len(EMR),)), TensorField("emr_missing", "uint8", (len(EMR),))]
    tables = {}
    for split, count in _by_split(rows).items():
        patients, labels = _patients(split, count, classes, rng)
        pixels = rng.normal(90, 25, (count, *shape))
        third = max(side // 3, 1)
        for i, label in enumerate(labels):
            top, left = divmod(int(label), 2)
            pixels[i, 0, ..., top * third : (top + 1) * third, left * third : (left + 1) * third] += 70
        columns: dict[str, Any] = {"label": pa.array(labels, pa.int64(), mask=np.arange(count) < unlabelled)}
        tensors = {"image": pixels.clip(0, 255).astype(np.uint8)}
        if emr:
            values = np.stack([rng.normal(40 + 30 * labels, 15), rng.uniform(0, 17, count), rng.integers(0, 2, count)], axis=1)
            missing = rng.random(values.shape) < 0.2
            tensors |= {"emr": np.where(missing, 0, values).astype(np.float32), "emr_missing": missing.astype(np.uint8)}
        tables[split] = _table(split, patients, columns, fields, tensors)
    return _write(folder, tables, fields, name="tiny-classification", label_names=names, emr=EMR if emr else ())


def tiny_segmentation_cohort(folder: Path, rows: Rows = 10, seed: int = 0, *, shape: tuple[int, ...] = (12, 16, 16)) -> Manifest:
    """float32 volumes (or, with a `shape` of two, images) holding an ellipsoid of two touching parts, 'anterior' and 'posterior'.

    rows: a total, cut 6:2:2, or the exact number by split. Spacing differs by row and axis; shapes are as ingest leaves them.
    """
    rng = np.random.default_rng(seed)
    ndim = len(shape)
    axes = "CDHW" if ndim == 3 else "CHW"
    image = TensorField("image", "float32", (1, *shape), unit="raw", axes=axes)
    mask = TensorField("mask", "uint8", (1, *shape), unit="class index", axes=axes, classes=("background", "anterior", "posterior"))
    fields = [
        image, mask, TensorField("spacing", "float32", (ndim,), unit="mm"), TensorField("original_shape", "int32", (ndim,), unit="voxels"),
        TensorField("offset", "int32", (ndim,), unit="voxels"), TensorField("affine", "float64", (4, 4), unit="mm"),
    ]  # fmt: skip
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    tables = {}
    for split, count in _by_split(rows).items():
        patients, _ = _patients(split, count, 1, rng)
        masks = np.zeros((count, 1, *shape), np.uint8)
        for i in range(count):
            centre, radii = np.array(shape) * rng.uniform(0.42, 0.58, ndim), np.array(shape) * rng.uniform(0.2, 0.35, ndim)
            inside = (((grid - centre) / radii) ** 2).sum(axis=-1) <= 1
            masks[i, 0] = np.where(inside, np.where(grid[..., -1] < centre[-1], 1, 2), 0)
        spacing = rng.uniform(0.8, 2.0, (count, ndim)).astype(np.float32)
        affine = np.tile(np.eye(4), (count, 1, 1))
        affine[:, range(ndim), range(ndim)] = spacing[:, ::-1]
        tensors = {
            "image": (masks * 200.0 + rng.normal(300, 40, masks.shape)).astype(np.float32), "mask": masks, "spacing": spacing,
            "original_shape": np.tile(np.int32(shape), (count, 1)), "offset": np.zeros((count, ndim), np.int32), "affine": affine,
        }  # fmt: skip
        tables[split] = _table(split, patients, {}, fields, tensors)
    return _write(folder, tables, fields, name="tiny-segmentation")


def pseudonym(*parts: object) -> str:
    """16 hex digits, as ingest writes them."""
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:16]


def _by_split(rows: Rows) -> dict[str, int]:
    if isinstance(rows, dict):
        return {split: rows[split] for split in SPLITS if rows.get(split)}
    held_out = max(rows // 5, 1)
    return {"train": rows - 2 * held_out, "val": held_out, "test": held_out}


def _patients(split: str, count: int, classes: int, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
    """A patient and a class for each row; classes alternate by patient, so that small splits hold each of them."""
    patients: list[str] = []
    labels: list[int] = []
    number = 0
    while len(patients) < count:
        owned = min(int(rng.integers(1, 4)), count - len(patients))
        patients += [pseudonym(split, number)] * owned
        labels += [number % classes] * owned
        number += 1
    return patients, np.array(labels, dtype=np.int64)


def _table(split: str, patients: list[str], columns: dict[str, Any], fields: list[TensorField], tensors: dict[str, np.ndarray]) -> pa.Table:
    count = len(patients)
    sample_ids = [pseudonym("sample", split, i) for i in range(count)]
    plain = {
        "sample_id": pa.array(sample_ids), "patient": pa.array(patients), "study": pa.array([pseudonym("study", s) for s in sample_ids]),
        "split": pa.array([split] * count), **columns,
    }  # fmt: skip
    schema = pa.schema([pa.field(name, array.type) for name, array in plain.items()] + [f.arrow() for f in fields])
    table = pa.table([*plain.values(), *[encode(f, tensors[f.name]) for f in fields]], schema=schema)
    return table.take(pa.array(np.argsort(sample_ids)))


def _write(folder: Path, tables: dict[str, pa.Table], fields: list[TensorField], **facts: Any) -> Manifest:
    """Two shards a split where it has the rows, in row groups of 1, 2, 3, 1, 2, 3, ... rows: nothing divides evenly."""
    (folder / "shards").mkdir(parents=True)
    shards, counts = [], {}
    for split, table in tables.items():
        cut = -(-table.num_rows * 3 // 5)
        for i, part in enumerate(p for p in (table.slice(0, cut), table.slice(cut)) if p.num_rows):
            path = f"shards/{split}-{i:05d}.parquet"
            groups = _write_shard(folder / path, part)
            shards.append(Shard(path, split, groups, (folder / path).stat().st_size, sha256_of(folder / path)))
        counts[split] = {"rows": table.num_rows, "patients": len(set(table["patient"].to_pylist())), "classes": {}}
        if names := facts.get("label_names"):
            labels = table["label"].to_pylist()
            counts[split]["classes"] = {name: labels.count(k) for k, name in enumerate(names)}
    audit = _audit([s for table in tables.values() for s in table["study"].to_pylist()])
    pq.write_table(audit, folder / "audit.parquet")
    outcomes = audit["outcome"].to_pylist() + [c for c in audit["check"].to_pylist() if c]
    counts["audit"] = {key: outcomes.count(key) for key in sorted(set(outcomes))}
    manifest = Manifest(
        source="images", tensors={f.name: {"dtype": f.dtype, "shape": list(f.shape), "unit": f.unit, "axes": f.axes, "classes": list(f.classes)} for f in fields},
        shards=tuple(shards), counts=counts, normalisation=_normalisation(tables["train"], fields),
        split_rule={"kind": "hash", "ratio": [6, 2, 2], "stratified": True}, created_by="tests/cohorts.py", **facts,
    )  # fmt: skip
    manifest.save(folder)
    return manifest


def _write_shard(path: Path, table: pa.Table) -> tuple[int, ...]:
    groups: list[int] = []
    with pq.ParquetWriter(path, table.schema, compression="none", use_dictionary=False, store_schema=True) as writer:
        while sum(groups) < table.num_rows:
            size = min(len(groups) % 3 + 1, table.num_rows - sum(groups))
            writer.write_table(table.slice(sum(groups), size))
            groups.append(size)
    return tuple(groups)


def _normalisation(train: pa.Table, fields: list[TensorField]) -> dict[str, dict[str, Any]]:
    named = {f.name: decode(f, train[f.name]) for f in fields}
    images = named["image"].astype(np.float64)
    others = tuple(a for a in range(images.ndim) if a != 1)
    found: dict[str, dict[str, Any]] = {"image": {"mean": images.mean(others).tolist(), "std": images.std(others).tolist()}}
    if "emr" in named:
        values = np.where(named["emr_missing"] == 1, np.nan, named["emr"].astype(np.float64))
        found["emr"] = {"mean": np.nanmean(values, axis=0).tolist(), "std": np.nanstd(values, axis=0).tolist()}
    return found


def _audit(studies: list[str]) -> pa.Table:
    """Every study's file ingested, three files quarantined for two reasons, one ignored."""
    bad = [
        ("quarantined", "truncated", "the file ends inside its pixel data"),
        ("quarantined", "truncated", "the file ends inside its pixel data"),
        ("quarantined", "nan", "the image holds values that are not finite"),
        ("ignored", "hidden-file", "its name starts with a dot"),
    ]
    rows = [("ingested", "", "", study) for study in studies] + [(*b, "") for b in bad]
    return pa.table(
        {
            "source_sha256": [hashlib.sha256(str(i).encode()).hexdigest() for i in range(len(rows))],
            "file": [pseudonym("file", i) for i in range(len(rows))],
            "outcome": [r[0] for r in rows], "check": [r[1] for r in rows], "reason": [r[2] for r in rows],
            "study": [r[3] for r in rows], "series": [""] * len(rows),
        }
    )  # fmt: skip
