"""The audit: what became of every file found, under pseudonyms; what is written as COHORT/audit.parquet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hepdist.ingest.pseudonym import Pseudonyms
from hepdist.ingest.sample import Finding
from hepdist.ingest.stage import Staged

AUDIT = "audit.parquet"
FIELDS = ("file", "source_sha256", "outcome", "check", "reason", "study", "series")
"""What the fields of a Row are called in the file."""
COLUMNS = ("source_sha256", "file", "outcome", "check", "reason", "study", "series")
"""The same in the order of the file."""


@dataclass(frozen=True)
class Row:
    """A finding once its names are pseudonyms."""

    file: str
    sha256: str
    """Of the file's bytes; empty where it can't be read or isn't a file of its own."""
    outcome: str
    check: str = ""
    reason: str = ""
    study: str = ""
    series: str = ""


def row_of(finding: Finding, names: Pseudonyms, sha256: Callable[[str], str]) -> Row:
    return Row(
        names.of("file", finding.file), finding.sha256 or sha256(finding.file), finding.outcome, finding.check, finding.reason,
        names.of("study", finding.study) if finding.study else "", names.of("series", finding.series) if finding.series else "",
    )  # fmt: skip


def rows_of(sample: Staged, outcome: str, check: str = "", reason: str = "") -> list[Row]:
    """The same outcome for each file of a sample; one that is a part of a larger file is named by its own key."""
    files = sample.files or ((sample.sample_id, ""),)
    return [Row(file, sha256, outcome, check, reason, sample.study, sample.series) for file, sha256 in files]


class Audit:
    """One row a file, the last one that was made of it; beside them, the rows of the cohort that is added to."""

    def __init__(self, earlier: Sequence[Row] = ()) -> None:
        self._rows: dict[str, Row] = {}
        self._earlier = earlier

    def add(self, row: Row) -> None:
        """Replaces what was found of the same file before; a study, series or hash known by then is kept."""
        earlier = self._rows.get(row.file)
        if earlier is not None:
            row = replace(
                row, study=row.study or earlier.study, series=row.series or earlier.series, sha256=row.sha256 or earlier.sha256
            )  # fmt: skip
        self._rows[row.file] = row

    def rows(self) -> list[Row]:
        """All, in a fixed order that is that of pseudonyms, so that not even the order of names gets out."""
        return sorted(_joined(self._earlier, list(self._rows.values())), key=astuple)

    def counts(self) -> dict[str, int]:
        """Files by outcome, and by check where one failed."""
        total: Counter[str] = Counter({"ingested": 0, "quarantined": 0, "ignored": 0})
        for row in self.rows():
            total[row.outcome] += 1
            if row.check:
                total[row.check] += 1
        return dict(sorted(total.items()))

    def commonest(self) -> str:
        """The check and reason that most quarantined files share."""
        reasons = Counter(f"{row.check}: {row.reason}" for row in self._rows.values() if row.outcome == "quarantined")
        return reasons.most_common(1)[0][0] if reasons else "no image was found"

    def write(self, path: Path) -> None:
        rows = [astuple(row) for row in self.rows()]
        table = pa.table({name: pa.array([row[i] for row in rows], pa.string()) for i, name in enumerate(FIELDS)})
        pq.write_table(table.select(COLUMNS), path)


def read_audit(path: Path) -> list[Row]:
    """The rows of a cohort's audit. Raises KeyError where somebody took a column out."""
    table = pq.read_table(path)
    return [Row(*values) for values in zip(*(table[name].to_pylist() for name in FIELDS), strict=True)]


def _joined(earlier: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """The earlier rows, and those of the new that say something else: of files, or file contents, that were not there before.

    A file that was found with the same bytes before keeps its row, unless it was left out then and is ingested now. So does a part of
    a file (which has no hash), unless files with new bytes were found: its own may be one of them.
    """
    if not earlier:
        return list(new)
    known = {(row.file, row.sha256): row for row in earlier}
    fresh = any(row.sha256 and (row.file, row.sha256) not in known for row in new)
    found = dict.fromkeys(earlier)
    for row in new:
        before = known.get((row.file, row.sha256))
        if not fresh and not row.sha256 and row.check == "duplicate":  # of a file that was read before, so it is there by its own doing
            continue
        if before is None or (fresh and not row.sha256):
            found[row] = None
        elif row.outcome == "ingested" and before.outcome != "ingested":
            del found[before]
            found[row] = None
    return list(found)
