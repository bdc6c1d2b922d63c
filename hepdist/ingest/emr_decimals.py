"""Decimal commas in a table that is text: which columns have them, and their numbers as every other door reads them, with a point."""

from __future__ import annotations

import re
from collections.abc import Sequence

_LIMIT = r"(?P<limit>(?:[<>]=?|[≤≥])?\s*)"
_COMMA = re.compile(rf"^{_LIMIT}(?P<whole>[-+]?(?:\d{{1,3}}(?:\.\d{{3}})+|\d+)),(?P<part>\d+)$")
_DOTS = re.compile(rf"^{_LIMIT}(?P<whole>[-+]?\d{{1,3}}(?:\.\d{{3}})+)$")
_NUMBER = re.compile(rf"^{_LIMIT}[-+]?\d+$")
MOSTLY = 0.95
"""Share of numbers with a comma, or whole ones, from which a column holds such."""


def with_points(rows: Sequence[Sequence[str]], sure: bool) -> list[list[str]]:
    """The rows with 1.5 for 1,5, 1234.5 for 1.234,5 and <0.5 for <0,5.

    sure: the comma parts no columns, as where spreadsheets write ';' because the comma is the decimal sign. Elsewhere 1,234 may be a
    thousand and more: a column's commas are decimal where nearly all of it are numbers so, and one has another count of digits than
    three after its comma.
    """
    width = max(map(len, rows), default=0)
    columns = [[row[i].strip() for row in rows if i < len(row)] for i in range(width)]
    commas = [sure or _is_decimal(column) for column in columns]
    dots = [comma and any("." in text and _COMMA.match(text) for text in column) for comma, column in zip(commas, columns, strict=True)]
    return [[_point(text, dots[i]) if commas[i] else text for i, text in enumerate(row)] for row in rows]


def _is_decimal(column: Sequence[str]) -> bool:
    texts = [text for text in column if text]
    if not any("," in text for text in texts):
        return False
    found = [match for text in texts if (match := _COMMA.match(text))]
    clear = any(len(match["part"]) != 3 or match["whole"].lstrip("+-").startswith("0") for match in found)
    plain = sum(bool(_NUMBER.match(text) or _DOTS.match(text)) for text in texts)
    return clear and len(found) + plain >= MOSTLY * len(texts)


def _point(text: str, dots: bool) -> str:
    """dots: of a column where a dot parts thousands."""
    if match := _COMMA.match(text.strip()):
        return f"{match['limit']}{match['whole'].replace('.', '')}.{match['part']}"
    if dots and (match := _DOTS.match(text.strip())):
        return f"{match['limit']}{match['whole'].replace('.', '')}"
    return text
