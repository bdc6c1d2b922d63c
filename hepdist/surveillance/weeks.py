"""Days and ISO weeks: how they are read, and a week as one number, so that weeks can be counted and compared."""

from __future__ import annotations

import re
from datetime import date, datetime

_WEEK = re.compile(r"(\d{4})-?W(\d{1,2})")
_DAY = re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?:[T ].*)?|(\d{4})(\d{2})(\d{2})")
YEAR = 365.2425 / 7
"""Weeks in a year: with 52, five years back is six days off."""


def week_of(day: date) -> int:
    """Weeks since the year 1, which began on a Monday; ISO weeks begin on Mondays too."""
    return (day.toordinal() - 1) // 7


def monday(week: int) -> date:
    return date.fromordinal(7 * week + 1)


def sunday(week: int) -> date:
    return date.fromordinal(7 * week + 7)


def name_of(week: int) -> str:
    """'2024-W22'."""
    year, number, _ = monday(week).isocalendar()
    return f"{year}-W{number:02d}"


def read_day(text: str, form: str = "") -> date | None:
    """The day that `text` names; of an ISO week its Monday. form: strptime's letters; without it, year first alone. None: no day."""
    text = text.strip()
    try:
        if form:
            return datetime.strptime(text, form).date()
        if found := _WEEK.fullmatch(text):
            return date.fromisocalendar(int(found[1]), int(found[2]), 1)
        if found := _DAY.fullmatch(text):
            year, month, day = (int(part) for part in found.groups() if part is not None)
            return date(year, month, day)
    except ValueError:  # 2024-02-30
        return None
    return None
