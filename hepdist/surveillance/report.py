"""What `hepdist surveil` says on the terminal: what became of the rows, and what is above its threshold."""

from __future__ import annotations

from hepdist.surveillance.page import number, records
from hepdist.surveillance.run import Outcome


def lines(outcome: Outcome) -> list[str]:
    left_out = ", ".join(f"{number:,} {check}" for check, number in outcome.left_out.items())
    counted = outcome.records - sum(outcome.left_out.values())
    said = [
        f"rows: {outcome.records:,} read, {counted:,} counted, {sum(outcome.left_out.values()):,} left out{f' ({left_out})' if left_out else ''}"
    ]
    last = outcome.judged.last
    if last < 0:
        return [*said, "no week is whole; nothing is judged"]
    week = outcome.table["week"].drop_duplicates().iloc[last]
    rows = outcome.table[outcome.table["week"] == week]
    flagged = rows[rows["alert"].fillna(False)]
    said.append(f"week {week}: {len(flagged)} of {len(outcome.judged.latest())} judged series above the threshold")
    for row in records(flagged):
        cases, expected, upper = row["hidden"] or row["observed"], number(row["expected"], 1), number(row["upper"], 1)
        said.append(f"  {row['site']}: cases {cases}, expected {expected}, threshold {upper} ({row['method']})")
    return said
