"""Repeated visits of a patient: which rows tell of the same case again."""

from __future__ import annotations

from collections import defaultdict
from datetime import date

from hepdist.surveillance.quarantine import Quarantine
from hepdist.surveillance.table import Report


def first_visits(reports: list[Report], days: int, column: str, quarantine: Quarantine) -> list[Report]:
    """The rows that count once each patient's case counts once, in the order given; the others go to quarantine as 'repeated'.

    A row is a repetition where the same patient, at any site, had a counted case at most `days` before (or on) that day, or, for a row
    that is no case, a counted row of any outcome. So a case after a negative test counts, and a case that goes on counts again only
    after `days`. Rows without a patient all count.
    """
    if not days:
        return reports
    by_patient: dict[str, list[Report]] = defaultdict(list)
    for report in reports:
        if report.patient:
            by_patient[report.patient].append(report)
    repeated: set[int] = set()
    for rows in by_patient.values():
        last_case = last_any = date.min
        for report in sorted(rows, key=lambda report: (report.day, -report.cases)):  # of one day, the case first
            if (report.day - (last_case if report.cases else max(last_case, last_any))).days <= days:
                repeated.add(report.row)
                quarantine.add(report.row, "repeated", column, f"the patient had been counted within {days} days")
                continue
            last_any = report.day
            if report.cases:
                last_case = report.day
    return [report for report in reports if report.row not in repeated]
