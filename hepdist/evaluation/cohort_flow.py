"""What became of every file and where every patient went, from a cohort's manifest and audit; numbers only, no drawing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from hepdist.place import place_of
from hepdist.shards.manifest import SPLITS, Manifest


@dataclass(frozen=True)
class LeftOut:
    """Files that one check kept out."""

    outcome: str
    """'quarantined' or 'ignored'."""
    check: str
    reason: str
    """The sentence that most of them share."""
    files: int


@dataclass(frozen=True)
class SplitFlow:
    split: str
    rows: int
    """Or volumes, where the cohort is in bricks."""
    patients: int
    classes: dict[str, int]
    """Rows by class; empty where rows have no class label."""


@dataclass(frozen=True)
class CohortFlow:
    found: int
    ingested: int
    left_out: tuple[LeftOut, ...]
    """Most frequent first."""
    splits: tuple[SplitFlow, ...]

    @property
    def rows(self) -> int:
        return sum(split.rows for split in self.splits)

    @property
    def patients(self) -> int:
        return sum(split.patients for split in self.splits)  # a patient lives in one split


def cohort_flow(cohort_folder: str | Path, manifest: Manifest) -> CohortFlow:
    """Files by outcome (from audit.parquet, whose rows are files) and rows and patients by split (from the manifest)."""
    with place_of(cohort_folder).open_input("audit.parquet") as file:
        audit = pq.read_table(file, columns=["outcome", "check", "reason"]).to_pylist()
    checks = Counter((row["outcome"], row["check"]) for row in audit if row["outcome"] != "ingested")
    sentences = {key: Counter(row["reason"] for row in audit if (row["outcome"], row["check"]) == key) for key in checks}
    left_out = [LeftOut(*key, reason=sentences[key].most_common(1)[0][0], files=files) for key, files in checks.items()]
    splits = [
        SplitFlow(
            split,
            counts.get("volumes", counts["rows"]),
            counts["patients"],
            {name: counts["classes"][name] for name in manifest.label_names},
        )
        for split in SPLITS
        if (counts := manifest.counts.get(split))
    ]
    ingested = sum(row["outcome"] == "ingested" for row in audit)
    return CohortFlow(
        len(audit), ingested, tuple(sorted(left_out, key=lambda item: (item.outcome == "ignored", -item.files, item.check))), tuple(splits)
    )
