"""Staged samples to shards: rows in the order of sample_id, one shard in memory at a time, each shard whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from hepdist.ingest.columns import Columns
from hepdist.ingest.fit import fit
from hepdist.ingest.stage import Staged, read_array
from hepdist.ingest.statistics import Moments, Part
from hepdist.shards.format import encode, write_shard
from hepdist.shards.manifest import Shard, sha256_of

GROUP_BYTES = 4 << 20
GROUP_ROWS = 1024
SHARD_BYTES = 256 << 20


@dataclass(frozen=True)
class ShardPlan:
    """One shard to write."""

    name: str
    """Relative to the cohort's folder."""
    split: str
    group: int
    """Rows of a row group."""
    samples: tuple[Staged, ...]


def plan_shards(split: str, samples: Sequence[Staged], columns: Columns, first: int = 0) -> list[ShardPlan]:
    """The shards of one split, numbered from `first`; a function of the samples alone."""
    row_bytes = sum(t.nbytes for t in columns.tensors().values()) or 1
    group = max(1, min(GROUP_ROWS, GROUP_BYTES // row_bytes))
    rows = max(1, SHARD_BYTES // (row_bytes * group)) * group
    ordered = sorted(samples, key=lambda s: s.sample_id)
    starts = range(0, len(ordered), rows)
    return [
        ShardPlan(f"shards/{split}-{number:05d}.parquet", split, group, tuple(ordered[start : start + rows]))
        for number, start in enumerate(starts, first)
    ]


class ShardWriter:
    """Writes shards and says what their tensors hold; one lives in each writing process. A shard that is there is not done again."""

    def __init__(self, stage: Path, target: Path, columns: Columns, most_voxels: int):
        """most_voxels: of each train image, for the intensity percentiles."""
        self._stage, self._target, self._columns, self._most_voxels = stage, target, columns, most_voxels

    def __call__(self, plan: ShardPlan) -> tuple[Shard, Part]:
        path = self._target / plan.name
        done = self._stage / f"{path.stem}-{self._digest(plan)}.npz"
        if path.is_file() and done.is_file():
            with np.load(done) as arrays:
                part = Part.of_arrays(arrays)
        else:
            part = self._write(plan, path)
            with open(done.with_suffix(".part"), "wb") as file:
                np.savez(file, allow_pickle=False, **part.arrays())
            done.with_suffix(".part").rename(done)
        groups = tuple(min(plan.group, len(plan.samples) - g) for g in range(0, len(plan.samples), plan.group))
        return Shard(plan.name, plan.split, groups, path.stat().st_size, sha256_of(path)), part

    def _digest(self, plan: ShardPlan) -> str:
        """What a shard of an earlier try must have been made from to be taken."""
        facts = json.dumps([s.to_json() for s in plan.samples]) + json.dumps(asdict(self._columns))
        return hashlib.sha256(facts.encode()).hexdigest()[:16]

    def _write(self, plan: ShardPlan, path: Path) -> Part:
        columns, samples, tensors = self._columns, plan.samples, self._columns.tensors()
        part = Part(Moments(columns.layout.channels if columns.layout else 0), np.zeros(len(columns.mask_classes), np.int64))
        values = {name: np.zeros((len(samples), *tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
        mask_table = np.zeros(256, np.uint8)
        mask_table[list(columns.mask_values)] = range(len(columns.mask_values))
        for i, sample in enumerate(samples):
            fitted = None
            if columns.layout is not None and sample.image is not None:
                masked = sample.mask is not None and columns.mask_classes
                mask = mask_table[read_array(self._stage, sample.mask)] if sample.mask is not None and masked else None
                fitted = fit(read_array(self._stage, sample.image), mask, sample, columns.layout)
                if plan.split == "train":
                    part.learn(fitted.image, self._most_voxels)
                if fitted.mask is not None:
                    part.mask_rows[np.unique(fitted.mask)] += 1
            for name, value in columns.row(sample, fitted).items():
                values[name][i] = value
        plain: dict[str, pa.Array] = {
            "sample_id": pa.array([s.sample_id for s in samples], pa.string()),
            "patient": pa.array([s.person for s in samples], pa.string()),
            "study": pa.array([s.study for s in samples], pa.string()),
            "split": pa.array([plan.split] * len(samples), pa.string()),
        }
        if columns.label_names and not columns.multilabel:
            plain["label"] = pa.array([s.label for s in samples], pa.int64())
        schema = pa.schema([pa.field(name, array.type) for name, array in plain.items()] + [t.arrow() for t in tensors.values()])
        table = pa.Table.from_arrays([*plain.values(), *(encode(t, values[name]) for name, t in tensors.items())], schema=schema)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        write_shard(str(aside), table, plan.group)
        aside.rename(path)
        return part
