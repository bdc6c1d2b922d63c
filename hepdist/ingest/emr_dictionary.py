"""The data dictionary of an EMR table, as a YAML file declares it: what each column is, in which unit, and how it says that it knows nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import field_validator, model_validator

from hepdist.errors import IngestError
from hepdist.ingest.emr_columns import name_and_unit, plain
from hepdist.ingest.emr_units import ANALYTES, Analyte, analyte_of, factor
from hepdist.ingest.files import file_at
from hepdist.spec import Spec, parse


class ColumnEntry(Spec):
    """One column. What is not said is inferred from the header and the values."""

    name: str | None = None
    """What the feature is called; None: the header without its unit."""
    type: Literal["number", "category", "ordinal", "ignore"] | None = None
    """category: one of a few values, none more than another; ordinal: one of a few values in an order; ignore: no feature."""
    unit: str | None = None
    """In which the table holds it, such as mg/dL; None: as the header says."""
    unit_column: str | None = None
    """Column that holds the unit of each row's value; a blank there means `unit`."""
    to: str | None = None
    """Unit to convert to; None: kept as it is."""
    analyte: str | None = None
    """What is measured, where the name doesn't tell: it fixes the molar mass."""
    low: float | None = None
    """Smallest value that can be true, in the unit that the feature ends up with; a smaller one becomes missing."""
    high: float | None = None
    missing: tuple[str, ...] = ()
    """Codes that mean 'no value' in this column, such as 999."""
    categories: dict[str, str] = {}  # noqa: RUF012 (pydantic copies it)
    """Meaning of each code, in the order of their index; a plain list means itself."""

    @field_validator("categories", mode="before")
    @classmethod
    def _list(cls, value: Any) -> Any:
        return {str(v): str(v) for v in value} if isinstance(value, list) else value

    @model_validator(mode="after")
    def _sense(self) -> ColumnEntry:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}; swap them")
        if self.analyte is not None and analyte_of(plain(self.analyte)) is None:
            raise ValueError(f"analyte '{self.analyte}' is unknown; known are {', '.join(a.name for a in ANALYTES)}")
        if self.categories and self.type == "number":
            raise ValueError("a number has no categories; set type: category or ordinal")
        return self

    def measured(self, header: str) -> Analyte | None:
        """The analyte of the column under `header`."""
        return analyte_of(plain(self.analyte or self.name or name_and_unit(header)[0]))


class Dictionary(Spec):
    """The columns of a table by their header."""

    header: tuple[str, ...] = ()
    """Column names of a file that has no header."""
    key: str | None = None
    """Column that names the patient (or study or image, as emr_key says); 'row' where each row is a patient."""
    time: str | None = None
    """Column with the day or date of a visit; 'none' where the rows are no visits."""
    label: str | None = None
    """Column that holds the class."""
    missing: tuple[str, ...] = ()
    """Codes that mean 'no value' in every column."""
    others: Literal["infer", "ignore"] = "infer"
    """What becomes of columns that are not declared."""
    columns: dict[str, ColumnEntry] = {}  # noqa: RUF012 (pydantic copies it)

    @model_validator(mode="after")
    def _convertible(self) -> Dictionary:
        for header, entry in self.columns.items():
            source = entry.unit or name_and_unit(header)[1]
            if entry.to is None or (not source and entry.unit_column):
                continue
            if not source:
                raise ValueError(f"column '{header}' has no unit to convert from; say unit: beside to: {entry.to}")
            if factor(source, entry.to, entry.measured(header)) is None:
                raise ValueError(
                    f"column '{header}' can't be converted from {source} to {entry.to}; check both, or say what is measured with analyte:"
                )
        return self


def load_dictionary(path: Path | str) -> Dictionary:
    """Raises IngestError where there is no such YAML file, RecipeError where a key of it is wrong."""
    place, name = file_at(path)
    try:
        data = place.read(name)
    except OSError:
        raise IngestError(f"ingest key 'emr_dictionary' is '{path}', which is no file; give the path or URI of a YAML file") from None
    try:
        values = yaml.load(data.decode("utf-8"), Loader=yaml.BaseLoader)  # all text: no: stays 'no', 01 stays '01'
    except (yaml.YAMLError, UnicodeDecodeError):
        raise IngestError(f"ingest key 'emr_dictionary' is '{path}', which is no YAML in UTF-8; check its indentation") from None
    if not isinstance(values, dict):
        raise IngestError(f"ingest key 'emr_dictionary' is '{path}', which holds no keys; it needs columns: with one entry a column")
    dictionary: Dictionary = parse(Dictionary, values, what="dictionary")
    return dictionary
