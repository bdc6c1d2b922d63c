"""The table of diagnoses, predictions or counts, row by row: what is understood is a report, what isn't goes to quarantine."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from hepdist.errors import IngestError
from hepdist.ingest.emr_read import Records, TableFiles, read_records
from hepdist.surveillance.quarantine import Quarantine
from hepdist.surveillance.spec import SurveilSpec
from hepdist.surveillance.weeks import read_day, sunday, week_of

YES = frozenset({"1", "1.0", "true", "yes", "y", "positive", "pos", "+", "阳性", "是"})
NO = frozenset({"0", "0.0", "false", "no", "n", "negative", "neg", "-", "阴性", "否"})
ONLY = "all"
"""Name of the one site of a table without sites."""
ALL_SITES = "all sites"
"""Name of the series of their sum; no site may have it."""
MOST_SITES = 500
YEARS_BACK = 20


@dataclass(frozen=True)
class Report:
    """One row that counts: a person, or many of one day and site."""

    row: int
    day: date
    site: str
    cases: int
    tested: int | None
    """None: nobody counted those who were not cases."""
    patient: str = ""


@dataclass(frozen=True)
class Reports:
    rows: list[Report]
    until: date
    """Last day that the table is whole for."""
    records: int
    """In the table."""
    persons: bool
    """Each row is one."""


@dataclass(frozen=True)
class Columns:
    """Positions of what is read; None: the table hasn't it."""

    date: int
    site: int | None
    value: int
    kind: str
    """'case', 'probability' or 'count'."""
    tested: int | None
    patient: int | None


Value = Callable[[Sequence[str]], tuple[int, int | None] | str]
"""Cases and tested of a record, or what is wrong with it as 'check: reason'."""


def read_reports(path: str, spec: SurveilSpec, threshold: float | None, quarantine: Quarantine, today: date) -> Reports:
    """The reports of the table at `path` (CSV, TSV, Parquet or Excel), in its order.

    Raises IngestError where the table as a whole can't be used: missing, no columns of that name, no row that counts.
    """
    records = _records(path)
    columns = _columns(records.names, spec)
    if columns.kind == "probability" and threshold is None:
        raise IngestError("surveil needs a threshold for the column of probabilities; give threshold=0.5, or run=FOLDER for the run's own")
    value = _value(columns, spec, threshold)
    found: list[tuple[Report, bool]] = []
    for number, record in enumerate(records.rows, start=1):
        if len(record) != len(records.names):
            quarantine.add(number, "ragged", "", f"the row has {len(record)} fields, the header {len(records.names)}")
            continue
        day = read_day(record[columns.date], spec.date_format)
        if day is None:
            blank = not record[columns.date].strip()
            reason = "there is no date" if blank else "the date is of no known form or does not exist; see date_format"
            quarantine.add(number, "date-missing" if blank else "date-unreadable", records.names[columns.date], reason)
            continue
        site = ONLY if columns.site is None else " ".join(record[columns.site].split())
        if not site:
            quarantine.add(number, "site-missing", spec.site, "there is no site")
            continue
        read = value(record)
        if isinstance(read, str):
            check, reason = read.split(": ", 1)
            quarantine.add(
                number, check, records.names[columns.tested if check == "tested" and columns.tested is not None else columns.value], reason
            )
            continue
        patient = record[columns.patient].strip() if columns.patient is not None else ""
        found.append((Report(number, day, site, *read, patient), "W" in record[columns.date]))
    if spec.positive and columns.kind == "case" and found and not any(report.cases for report, _ in found):
        column = records.names[columns.value]
        raise IngestError(f"no row has {' or '.join(map(repr, spec.positive))} in column '{column}'; give positive= values that it holds")
    return _in_time(found, records, columns, spec, quarantine, today)


def _records(path: str) -> Records:
    table = TableFiles.at(path)
    if table is None:
        raise IngestError(f"there is no table at '{path}'; give a .csv, .tsv, .parquet or .xlsx file")
    try:
        return read_records(table)
    except IngestError as error:  # its sentences are about the EMR table of an ingest
        raise IngestError(str(error).replace("the EMR table", "the table", 1).replace("in emr_header", "in the header")) from None


def _columns(names: list[str], spec: SurveilSpec) -> Columns:
    def position(name: str, key: str) -> int:
        if name not in names:
            raise IngestError(f"the table has no column '{name}'; give {key}=COLUMN, one of: {', '.join(names[:20])}")
        return names.index(name)

    def usual(given: str, key: str) -> int | None:
        return position(given, key) if given else names.index(key) if key in names else None

    given = {kind: name for kind in ("case", "probability", "count") if (name := getattr(spec, kind))}
    present = given or {kind: kind for kind in ("case", "probability", "count") if kind in names}
    if len(present) != 1:
        what = (
            f"has the columns {', '.join(present)}; say which one counts"
            if present
            else "has no column case, probability or count; name it"
        )
        raise IngestError(f"the table {what} with case=, probability= or count=COLUMN")
    ((kind, column),) = present.items()
    dates = "week" if spec.date == "date" and "date" not in names and "week" in names else spec.date
    sites = None if not spec.site or (spec.site == "site" and "site" not in names) else position(spec.site, "site")
    return Columns(
        position(dates, "date"), sites, position(column, kind), kind,
        usual(spec.tested, "tested") if kind == "count" else None, usual(spec.patient, "patient") if kind != "count" else None,
    )  # fmt: skip


def _value(columns: Columns, spec: SurveilSpec, threshold: float | None) -> Value:
    positive = {name.casefold() for name in spec.positive}

    def case(record: Sequence[str]) -> tuple[int, int | None] | str:
        text = record[columns.value].strip()
        if not text:
            return "case-missing: it is not said whether this is a case"
        if positive:
            return int(text.casefold() in positive), 1
        if text.lower() in YES | NO:
            return int(text.lower() in YES), 1
        return "case-unknown: the value means neither case nor none; name the values of cases with positive="

    def probability(record: Sequence[str]) -> tuple[int, int | None] | str:
        try:
            chance = float(record[columns.value])
        except ValueError:
            return "probability: it is no number"
        assert threshold is not None
        return (int(chance >= threshold), 1) if 0 <= chance <= 1 else "probability: it is not between 0 and 1"

    def count(record: Sequence[str]) -> tuple[int, int | None] | str:
        cases = _whole(record[columns.value])
        if cases is None:
            return "count: it is no whole number of cases"
        if columns.tested is None:
            return cases, None
        tested = _whole(record[columns.tested])
        if tested is None:
            return "tested: it is no whole number"
        return (cases, tested) if cases <= tested else "tested: there are more cases than tested"

    return {"case": case, "probability": probability, "count": count}[columns.kind]


def _whole(text: str) -> int | None:
    return int(float(text)) if re.fullmatch(r"\s*\d{1,9}(\.0*)?\s*", text) else None


def _in_time(
    found: list[tuple[Report, bool]], records: Records, columns: Columns, spec: SurveilSpec, quarantine: Quarantine, today: date
) -> Reports:
    """Those whose day can be: neither in the future, nor after what the table covers, nor long ago."""
    column, persons = records.names[columns.date], columns.kind != "count"
    past: list[tuple[Report, bool]] = []
    for report, weekly in found:
        if report.day > today:
            quarantine.add(report.row, "date-future", column, "the date is in the future")
        else:
            past.append((report, weekly))
    if not past:
        raise IngestError(
            f"no row of the table counts ({len(quarantine.rows)} were left out, most for: {_most(quarantine)}); check the options"
        )
    newest = max(report.day for report, _ in past)
    told_by_day = persons and not all(weekly for _, weekly in past)  # of persons all seen on one weekday, the newest day is the last one
    until = min(spec.until or (newest if told_by_day else _covered(past, newest)), today)
    try:
        earliest = spec.since or until.replace(year=until.year - YEARS_BACK)
    except ValueError:  # 29 February
        earliest = until - timedelta(days=round(YEARS_BACK * 365.25))
    kept = []
    for report, _ in past:
        if report.day > until:
            quarantine.add(
                report.row, "date-after", column, f"the date is after {until}, the last day that the table is taken as whole for"
            )
        elif report.day < earliest:
            quarantine.add(report.row, "date-before", column, f"the date is before {earliest}; see since")
        else:
            kept.append(report)
    sites = {report.site for report in kept}
    if any(site.casefold() == ALL_SITES for site in sites):
        raise IngestError(f"the table has rows of '{ALL_SITES}', which would count what the sites' own rows count already; leave them out")
    if not kept:
        raise IngestError(f"no row of the table counts: none is from {earliest} to {until}; check since and until")
    if len(sites) > MOST_SITES:
        raise IngestError(
            f"column '{spec.site}' holds {len(sites)} different sites; name the column of the site with site=COLUMN, or site= for none"
        )
    return Reports(kept, until, len(records.rows), persons)


def _covered(past: list[tuple[Report, bool]], newest: date) -> date:
    """Of counts by week (ISO weeks, or all dates on one weekday) the last week's Sunday, else the last day."""
    days = {report.day for report, _ in past}
    by_week = all(weekly for _, weekly in past) or (len(days) > 1 and len({day.weekday() for day in days}) == 1)
    return sunday(week_of(newest)) if by_week else newest


def _most(quarantine: Quarantine) -> str:
    return next(iter(quarantine.by_check()), "nothing")
