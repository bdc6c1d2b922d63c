"""Staged samples to shards: rows in the order of sample_id, one shard in memory at a time, statistics taken on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hepdist.ingest.fit import Fitted, Layout, fit
from hepdist.ingest.pseudonym import Pseudonyms
from hepdist.ingest.stage import Stage, Staged
from hepdist.ingest.statistics import Statistics
from hepdist.shards.format import TensorField, encode, write_shard
from hepdist.shards.manifest import SPLITS, EMRColumn, Shard, sha256_of

GROUP_BYTES = 4 << 20
GROUP_ROWS = 1024
SHARD_BYTES = 256 << 20


@dataclass(frozen=True)
class Columns:
    """Which columns a cohort's rows have, and what they mean."""

    layout: Layout
    label_names: tuple[str, ...]
    multilabel: bool
    mask_classes: tuple[str, ...]
    """Empty: no mask column."""
    mask_values: tuple[int, ...]
    """Value in the source's masks of each class index."""
    emr: tuple[EMRColumn, ...]
    geometry: tuple[str, ...]
    """Those of spacing, source_shape, original_shape, offset and affine that the cohort has."""
    length: str
    """Unit of the spacing: 'mm', or 'source pixels' where no image says its size."""

    def tensors(self) -> dict[str, TensorField]:
        layout, axes = self.layout, "DHW"[-len(self.layout.size) :]
        n = len(axes)
        fields = [TensorField("image", layout.dtype, (layout.channels, *layout.size), layout.unit, "C" + axes)]
        if self.mask_classes:
            fields.append(TensorField("mask", "uint8", (1, *layout.size), "class index", "C" + axes, self.mask_classes))
        if self.multilabel:
            fields.append(TensorField("label", "uint8", (len(self.label_names),), "0 or 1", "", self.label_names))
        if self.emr:
            fields.append(TensorField("emr", "float32", (len(self.emr),), "see manifest.emr; missing = 0"))
            fields.append(TensorField("emr_missing", "uint8", (len(self.emr),), "1 = missing"))
        known = {
            "spacing": TensorField("spacing", "float32", (n,), f"{self.length} along {','.join(axes)}"),
            "source_shape": TensorField("source_shape", "int32", (n,), f"voxels along {','.join(axes)}, before resampling"),
            "original_shape": TensorField("original_shape", "int32", (n,), f"voxels along {','.join(axes)}, before crop and padding"),
            "offset": TensorField("offset", "int32", (n,), "index of voxel 0 in the grid of original_shape; negative = padded"),
            "affine": TensorField("affine", "float64", (4, 4), f"index along {','.join(axes)} to DICOM patient coordinates (LPS), mm"),
        }
        return {field.name: field for field in [*fields, *(known[name] for name in self.geometry)]}

    def meanings(self) -> dict[str, dict[str, Any]]:
        """The tensors as the manifest holds them: without names, in JSON's types."""
        return {
            name: {"dtype": t.dtype, "shape": list(t.shape), "unit": t.unit, "axes": t.axes, "classes": list(t.classes)}
            for name, t in self.tensors().items()
        }


def write_split(
    folder: Path,
    split: str,
    samples: Sequence[Staged],
    stage: Stage,
    names: Pseudonyms,
    columns: Columns,
    statistics: Statistics,
    progress: Callable[[], None],
) -> list[Shard]:
    """Write all shards of one split and feed `statistics`; returns their entries for the manifest."""
    assert split in SPLITS
    tensors = columns.tensors()
    row_bytes = sum(t.nbytes for t in tensors.values())
    group = max(1, min(GROUP_ROWS, GROUP_BYTES // row_bytes))
    rows = max(1, SHARD_BYTES // (row_bytes * group)) * group
    ordered = sorted(samples, key=lambda s: s.sample_id)
    shards = []
    for number, start in enumerate(range(0, len(ordered), rows)):
        some = ordered[start : start + rows]
        name = f"shards/{split}-{number:05d}.parquet"
        table = _table(some, split, tensors, stage, names, columns, statistics, progress)
        write_shard(str(folder / name), table, group)
        groups = tuple(min(group, len(some) - g) for g in range(0, len(some), group))
        shards.append(Shard(name, split, groups, (folder / name).stat().st_size, sha256_of(folder / name)))
    return shards


def _table(
    samples: Sequence[Staged],
    split: str,
    tensors: dict[str, TensorField],
    stage: Stage,
    names: Pseudonyms,
    columns: Columns,
    statistics: Statistics,
    progress: Callable[[], None],
) -> pa.Table:
    values = {name: np.zeros((len(samples), *tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    mask_table = np.zeros(256, np.uint8)
    mask_table[list(columns.mask_values)] = range(len(columns.mask_values))
    for i, sample in enumerate(samples):
        mask = mask_table[stage.get(sample.mask)] if sample.mask is not None and columns.mask_classes else None
        fitted = fit(stage.get(sample.image), mask, sample, columns.layout)
        row = _row(sample, fitted, columns)
        for name in tensors:
            values[name][i] = row[name]
        statistics.add(split, sample, row)
        progress()
    plain: dict[str, pa.Array] = {
        "sample_id": pa.array([s.sample_id for s in samples], pa.string()),
        "patient": pa.array([s.person for s in samples], pa.string()),
        "study": pa.array([names.of("study", s.study) if s.study else "" for s in samples], pa.string()),
        "split": pa.array([split] * len(samples), pa.string()),
    }
    if columns.label_names and not columns.multilabel:
        plain["label"] = pa.array([s.label for s in samples], pa.int64())
    schema = pa.schema([pa.field(name, array.type) for name, array in plain.items()] + [t.arrow() for t in tensors.values()])
    return pa.Table.from_arrays([*plain.values(), *(encode(t, values[name]) for name, t in tensors.items())], schema=schema)


def _row(sample: Staged, fitted: Fitted, columns: Columns) -> dict[str, Any]:
    """The tensors of one row, by column."""
    row: dict[str, Any] = {"image": fitted.image}
    if fitted.mask is not None:
        row["mask"] = fitted.mask
    if columns.multilabel:
        row["label"] = sample.labels
    if columns.emr:
        row["emr"], row["emr_missing"] = emr_vector(sample, columns.emr)
    none = np.full((4, 4), np.nan)
    geometry = {
        "spacing": fitted.spacing, "source_shape": fitted.source_shape, "original_shape": fitted.original_shape, "offset": fitted.offset,
        "affine": fitted.affine if fitted.affine is not None else none,
    }  # fmt: skip
    return row | {name: geometry[name] for name in columns.geometry}


def emr_vector(sample: Staged, columns: Sequence[EMRColumn]) -> tuple[np.ndarray, np.ndarray]:
    """float32[F] with 0 where missing, and uint8[F] with 1 where missing."""
    values, missing = np.zeros(len(columns), np.float32), np.ones(len(columns), np.uint8)
    for i, column in enumerate(columns):
        value = sample.emr.get(column.name)
        if value is not None and np.isfinite(value):
            values[i], missing[i] = value, 0
    return values, missing
