"""Staged samples to shards: rows in the order of sample_id, one sample and one row group in memory, each shard whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hepdist.ingest.columns import Columns
from hepdist.ingest.fit import resample, rows_of
from hepdist.ingest.stage import Staged, read_array
from hepdist.ingest.statistics import Moments, Part
from hepdist.shards.format import encode, shard_writer
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
    rows: tuple[int, ...]
    """Of each sample."""


def plan_shards(split: str, samples: Sequence[Staged], columns: Columns, first: int = 0) -> list[ShardPlan]:
    """The shards of one split, numbered from `first`; a function of the samples alone.

    The bricks of a volume stay together, also where they alone are more than a shard usually holds: a volume is resampled once,
    and whoever puts it together again reads one file.
    """
    row_bytes = sum(t.nbytes for t in columns.tensors().values()) or 1
    group = max(1, min(GROUP_ROWS, GROUP_BYTES // row_bytes))
    most = max(1, SHARD_BYTES // (row_bytes * group)) * group
    held: list[list[tuple[Staged, int]]] = []
    room = 0
    for sample in sorted(samples, key=lambda s: s.sample_id):
        rows = columns.rows(sample)
        if rows > room:
            held.append([])
            room = most
        held[-1].append((sample, rows))
        room -= rows
    return [
        ShardPlan(f"shards/{split}-{number:05d}.parquet", split, group, tuple(s for s, _ in shard), tuple(rows for _, rows in shard))
        for number, shard in enumerate(held, first)
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
        rows = sum(plan.rows)
        groups = tuple(min(plan.group, rows - g) for g in range(0, rows, plan.group))
        volumes = plan.rows if self._columns.in_bricks else ()
        return Shard(plan.name, plan.split, groups, path.stat().st_size, sha256_of(path), volumes), part

    def _digest(self, plan: ShardPlan) -> str:
        """What a shard of an earlier try must have been made from to be taken."""
        facts = json.dumps([s.to_json() for s in plan.samples]) + json.dumps(asdict(self._columns))
        return hashlib.sha256(facts.encode()).hexdigest()[:16]

    def _write(self, plan: ShardPlan, path: Path) -> Part:
        columns, tensors = self._columns, self._columns.tensors()
        part = Part(Moments(columns.layout.channels if columns.layout else 0), np.zeros(len(columns.mask_classes), np.int64))
        plain = {name: pa.string() for name in ("sample_id", "patient", "study", "split")}
        if columns.label_names and not columns.multilabel:
            plain["label"] = pa.int64()
        schema = pa.schema([*(pa.field(name, kind) for name, kind in plain.items()), *(t.arrow() for t in tensors.values())])
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        rows = self._rows(plan, part)
        with shard_writer(str(aside), schema) as writer:
            for first in range(0, sum(plan.rows), plan.group):
                count = min(plan.group, sum(plan.rows) - first)
                values = {name: np.zeros((count, *tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
                keys = []
                for i, (sample, row) in enumerate(islice(rows, count)):
                    for name, value in row.items():
                        values[name][i] = value
                    keys.append((sample.sample_id, sample.person, sample.study, plan.split, sample.label))
                named = [pa.array(column, kind) for column, kind in zip(zip(*keys, strict=True), plain.values(), strict=False)]
                arrays = [encode(tensor, values[name]) for name, tensor in tensors.items()]
                writer.write_table(pa.Table.from_arrays([*named, *arrays], schema=schema))
        aside.rename(path)
        return part

    def _rows(self, plan: ShardPlan, part: Part) -> Iterator[tuple[Staged, dict[str, Any]]]:
        """Each row's sample and tensors; `part` takes in what they hold. Of a volume in bricks it takes each voxel once, and no padding."""
        columns = self._columns
        mask_table = np.zeros(256, np.uint8)
        mask_table[list(columns.mask_values)] = range(len(columns.mask_values))
        for sample in plan.samples:
            if columns.layout is None or sample.image is None:
                yield sample, columns.row(sample, None)
                continue
            masked = sample.mask is not None and columns.mask_classes
            mask = mask_table[read_array(self._stage, sample.mask)] if sample.mask is not None and masked else None
            whole = resample(read_array(self._stage, sample.image), mask, sample, columns.layout)
            if columns.in_bricks:
                self._learn(plan, part, whole.image, whole.mask)
            for fitted in rows_of(whole, columns.layout):
                if not columns.in_bricks:
                    self._learn(plan, part, fitted.image, fitted.mask)
                yield sample, columns.row(sample, fitted)

    def _learn(self, plan: ShardPlan, part: Part, image: np.ndarray, mask: np.ndarray | None) -> None:
        if plan.split == "train":
            part.learn(image, self._most_voxels)
        if mask is not None:
            part.mask_rows[np.unique(mask)] += 1
