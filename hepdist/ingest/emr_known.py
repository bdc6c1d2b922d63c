"""The EMR columns of a cohort that is added to: which of them a table's columns are, whatever few rows alone would make of those."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hepdist.errors import IngestError
from hepdist.ingest.emr_columns import name_and_unit
from hepdist.ingest.emr_dictionary import ColumnEntry
from hepdist.ingest.emr_features import Feature
from hepdist.ingest.emr_rows import Roles
from hepdist.ingest.pseudonym import Pseudonyms
from hepdist.shards.manifest import EMRColumn


@dataclass(frozen=True)
class ColumnKey:
    """What a column is recognised by: pseudonyms of its name, its unit and its categories, since a manifest may not tell all of them."""

    name: str
    unit: str
    categories: tuple[str, ...]

    @classmethod
    def of(cls, column: EMRColumn, names: Pseudonyms) -> ColumnKey:
        """column: as the source calls it."""
        return cls(
            names.of("column name", column.name),
            names.of("column unit", column.unit),
            tuple(names.of("column category", category) for category in column.categories),
        )


@dataclass(frozen=True)
class KnownColumns:
    emr: tuple[EMRColumn, ...]
    """The static ones as the manifest has them: kind, unit, categories and range are decided."""
    sequence: tuple[EMRColumn, ...]
    """Those of visits."""
    keys: tuple[ColumnKey, ...]
    """Of all, the static ones first."""
    names: Pseudonyms

    def feature(self, index: int, header: str, entry: ColumnEntry, texts: Sequence[str], unit_index: int | None) -> Feature | str:
        """The feature of the cohort that a table's column is, or the reason why it is none.

        entry: what the dictionary says of it. texts: what occurs in it. unit_index: the column that holds the unit of each row.
        """
        if entry.type == "ignore":
            return "the dictionary leaves it out"
        name, unit = name_and_unit(header)
        called = [self.names.of("column name", text) for text in ((entry.name,) if entry.name else (header, name))]
        found = min(((called.index(key.name), i) for i, key in enumerate(self.keys) if key.name in called), default=None)
        if found is None:
            return "the cohort doesn't have it"
        column, key = (*self.emr, *self.sequence)[found[1]], self.keys[found[1]]
        unit = entry.unit if entry.unit is not None else unit
        if self.names.of("column unit", unit) == key.unit:
            unit = column.unit  # the manifest doesn't tell every unit
        if column.kind == "number":
            feature = Feature(index, column, {}, True, unit, unit_index, entry.measured(header), frozen=True)
            return feature if unit_index is not None or feature.factor() is not None else "its unit can't be converted to the cohort's"
        places = {category: float(place) for place, category in enumerate(key.categories)}
        meanings = entry.categories or {text: text for text in texts}
        coded = {code: places.get(self.names.of("column category", meaning)) for code, meaning in meanings.items()}
        codes = {code: place for code, place in coded.items() if place is not None}
        return Feature(index, column, codes, bool(entry.categories), unit, frozen=True)

    def with_time(self, roles: Roles) -> Roles:
        """The roles in a table of visits, even where each patient has one, if the cohort holds visits.

        Raises IngestError where no column says their day.
        """
        if not self.sequence:
            return roles
        if roles.time is None:
            raise IngestError("the cohort holds visits, but no column of the EMR table says their day; name it with emr_time=COLUMN")
        return replace(roles, time_asked=True)
