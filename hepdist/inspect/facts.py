"""The facts of a cohort on disk, read from its shards and its audit rather than believed from its manifest."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hepdist.place import Place, place_of
from hepdist.shards.format import decode
from hepdist.shards.manifest import SPLITS, Manifest, damaged_shards

AUDIT = "audit.parquet"


@dataclass(frozen=True)
class SplitFacts:
    """What the intact shards of one split hold."""

    patients: frozenset[str]
    studies: int
    rows: int
    cases: int
    """Rows, or volumes of a cohort in bricks."""
    classes: dict[str, int]
    """Cases by class name, in the order of the classes; empty where the cohort has no class labels."""
    unlabelled: int
    missing: np.ndarray
    """int64[F]: cases without a value, by EMR column."""


@dataclass(frozen=True)
class Facts:
    """Everything that `hepdist inspect` says."""

    manifest: Manifest
    splits: dict[str, SplitFacts]
    """By split; only those that have shards."""
    damaged: tuple[tuple[str, str], ...]
    """(shard, reason) of those that fail the check of size and sha256; their rows are in none of the counts."""
    outcomes: dict[str, int]
    """Files by outcome: ingested, quarantined, ignored."""
    left_out: tuple[tuple[str, str, str, int], ...]
    """(outcome, check, reason, files), most frequent first."""

    @property
    def straddlers(self) -> int:
        """Patients in more than one split; training refuses a cohort that has any."""
        seen = Counter(patient for split in self.splits.values() for patient in split.patients)
        return sum(count > 1 for count in seen.values())

    @property
    def missing_shares(self) -> list[float]:
        """By EMR column, over all cases."""
        cases = sum(split.cases for split in self.splits.values())
        return [float(sum(split.missing[i] for split in self.splits.values())) / max(cases, 1) for i in range(len(self.manifest.emr))]

    @property
    def sound(self) -> bool:
        return not self.damaged and not self.straddlers


def gather(cohort: str | Path | Place) -> Facts:
    """Check every shard's sha256, then read the plain columns of the intact ones. Raises CohortError where there is no cohort."""
    place = place_of(cohort)
    manifest = Manifest.load(place)
    damaged = tuple((shard.path, reason) for shard, reason in damaged_shards(place, manifest))
    bad = {path for path, _ in damaged}
    intact = {split: [s.path for s in manifest.of(split) if s.path not in bad] for split in SPLITS if manifest.of(split)}
    audit = _read(place, AUDIT, ["outcome", "check", "reason"]) if place.exists(AUDIT) else None
    outcomes, left_out = _audit(audit)
    return Facts(manifest, {split: _split(place, manifest, names) for split, names in intact.items()}, damaged, outcomes, left_out)


def _split(place: Place, manifest: Manifest, names: list[str]) -> SplitFacts:
    there = {"label": manifest.label_names, "emr_missing": manifest.emr, "brick": manifest.in_bricks}
    columns = ["patient", "study", *(name for name, needed in there.items() if needed)]
    tables = [_read(place, name, columns) for name in names]
    patients = frozenset(p for table in tables for p in table["patient"].to_pylist())
    studies = len({s for table in tables for s in table["study"].to_pylist() if s})
    rows = sum(table.num_rows for table in tables)
    if manifest.in_bricks:
        tables = [table.filter(pa.array(decode(manifest.fields["brick"], table["brick"])[:, 0] == 0)) for table in tables]
    cases = sum(table.num_rows for table in tables)
    missing = np.zeros(len(manifest.emr), np.int64)
    for table in tables if manifest.emr else []:
        missing += decode(manifest.fields["emr_missing"], table["emr_missing"]).astype(np.int64).sum(axis=0)
    classes = np.zeros(len(manifest.label_names), np.int64)
    unlabelled = 0
    for table in tables if manifest.label_names else []:
        if manifest.multilabel:
            classes += decode(manifest.fields["label"], table["label"]).astype(np.int64).sum(axis=0)
        else:
            labels = table["label"].drop_null().to_numpy()
            classes += np.bincount(labels, minlength=len(classes))
            unlabelled += table.num_rows - len(labels)
    return SplitFacts(patients, studies, rows, cases, dict(zip(manifest.label_names, classes.tolist(), strict=True)), unlabelled, missing)


def _read(place: Place, name: str, columns: list[str]) -> pa.Table:
    with place.reaching(), place.open_input(name) as file:
        return pq.read_table(file, columns=columns)


def _audit(audit: pa.Table | None) -> tuple[dict[str, int], tuple[tuple[str, str, str, int], ...]]:
    if audit is None:
        return {}, ()
    found = Counter(zip(*(audit[name].to_pylist() for name in ("outcome", "check", "reason")), strict=True))
    outcomes: Counter[str] = Counter()
    for (outcome, _, _), files in found.items():
        outcomes[outcome] += files
    left_out = sorted(((*why, files) for why, files in found.items() if why[0] != "ingested"), key=lambda row: (row[0], -row[3], row[1:3]))
    return dict(sorted(outcomes.items())), tuple(left_out)
