"""A table file as text: column names and records, from CSV, TSV, Parquet or Excel; knows nothing of what the columns mean."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hepdist.errors import IngestError
from hepdist.ingest.sample import Finding

TEXT_KINDS = (".csv", ".tsv", ".tab", ".txt", ".data")
TABLE_KINDS = (*TEXT_KINDS, ".parquet", ".xlsx", ".xlsm")
_DECIMAL_COMMA = re.compile(r"^([-+]?\d+),(\d+)$")


@dataclass
class Records:
    """What a source of EMR data holds, before anything of it is understood."""

    name: str
    """Of the file or folder, for findings."""
    names: list[str]
    rows: list[list[str]]
    """Each as many fields as `names`, except where a line is ragged."""
    files: dict[str, Path] = field(default_factory=dict)
    """Those that were read, by name; the audit hashes them."""
    findings: list[Finding] = field(default_factory=list)
    texts: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """Texts that belong to a patient and no row, by column and patient (FHIR's conditions)."""


def read_records(path: Path, header: tuple[str, ...] = ()) -> Records:
    """header: column names of a file that has none. Text is UTF-8, else GB 18030, else Windows-1252.

    Raises IngestError where the table as a whole can't be used.
    """
    if not path.is_file():
        raise IngestError("the EMR table does not exist; give the path of a CSV, TSV, Parquet or Excel file")
    kind = path.suffix.lower()
    if kind == ".parquet":
        names, rows = _read_parquet(path)
    elif kind in (".xlsx", ".xlsm"):
        names, rows = _read_excel(path, bool(header))
    elif kind in TEXT_KINDS:
        names, rows = _read_text(path, bool(header))
    else:
        raise IngestError(f"the EMR table is of unknown kind '{path.suffix}'; give a .csv, .tsv, .parquet or .xlsx file")
    if header:
        names = list(header)
    if not names or not rows:
        raise IngestError("the EMR table holds no rows")
    if all(len(row) != len(names) for row in rows):
        raise IngestError(f"the EMR table has {len(rows[0])} columns, but {len(names)} are named; give as many names in emr_header")
    names = [name.strip() or f"column {i + 1}" for i, name in enumerate(names)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        first, second = [i + 1 for i, name in enumerate(names) if name == twice[0]][:2]
        raise IngestError(f"columns {first} and {second} of the EMR table have the same name; rename one")
    return Records(path.name, names, rows, {path.name: path})


def _read_text(path: Path, headless: bool) -> tuple[list[str], list[list[str]]]:
    data = path.read_bytes()
    for encoding in ("utf-8-sig", "gb18030", "cp1252"):
        try:
            text = data.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    else:
        raise IngestError("the EMR table is no text in UTF-8, GB 18030 or Windows-1252; save it as UTF-8")
    first = text.split("\n", 1)[0]
    delimiter = max(",", "\t", ";", key=first.count)
    try:
        lines = [record for record in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if record]
    except csv.Error:
        raise IngestError("the EMR table is no valid CSV") from None
    if delimiter == ";":  # how spreadsheets write CSV where the comma is the decimal sign
        lines = [[_DECIMAL_COMMA.sub(r"\1.\2", text.strip()) for text in record] for record in lines]
    return ([], lines) if headless else (lines[0] if lines else [], lines[1:])


def _read_parquet(path: Path) -> tuple[list[str], list[list[str]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError):
        raise IngestError("the EMR table is no valid Parquet file") from None
    columns = [[_text(value) for value in column.to_pylist()] for column in table.columns]
    return table.column_names, [list(record) for record in zip(*columns, strict=True)]


def _read_excel(path: Path, headless: bool) -> tuple[list[str], list[list[str]]]:
    import pandas

    try:
        frame = pandas.read_excel(path, header=None, dtype=object, engine="openpyxl")
    except Exception:  # a damaged file can make the reader raise anything
        raise IngestError("the EMR table is no valid Excel file; save it as CSV") from None
    lines = [[_text(value) for value in record] for record in frame.itertuples(index=False)]
    return ([], lines) if headless else (lines[0] if lines else [], lines[1:])


def _text(value: Any) -> str:
    """A cell as CSV would hold it: whole numbers without a decimal point, so that a key read as 17.0 is '17'."""
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
