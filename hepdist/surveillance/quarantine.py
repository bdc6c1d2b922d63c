"""Rows of the table that are not counted, with the reason: OUT/quarantine.csv. Values are never repeated, since any cell may name a patient."""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class LeftOut:
    row: int
    """Record of the table, the first after the header being 1."""
    check: str
    column: str
    reason: str


@dataclass
class Quarantine:
    rows: list[LeftOut] = field(default_factory=list)

    def add(self, row: int, check: str, column: str, reason: str) -> None:
        self.rows.append(LeftOut(row, check, column, reason))

    def by_check(self) -> dict[str, int]:
        """Rows by what was wrong, the most frequent first."""
        return dict(Counter(entry.check for entry in self.rows).most_common())

    def text(self) -> str:
        """As CSV, in the table's order."""
        lines = io.StringIO()
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(("row", "check", "column", "reason"))
        writer.writerows((entry.row, entry.check, entry.column, entry.reason) for entry in sorted(self.rows, key=lambda entry: entry.row))
        return lines.getvalue()
