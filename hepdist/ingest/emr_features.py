"""How the texts of one table column become numbers: declared or inferred type, unit, range and codes; every value lost has its reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from hepdist.ingest.emr_columns import describe, in_order, name_and_unit, number, reading, shared
from hepdist.ingest.emr_dictionary import ColumnEntry
from hepdist.ingest.emr_units import Analyte, factor, plausible
from hepdist.shards.manifest import EMRColumn

MOST_IMPLAUSIBLE = 0.05
"""Share of values outside what a patient can have from which the unit is doubted instead of the values."""


class Fault(NamedTuple):
    """What is wrong with a cell, without what it holds."""

    check: str
    reason: str


@dataclass(frozen=True)
class Feature:
    """One column that becomes an EMR feature."""

    index: int
    """Of the column in the table, from 0."""
    column: EMRColumn
    codes: dict[str, float] = field(default_factory=dict)
    """Index of each text of a category; empty for numbers."""
    declared: bool = False
    unit: str = ""
    """In which the table holds the values; `column.unit` is what they become."""
    unit_index: int | None = None
    """Column that holds the unit of each row."""
    analyte: Analyte | None = None
    doubtful: bool = False
    """The stated unit can't be right for most patients, so no built-in range was applied."""
    frozen: bool = False
    """The column is one of the cohort that is added to, with the categories that it has there."""

    def value(self, text: str, unit: str = "") -> tuple[float | None, Fault | None]:
        """A cell's number in `column.unit` and what is wrong with it; None is missing. text: not blank. unit: of the row, or blank."""
        if self.column.kind != "number":
            index = self._code(text)
            if index is not None:
                return index, None
            if self.frozen:
                return None, Fault("unknown-category", "holds a value that is none of the cohort's categories; taken as missing")
            if self.declared:
                return None, Fault("unknown-category", "holds a value that the dictionary doesn't declare; taken as missing")
            return None, Fault("rare-category", "holds a value that no other patient has; taken as missing")
        value, limit = reading(text)
        if value is None:
            return None, Fault("not-a-number", "holds no number; taken as missing")
        times = self.factor(unit)
        if times is None:
            return None, Fault(
                "unit", f"holds a value in a unit that can't be converted to {self.column.unit or 'the others'}; taken as missing"
            )
        value *= times
        if self.column.low is not None and value < self.column.low:
            return None, Fault("out-of-range", f"is below {self.column.low:g}; taken as missing")
        if self.column.high is not None and value > self.column.high:
            return None, Fault("out-of-range", f"is above {self.column.high:g}; taken as missing")
        return value, Fault("detection-limit", "says that the value is beyond a limit; the limit is used") if limit else None

    def _code(self, text: str) -> float | None:
        if text in self.codes or not self.declared:
            return self.codes.get(text)
        value = number(text)  # 1 and 1.0 are one code, as are Yes and yes
        return next(
            (i for code, i in self.codes.items() if code.lower() == text.lower() or (value is not None and number(code) == value)), None
        )

    def factor(self, unit: str = "") -> float | None:
        """From a row's unit, or where it says none the column's, to `column.unit`; None where there is no way."""
        source = unit or self.unit
        return 1.0 if source == self.column.unit else factor(source, self.column.unit, self.analyte)


def infer(index: int, header: str, texts: Sequence[str]) -> Feature | str:
    """The feature that an undeclared column is, or the reason why it is none. texts: as `describe` takes them."""
    column = describe(header, texts)
    if isinstance(column, str):
        return column
    entry = ColumnEntry()
    codes = {category: float(i) for i, category in enumerate(column.categories)}
    return _with_range(Feature(index, column, codes, False, column.unit, None, entry.measured(header)), texts)


def declare(index: int, header: str, entry: ColumnEntry, texts: Sequence[str], unit_index: int | None) -> Feature | str:
    """The same for a column of the dictionary, whose word counts more than the values."""
    if entry.type == "ignore":
        return "the dictionary leaves it out"
    named, in_header = name_and_unit(header)
    name, unit = entry.name or named, entry.unit if entry.unit is not None else in_header
    kind: str | None = entry.type or ("category" if entry.categories else "number" if _says_number(entry) else None)
    if kind is None:
        column = describe(header, texts)
        if isinstance(column, str):
            return column
        kind = column.kind
    if kind == "number":
        column = EMRColumn(name, "number", entry.to or unit, low=entry.low, high=entry.high)
        return _with_range(Feature(index, column, {}, True, unit, unit_index, entry.measured(header)), texts)
    meanings = entry.categories or {text: text for text in in_order(shared(texts))}
    if not meanings:
        return "it holds no values that two patients share"
    categories = tuple(dict.fromkeys(meanings.values()))
    codes = {code: float(categories.index(meaning)) for code, meaning in meanings.items()}
    return Feature(index, EMRColumn(name, kind, unit, categories), codes, bool(entry.categories))


def _says_number(entry: ColumnEntry) -> bool:
    return any(said is not None for said in (entry.unit, entry.unit_column, entry.to, entry.low, entry.high))


def _with_range(feature: Feature, texts: Sequence[str]) -> Feature:
    """Where no range is declared, that of the analyte, if the values agree with it as a whole."""
    column, analyte = feature.column, feature.analyte
    if column.kind != "number" or analyte is None or column.low is not None or column.high is not None:
        return feature
    limits = plausible(analyte, column.unit)
    if limits is None:
        return feature
    limited = replace(feature, column=replace(column, low=limits[0], high=limits[1]))
    if feature.unit_index is not None:  # each row says its own unit
        return limited
    faults = [limited.value(text)[1] for text in texts]
    outside = sum(fault is not None and fault.check == "out-of-range" for fault in faults)
    return limited if outside <= max(1, MOST_IMPLAUSIBLE * len(texts)) else replace(feature, doubtful=True)
