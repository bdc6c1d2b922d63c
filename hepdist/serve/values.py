"""EMR values as JSON to the numbers of a case: columns, units and categories as the model's cohort has them; nothing is guessed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, StrictStr, ValidationError

from hepdist.ingest.emr_columns import plain
from hepdist.ingest.emr_sequence import Packed, Visits, one_a_day, pack
from hepdist.ingest.emr_units import analyte_of, factor
from hepdist.serve.limits import Problem
from hepdist.shards.manifest import EMRColumn
from hepdist.training.saved_model import Signature

FIX = "see GET /v1/model for the columns, their units, ranges and categories"
LARGEST = float(np.finfo(np.float32).max)
MOST_COLUMNS = 1000
MOST_VISITS = 10_000


class Measured(BaseModel):
    """A number in a unit of its own, which is converted to the column's."""

    model_config = ConfigDict(extra="forbid")
    value: StrictFloat | StrictInt
    unit: Annotated[StrictStr, Field(max_length=40)]


Value = StrictFloat | StrictInt | Annotated[StrictStr, Field(max_length=200)] | Measured | None
Values = Annotated[dict[str, Value], Field(max_length=MOST_COLUMNS)]


class Visit(BaseModel):
    """What was measured on one day."""

    model_config = ConfigDict(extra="forbid")
    day: Annotated[StrictFloat | StrictInt, Field(description="Counted from any day, the same for all visits.")]
    values: Values


class Record(BaseModel):
    """The EMR of one patient: by column name a number in the column's unit, {value, unit} in another one, or a category's name."""

    model_config = ConfigDict(extra="forbid")
    values: Values = Field(default_factory=dict)
    visits: Annotated[list[Visit], Field(max_length=MOST_VISITS)] = Field(default_factory=list)


def parse_record(text: str | bytes) -> Record:
    """Raises Problem."""
    try:
        return Record.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False, include_url=False)[0]
        if first["type"] == "json_invalid":
            raise Problem(422, "the EMR is not valid JSON", 'send {"values": {...}, "visits": [{"day": 0, "values": {...}}]}') from None
        known = [str(part) for part in first["loc"] if isinstance(part, int) or part in ("values", "visits", "day", "value", "unit")]
        where = ".".join(known) or "the top level"
        raise Problem(422, f"the EMR is not of the form that is read here, at {where}: {first['type'].replace('_', ' ')}", FIX) from None


def case_values(record: Record, signature: Signature) -> tuple[dict[str, float | None], Packed | None]:
    """What a Case takes: static values by column name, and the visits packed to the model's length. Raises Problem."""
    if (record.values and not signature.emr) or (record.visits and not signature.sequence):
        what = "EMR values" if record.values and not signature.emr else "visits"
        raise Problem(422, f"the model reads no {what}", f"leave them out; {FIX}")
    emr = _read(record.values, signature.emr, "values")
    if not record.visits:
        return emr, None
    rows = [_read(visit.values, signature.sequence, f"visits.{n}.values") for n, visit in enumerate(record.visits)]
    days = [float(visit.day) for visit in record.visits]
    if not np.isfinite(days).all() or np.abs(days).max() > 1e6:
        raise Problem(422, "a visit's day is no usable number", "count days from any day within the patient's life")
    values = np.array([[np.nan if (v := row.get(c.name)) is None else v for c in signature.sequence] for row in rows], np.float64)
    average = np.array([column.kind == "number" for column in signature.sequence])
    kept, merged, _ = one_a_day(days, values, average)
    return emr, pack(Visits.of(kept, merged), signature.fields["sequence"].shape[0])


def _read(given: Mapping[str, Value], columns: tuple[EMRColumn, ...], where: str) -> dict[str, float | None]:
    by_name = {column.name: column for column in columns} | {plain(column.name): column for column in columns}
    found: dict[str, float | None] = {}
    for position, (name, value) in enumerate(given.items(), 1):
        column = by_name.get(name) or by_name.get(plain(name))
        if column is None:  # not quoted: it may be anything
            raise Problem(422, f"{where}: key {position} is no column of the model, which has {', '.join(c.name for c in columns)}", FIX)
        if column.name in found:
            raise Problem(422, f"{where}: column '{column.name}' is given twice", "give each column once")
        found[column.name] = None if value is None else _number(value, column, where)
    return found


def _number(value: float | int | str | Measured, column: EMRColumn, where: str) -> float:
    name = f"{where}: column '{column.name}'"
    if column.categories:
        if isinstance(value, Measured) or str(value) not in column.categories:
            raise Problem(422, f"{name} takes one of {', '.join(column.categories)}", FIX)
        return float(column.categories.index(str(value)))
    scale = 1.0
    if isinstance(value, Measured):
        known = factor(value.unit, column.unit, analyte_of(plain(column.name)))
        if known is None:
            raise Problem(422, f"{name} is in '{column.unit}', to which the unit given can't be converted", FIX)
        value, scale = value.value, known
    if isinstance(value, str):
        raise Problem(422, f"{name} takes a number", FIX)
    number = float(value) * scale
    if not np.isfinite(number) or abs(number) > LARGEST:
        raise Problem(422, f"{name} takes a finite number", FIX)
    if (column.low is not None and number < column.low) or (column.high is not None and number > column.high):
        low, high = ("any" if limit is None else f"{limit:g}" for limit in (column.low, column.high))
        raise Problem(422, f"{name} takes {low} to {high} {column.unit}".rstrip(), "check value and unit; leave out what is not known")
    return number
