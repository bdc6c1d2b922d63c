"""EMR tables as numbers: one row a patient, columns described, labels apart, and what was left out in findings; joins nothing to images."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hepdist.errors import IngestError
from hepdist.ingest.emr_columns import describe, in_order, is_missing, name_and_unit, number, plain
from hepdist.ingest.sample import Finding
from hepdist.shards.manifest import EMRColumn

PATIENT_KEYS = ("patient_id", "patientid", "patient", "patient_key", "subject_id", "subject", "mrn", "pid", "case_id", "case", "id")
"""Headers that name the patient, as `plain` writes them; the first that is there is taken."""
BY_ROW = "row"


@dataclass
class EMRTable:
    """Raw keys and raw units: nothing here is pseudonymous or normalised yet."""

    columns: tuple[EMRColumn, ...]
    """The features, in the order of the table."""
    rows: dict[str, dict[str, float | None]]
    """By patient key and column name; a category is its index in `categories`, None is missing."""
    labels: dict[str, str] = field(default_factory=dict)
    """By patient key; a patient without one is unlabelled."""
    label_names: tuple[str, ...] = ()
    """The classes: the negative one first ('no', 'normal'), numbers by value, else by letter."""
    findings: list[Finding] = field(default_factory=list)
    """Rows and columns left out: 'duplicate-row', 'no-patient-key', 'ragged-row', 'not-a-feature', 'not-a-number', 'rare-category'."""
    numbers: dict[str, int] = field(default_factory=dict)
    """Row number of each patient, from 1 for the first below the header."""

    def row_of(self, patient: str) -> int:
        """The row number of a patient, as findings write it ('TABLE#row')."""
        return self.numbers[patient]


def read_table(
    path: Path | str,
    *,
    patient_key: str | None = None,
    label: str | None = None,
    columns: Sequence[str] = (),
    header: Sequence[str] = (),
    missing: Sequence[str] = (),
    unlabelled: Sequence[str] = (),
) -> EMRTable:
    """Read a CSV, TSV, Parquet or Excel table.

    patient_key: column that names the patient, or 'row' where each row is one; None: the first of the usual names.
    label: column that holds the class; it is no feature. columns: the features to keep; empty: all that can be one.
    header: column names of a file without a header. missing: texts that mean 'no value' besides blank, ?, NA, NaN, null and
    the like (such as 999). unlabelled: label texts that mean 'not known'.
    Text is UTF-8, else GB 18030, else Windows-1252. Raises IngestError where the table as a whole can't be used.
    """
    path = Path(path)
    names, records = _read(path, tuple(header))
    key_column = _key_column(names, patient_key)
    label_column = None if label is None else _column(names, label, "label")
    wanted = {_column(names, name, "emr_columns") for name in columns}
    table = EMRTable((), {})
    declared = frozenset(missing)
    kept: dict[str, list[str]] = {}
    for row, record in enumerate(records, 1):
        where = f"{path.name}#{row}"
        if len(record) != len(names):
            table.findings.append(Finding(where, "quarantined", "ragged-row", f"{len(record)} fields where the header has {len(names)}"))
            continue
        values = ["" if is_missing(text, declared) else text for text in (t.strip() for t in record)]
        key = str(row) if key_column is None else values[key_column]
        if not key:
            table.findings.append(Finding(where, "quarantined", "no-patient-key", "the row names no patient"))
        elif key not in kept:
            kept[key] = values
            table.numbers[key] = row
        elif kept[key] == values:
            table.findings.append(Finding(where, "ignored", "duplicate-row", f"the same as row {table.numbers[key]}"))
        else:
            reason = f"differs from row {table.numbers[key]} of the same patient, which is used"
            table.findings.append(Finding(where, "quarantined", "duplicate-row", reason))
    if not kept:
        raise IngestError(f"table '{path.name}' holds no row with a patient; check the file or name its column with patient_key=COLUMN")
    table.rows = {key: {} for key in kept}
    if label_column is not None:
        table.labels = {k: v[label_column] for k, v in kept.items() if v[label_column] and v[label_column] not in unlabelled}
        table.label_names = in_order(list(table.labels.values()))
    for index, name in enumerate(names):
        if index not in (key_column, label_column) and (not wanted or index in wanted):
            _add_column(table, path.name, names, index, {key: values[index] for key, values in kept.items()})
        elif wanted and index not in (key_column, label_column):
            table.findings.append(
                Finding(f"{path.name}#{name}", "ignored", "not-a-feature", f"column {index + 1} is not among those asked for")
            )
    return table


def _add_column(table: EMRTable, table_name: str, names: list[str], index: int, texts: dict[str, str]) -> None:
    """One column's values into the rows, or the finding that says why it is no feature."""
    header = names[index]
    if plain(header) in PATIENT_KEYS:
        column: EMRColumn | str = "its header names an identifier or a date"
    else:
        column = describe(header, [t for t in texts.values() if t])
    if isinstance(column, str):
        reason = f"column {index + 1} is no feature: {column}"
        table.findings.append(Finding(f"{table_name}#{header}", "ignored", "not-a-feature", reason))
        return
    if sum(name_and_unit(other)[0] == column.name for other in names) > 1:  # alt_u_l beside alt: both keep their whole header
        column = replace(column, name=header)
    indices = {category: float(i) for i, category in enumerate(column.categories)}
    check = "not-a-number" if column.kind == "number" else "rare-category"
    lost = 0
    for key, text in texts.items():
        value = number(text) if column.kind == "number" else indices.get(text)
        table.rows[key][column.name] = value
        if text and value is None:
            lost += 1
            reason = (
                f"column {index + 1} holds {'no number' if column.kind == 'number' else 'a value that no other row has'}; taken as missing"
            )
            table.findings.append(Finding(f"{table_name}#{table.numbers[key]}", "ignored", check, reason))
    blank = sum(not text for text in texts.values()) + lost
    table.columns += (replace(column, missing_share=blank / len(texts)),)


def _key_column(names: list[str], asked: str | None) -> int | None:
    """Index of the column that names the patient; None: each row is one."""
    if asked is not None:
        return None if asked == BY_ROW and BY_ROW not in names else _column(names, asked, "patient_key")
    found = {plain(name): index for index, name in reversed(list(enumerate(names)))}
    for usual in PATIENT_KEYS:
        if usual in found:
            return found[usual]
    raise IngestError(
        f"no column of the table names the patient; name it with patient_key=COLUMN, one of {', '.join(names)},"
        f" or set patient_key={BY_ROW} where each row is a patient"
    )


def _column(names: list[str], asked: str, option: str) -> int:
    if asked in names:
        return names.index(asked)
    alike = [i for i, name in enumerate(names) if plain(name) == plain(asked) or name_and_unit(name)[0] == asked]
    if len(alike) == 1:
        return alike[0]
    near = difflib.get_close_matches(asked, names, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(names)}"
    raise IngestError(f"ingest key '{option}' names column '{asked}', which the table doesn't have; {hint}")


def _read(path: Path, header: tuple[str, ...]) -> tuple[list[str], list[list[str]]]:
    """Header and records as text. Raises IngestError."""
    if not path.is_file():
        raise IngestError(f"table '{path}' does not exist; give the path of a CSV, TSV, Parquet or Excel file")
    kind = path.suffix.lower()
    if kind == ".parquet":
        names, records = _read_parquet(path)
    elif kind in (".xlsx", ".xlsm"):
        names, records = _read_excel(path, bool(header))
    elif kind in (".csv", ".tsv", ".tab", ".txt", ".data"):
        names, records = _read_text(path, bool(header))
    else:
        raise IngestError(f"table '{path}' is of unknown kind '{path.suffix}'; give a .csv, .tsv, .parquet or .xlsx file")
    if header:
        names = list(header)
    if not names or not records:
        raise IngestError(f"table '{path}' holds no rows")
    names = [name.strip() or f"column {i + 1}" for i, name in enumerate(names)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise IngestError(f"table '{path}' has two columns named '{twice[0]}'; rename one")
    return names, records


def _read_text(path: Path, headless: bool) -> tuple[list[str], list[list[str]]]:
    data = path.read_bytes()
    for encoding in ("utf-8-sig", "gb18030", "cp1252"):
        try:
            text = data.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    else:
        raise IngestError(f"table '{path}' is no text in UTF-8, GB 18030 or Windows-1252; save it as UTF-8")
    first = text.split("\n", 1)[0]
    delimiter = max(",", "\t", ";", key=first.count)
    try:
        lines = [record for record in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if record]
    except csv.Error as error:
        raise IngestError(f"table '{path}' is no valid CSV ({error})") from None
    return ([], lines) if headless else (lines[0] if lines else [], lines[1:])


def _read_parquet(path: Path) -> tuple[list[str], list[list[str]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except pa.ArrowException:
        raise IngestError(f"table '{path}' is no valid Parquet file") from None
    columns = [[_text(value) for value in column.to_pylist()] for column in table.columns]
    return table.column_names, [list(record) for record in zip(*columns, strict=True)]


def _read_excel(path: Path, headless: bool) -> tuple[list[str], list[list[str]]]:
    if find_spec("openpyxl") is None:
        raise IngestError(f"table '{path}' is an Excel file, which needs openpyxl; pip install openpyxl, or save it as CSV")
    import pandas

    try:
        frame = pandas.read_excel(path, header=None, dtype=object, engine="openpyxl")
    except Exception:  # a damaged file can make the reader raise anything
        raise IngestError(f"table '{path}' is no valid Excel file; save it as CSV") from None
    lines = [[_text(value) for value in record] for record in frame.itertuples(index=False)]
    return ([], lines) if headless else (lines[0] if lines else [], lines[1:])


def _text(value: Any) -> str:
    """A cell as CSV would hold it: whole numbers without a decimal point, so that a key read as 17.0 is '17'."""
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
