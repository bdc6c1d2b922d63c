"""The audit: what became of every file found, under pseudonyms; what is written as COHORT/audit.parquet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hepdist.ingest.pseudonym import Pseudonyms
from hepdist.ingest.sample import Finding, Sample
from hepdist.ingest.stage import Staged

COLUMNS = ("source_sha256", "file", "outcome", "check", "reason", "study", "series")


class Audit:
    """One finding a file, the last one that was made of it."""

    def __init__(self) -> None:
        self._findings: dict[str, Finding] = {}

    def add(self, finding: Finding) -> None:
        """Replaces what was found of the same file before; a study, series or hash known by then is kept."""
        earlier = self._findings.get(finding.file)
        if earlier is not None:
            finding = replace(
                finding,
                study=finding.study or earlier.study,
                series=finding.series or earlier.series,
                sha256=finding.sha256 or earlier.sha256,
            )
        self._findings[finding.file] = finding

    def of(self, outcome: str) -> list[Finding]:
        return [f for f in self._findings.values() if f.outcome == outcome]

    def counts(self) -> dict[str, int]:
        """Files by outcome, and by check where one failed."""
        total: Counter[str] = Counter({"ingested": 0, "quarantined": 0, "ignored": 0})
        for finding in self._findings.values():
            total[finding.outcome] += 1
            if finding.check:
                total[finding.check] += 1
        return dict(sorted(total.items()))

    def commonest(self) -> str:
        """The check and reason that most quarantined files share."""
        reasons = Counter(f"{f.check}: {f.reason}" for f in self.of("quarantined"))
        return reasons.most_common(1)[0][0] if reasons else "no image was found"

    def write(self, path: Path, names: Pseudonyms, sha256: Callable[[str], str]) -> None:
        """Ordered by pseudonym, so that not even the order of names gets out."""
        rows = sorted(
            (
                names.of("file", f.file),
                f.sha256 or sha256(f.file),
                f.outcome,
                f.check,
                f.reason,
                _named(names, "study", f.study),
                _named(names, "series", f.series),
            )
            for f in self._findings.values()
        )
        order = ("file", "source_sha256", "outcome", "check", "reason", "study", "series")
        table = pa.table({name: pa.array([row[i] for row in rows], pa.string()) for i, name in enumerate(order)})
        pq.write_table(table.select(COLUMNS), path)


def findings_of(sample: Sample | Staged, outcome: str, check: str = "", reason: str = "") -> list[Finding]:
    """The same finding for each file of a sample; one that is a part of a larger file is named by its key."""
    return [Finding(name, outcome, check, reason, sample.study, sample.series) for name in sample.files or (f"#{sample.key}",)]


def _named(names: Pseudonyms, kind: str, raw: str) -> str:
    return names.of(kind, raw) if raw else ""
