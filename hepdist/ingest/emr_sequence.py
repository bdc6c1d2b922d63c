"""A patient's visits as a sequence: days and dates read, visits of one day made one, and sequences cut or padded to one length."""

from __future__ import annotations

import calendar
import datetime
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hepdist.ingest.emr_columns import number, plain

TIME_KEYS = (
    "day", "days", "visit_day", "study_day", "date", "visit_date", "exam_date", "sample_date", "collection_date", "observation_date",
    "datetime", "timestamp", "日期", "就诊日期", "检查日期", "采样日期", "检验日期",
)  # fmt: skip
"""Headers that say when a visit was, as `plain` writes them."""
MOSTLY_DAYS = 0.95
"""Share of readable days or dates from which a column holds them."""
USUAL_SHARE = 95
"""Percentile of the numbers of visits that the usual length is: the longest histories would cost all others padding."""

_YEAR_FIRST = re.compile(r"^(\d{4})[-/.年](\d{1,2})[-/.月](\d{1,2})日?(?:[T ].*)?$")
_COMPACT = re.compile(r"^((?:19|20)\d{2})(\d{2})(\d{2})$")
_YEAR_LAST = re.compile(r"^(\d{1,2})([-/.])(\d{1,2})\2(\d{4})(?: .*)?$")
_DAY_MONTH = re.compile(r"^(\d{1,2})[-/ .]+([A-Za-z]{3,9})[-/ .,]+(\d{4})(?: .*)?$")
_MONTH_DAY = re.compile(r"^([A-Za-z]{3,9})[ .]+(\d{1,2}),? +(\d{4})(?: .*)?$")
_LIKE_A_DATE = re.compile(r"^(\d{1,4}([-/.])\d{1,2}\2\d{1,4}|\d{1,2}[-/ .]+[A-Za-z]{3,9}[-/ .,]+\d{2,4})( .*)?$")
_MONTHS = [name.lower() for name in calendar.month_name]


@dataclass(frozen=True)
class Visits:
    """One patient, oldest visit first, one visit a day."""

    days: np.ndarray
    """float64[t], since the first visit."""
    values: np.ndarray
    """float32[t, F], raw units, 0 where missing."""
    missing: np.ndarray
    """uint8[t, F], 1 where missing."""

    @classmethod
    def of(cls, days: np.ndarray, values: np.ndarray) -> Visits:
        """days: float64[t], from any origin, rising; values: float64[t, F], NaN where missing."""
        missing = np.isnan(values)
        return cls(days - days[0], np.where(missing, 0, values).astype(np.float32), missing.astype(np.uint8))


class Packed(NamedTuple):
    """One patient's sequence in the cohort's length T: visits first, then zeros with everything missing."""

    values: np.ndarray
    """float32[T, F], 0 where missing."""
    missing: np.ndarray
    """uint8[T, F], 1 where missing, and after the last visit."""
    gap_days: np.ndarray
    """float32[T], since the visit before; 0 for the first one kept."""
    steps: int
    """Visits kept, at most T."""


def pack(visits: Visits, length: int) -> Packed:
    """The last `length` visits: the newest say most about the patient now."""
    days, values, missing = visits.days[-length:], visits.values[-length:], visits.missing[-length:]
    steps, features = values.shape
    packed = Packed(np.zeros((length, features), np.float32), np.ones((length, features), np.uint8), np.zeros(length, np.float32), steps)
    packed.values[:steps] = np.where(missing, 0, values)
    packed.missing[:steps] = missing
    packed.gap_days[1:steps] = np.diff(days)
    return packed


def usual_length(visits: Iterable[Visits]) -> int:
    """The 95th percentile of the numbers of visits, at least 1; what `emr_visits` is unless it is given."""
    lengths = [len(v.days) for v in visits]
    return int(np.percentile(lengths, USUAL_SHARE, method="inverted_cdf")) if lengths else 1


def one_a_day(days: Sequence[float], values: np.ndarray, average: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int]]]:
    """One patient's rows as float64[t] days and float64[t, F] values of visits, oldest first, and (row, earlier row) that were made one.

    days: of each row, in any order; values: float64[rows, F], NaN where missing; average: bool[F], features whose values of
    one day are averaged; of the others the day's last is kept.
    """
    order = sorted(range(len(days)), key=lambda row: days[row])  # stable: rows of one day stay in the table's order
    groups: list[list[int]] = []
    for row in order:
        if groups and math.floor(days[row]) == math.floor(days[groups[-1][0]]):
            groups[-1].append(row)
        else:
            groups.append([row])
    merged = np.stack([_one(values[group], average) for group in groups])
    return np.array([days[group[0]] for group in groups]), merged, [(row, group[0]) for group in groups for row in group[1:]]


def read_days(texts: Sequence[str]) -> list[float | None] | None:
    """Each text as a day, from day numbers or dates in the one format that the column is written in; None for the texts that aren't.

    None as a whole where too few can be read, or where 3/4/2020 could be March or April throughout.
    """
    present = [t for t in texts if t]
    if not present:
        return None
    enough = MOSTLY_DAYS * len(present)
    formats: tuple[Callable[[str], float | None], ...] = (_compact, number, _year_first, _named)
    for day_of in formats:
        if sum(day_of(t) is not None for t in present) >= enough:
            return [day_of(t) if t else None for t in texts]
    day_first, month_first = ([_year_last(t, first) for t in texts] for first in ("day", "month"))
    reads = [days for days in (day_first, month_first) if sum(d is not None for d in days) >= enough]
    return reads[0] if len(reads) == 1 or (reads and reads[0] == reads[1]) else None


def look_like_dates(texts: Sequence[str]) -> bool:
    """Whether nearly all texts are dates in some way of writing them, though nobody may know which is the day and which the month."""
    present = [t for t in texts if t]
    return bool(present) and sum(bool(_LIKE_A_DATE.match(t)) for t in present) >= MOSTLY_DAYS * len(present)


def time_column(names: Sequence[str]) -> int | None:
    """The first column whose header says that it holds days or dates of visits."""
    found = {plain(name): index for index, name in reversed(list(enumerate(names)))}
    return next((found[key] for key in TIME_KEYS if key in found), None)


def _one(rows: np.ndarray, average: np.ndarray) -> np.ndarray:
    """float64[rows, F] to float64[F], over what is there."""
    there = ~np.isnan(rows)
    count = there.sum(0)
    mean = np.where(count > 0, np.where(there, rows, 0).sum(0) / np.maximum(count, 1), np.nan)
    last = np.where(count > 0, rows[len(rows) - 1 - there[::-1].argmax(0), np.arange(rows.shape[1])], np.nan)
    return np.where(average, mean, last)


def _date(year: str, month: str, day: str) -> float | None:
    try:
        return float(datetime.date(int(year), int(month), int(day)).toordinal())
    except ValueError:
        return None


def _compact(text: str) -> float | None:
    match = _COMPACT.match(text)
    return _date(*match.groups()) if match else None


def _year_first(text: str) -> float | None:
    match = _YEAR_FIRST.match(text)
    return _date(*match.groups()) if match else None


def _named(text: str) -> float | None:
    """3-Jan-2020, 03 January 2020 and January 3, 2020."""
    if match := _DAY_MONTH.match(text):
        day, month, year = match.groups()
    elif match := _MONTH_DAY.match(text):
        month, day, year = match.groups()
    else:
        return None
    month = "sep" if month.lower() == "sept" else month.lower()
    index = next((i for i, name in enumerate(_MONTHS) if name and month in (name, name[:3])), None)
    return None if index is None else _date(year, str(index), day)


def _year_last(text: str, first: str) -> float | None:
    match = _YEAR_LAST.match(text)
    if match is None:
        return None
    one, dot, two, year = match.groups()
    if first == "day":
        return _date(year, two, one)
    return None if dot == "." else _date(year, one, two)  # 03.04.2020 is written by those who put the day first
