"""The manifest of a cohort: its columns, counts, normalisation and shards with their sha256; the one file that names it all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from hepdist.errors import CohortError
from hepdist.place import Place, place_of
from hepdist.shards.format import TensorField

SCHEMA_VERSION = 1
SPLITS = ("train", "val", "test")
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Shard:
    """One Parquet file of one split."""

    path: str
    """Relative to the cohort's folder."""
    split: str
    row_groups: tuple[int, ...]
    """Rows of each row group, in file order."""
    bytes: int
    sha256: str
    volumes: tuple[int, ...] = ()
    """Rows of each volume in file order, where the cohort is in bricks; else empty: a row is a case of its own."""

    @property
    def rows(self) -> int:
        return sum(self.row_groups)


@dataclass(frozen=True)
class EMRColumn:
    """One EMR feature: a position in the `emr` and `emr_missing` tensors."""

    name: str
    kind: str
    """'number', 'category' or 'ordinal'; the last two are stored as the index in `categories`, which an ordinal has in order."""
    unit: str = ""
    categories: tuple[str, ...] = ()
    missing_share: float = 0.0
    """Share of all rows without a value."""
    low: float | None = None
    """In `unit`; smaller values were taken as missing at ingest, as were those above `high`. None: no limit."""
    high: float | None = None


@dataclass(frozen=True)
class Manifest:
    """Deterministic for the same source, options and salt: no time stamps, no paths of the machine."""

    name: str
    source: str
    """Kind of source: 'dicom', 'medmnist', 'nifti', 'images', 'table'."""
    tensors: dict[str, dict[str, Any]]
    """By column name: dtype, shape, unit, axes, classes."""
    shards: tuple[Shard, ...]
    label_names: tuple[str, ...] = ()
    """Class names by index of the `label` column; empty where rows have no class label."""
    multilabel: bool = False
    """True: `label` is a tensor of 0/1 for each of `label_names`; else a nullable int64 class index."""
    emr: tuple[EMRColumn, ...] = ()
    sequence: tuple[EMRColumn, ...] = ()
    """Features of the visits in the `sequence` tensors."""
    counts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By split: {'rows', 'patients', 'classes': {name: rows}}; 'audit': {outcome or check: files}. A cohort in bricks has 'volumes' beside
    'rows', and its classes count volumes."""
    normalisation: dict[str, dict[str, Any]] = field(default_factory=dict)
    """From train rows only. image: {'mean': [C], 'std': [C]}; emr and sequence: {'mean': [F], 'std': [F], 'quantiles': [F][33]} over
    values that are there; quantiles are in standard deviations from the mean."""
    fingerprint: dict[str, Any] = field(default_factory=dict)
    """Facts of the data that defaults come from: median spacing and shape, intensity percentiles, ..."""
    split_rule: dict[str, Any] = field(default_factory=dict)
    """{'kind': 'hash' | 'official', 'ratio': [6, 2, 2], 'stratified': bool}."""
    label_rule: dict[str, Any] = field(default_factory=dict)
    """Where labels come from follow-up: {'horizon_days': float, 'landmarks': days after the first visit, or 'visits'}."""
    created_by: str = ""
    schema_version: int = SCHEMA_VERSION
    generation: int = 0
    """How often the cohort was added to; columns, `normalisation` and `fingerprint` are those of generation 0."""
    frozen: dict[str, Any] = field(default_factory=dict)
    """What studies that are added must be fitted to (hepdist.ingest.frozen); empty: nothing can be added."""

    @cached_property
    def fields(self) -> dict[str, TensorField]:
        return {name: TensorField.from_json(name, meaning) for name, meaning in self.tensors.items()}

    def of(self, split: str) -> list[Shard]:
        return [s for s in self.shards if s.split == split]

    def rows(self, split: str) -> int:
        return sum(s.rows for s in self.of(split))

    def row_groups(self, split: str) -> np.ndarray:
        """int64[groups, 3]: index into of(split), row group in that file, rows."""
        shards = self.of(split)
        groups = np.array([len(shard.row_groups) for shard in shards], np.int64)
        rows = np.fromiter(chain.from_iterable(shard.row_groups for shard in shards), np.int64, groups.sum())
        number = np.arange(len(rows)) - np.repeat(np.cumsum(groups) - groups, groups)
        return np.stack([np.repeat(np.arange(len(shards)), groups), number, rows], axis=1)

    @property
    def in_bricks(self) -> bool:
        """Whether a row is one brick of a volume, whose position is in `offset` and `original_shape`."""
        return "brick" in self.tensors

    def cases(self, split: str) -> np.ndarray:
        """int64[cases + 1]: the first row of each case of the split, and the number of rows; a case is a row, or all bricks of a volume."""
        rows = [np.array(shard.volumes, np.int64) if shard.volumes else np.ones(shard.rows, np.int64) for shard in self.of(split)]
        return np.cumsum(np.concatenate([np.zeros(1, np.int64), *rows]))

    def row_bytes(self) -> int:
        """Bytes of a row's tensors."""
        return sum(t.nbytes for t in self.fields.values())

    def dump(self) -> bytes:
        values = asdict(replace(self, shards=()))  # asdict copies number by number: 10 s for a million row groups
        values["shards"] = [{k: v for k, v in vars(shard).items() if k != "volumes" or v} for shard in self.shards]
        return json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False).encode()

    def sha256(self) -> str:
        """The identity of the cohort: of the manifest, which holds the sha256 of every shard."""
        return hashlib.sha256(self.dump()).hexdigest()

    def save(self, folder: str | Path | Place) -> None:
        """Written last and all at once: a folder with a manifest is a complete cohort."""
        place_of(folder).write(MANIFEST, self.dump())

    @classmethod
    def load(cls, folder: str | Path | Place) -> Manifest:
        """Raises CohortError where there is no cohort, or one of another schema version; StoreError where a store can't be asked."""
        try:
            data = place_of(folder).read(MANIFEST)
        except (FileNotFoundError, NotADirectoryError):
            raise CohortError(f"no cohort at '{folder}' (no {MANIFEST}); make one with: hepdist ingest SOURCE {folder}") from None
        try:
            values = json.loads(data)
        except ValueError as error:
            raise CohortError(f"manifest '{folder}/{MANIFEST}' is damaged ({error}); ingest the cohort again") from None
        if values.get("schema_version") != SCHEMA_VERSION:
            raise CohortError(
                f"cohort '{folder}' has schema version {values.get('schema_version')}, this hepdist reads {SCHEMA_VERSION}; ingest it again"
            )
        values["shards"] = tuple(
            Shard(**{**s, "row_groups": tuple(s["row_groups"]), "volumes": tuple(s.get("volumes", ()))}) for s in values["shards"]
        )
        for name in ("emr", "sequence"):
            values[name] = tuple(EMRColumn(**{**c, "categories": tuple(c["categories"])}) for c in values.get(name, ()))
        values["label_names"] = tuple(values["label_names"])
        return cls(**values)


def sha256_of(path: Path) -> str:
    """Of a file on this machine."""
    return place_of(path.parent).sha256(path.name)


def damaged_shards(folder: str | Path | Place, manifest: Manifest) -> Iterator[tuple[Shard, str]]:
    """The shards that are not what the manifest says, each with the reason."""
    place = place_of(folder)
    for shard in manifest.shards:
        try:
            size = place.size(shard.path)
        except FileNotFoundError:
            yield shard, "missing"
            continue
        if size != shard.bytes:
            yield shard, f"{size} bytes instead of {shard.bytes}"
        elif place.sha256(shard.path) != shard.sha256:
            yield shard, "sha256 differs"
