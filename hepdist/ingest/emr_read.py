"""A table as text: column names and records, from a CSV, TSV, Parquet or Excel file anywhere; knows nothing of what the columns mean."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from hepdist.errors import IngestError
from hepdist.ingest.emr_decimals import with_points
from hepdist.ingest.files import Files, NoSource, is_hidden
from hepdist.ingest.sample import Finding

TEXT_KINDS = (".csv", ".tsv", ".tab", ".txt", ".data")
_Read = tuple[list[str], list[list[str]], list[tuple[str, str, str, str]]]
"""Header, rows, and (part, outcome, check, reason) of what is left out."""
TABLE_KINDS = (*TEXT_KINDS, ".parquet", ".xlsx", ".xlsm")
_HIGH_RUN = re.compile(rb"[\x80-\xff]+")


@dataclass(frozen=True)
class TableFiles:
    """Where a table lies: one file, or the FHIR resources of a folder, on this machine, at a URI or inside an archive."""

    files: Files
    names: dict[str, str]
    """Names in `files`, by what findings call them."""
    name: str
    """Of the one file or the folder."""

    @classmethod
    def at(cls, path: str | Path) -> TableFiles | None:
        """At a path or URI; None where there is nothing. Raises IngestError for a damaged archive, StoreError for a store out of reach."""
        try:
            files = Files(path)
        except NoSource:
            return None
        return cls.among(files, files.names, files.name)

    @classmethod
    def among(cls, files: Files, names: Sequence[str], name: str) -> TableFiles | None:
        """Those files of a source that aren't hidden; name: of the folder that they are all in. None where there are none."""
        visible = [n for n in names if not is_hidden(n)]
        if len(visible) == 1:
            alone = PurePosixPath(visible[0]).name
            return cls(files, {alone: visible[0]}, alone)
        start = f"{name}/" if all(n.startswith(f"{name}/") for n in visible) else ""
        return cls(files, {n.removeprefix(start): n for n in visible}, PurePosixPath(name).name) if visible else None

    def stamp(self) -> str:
        """Differs once a file was written again. Raises OSError where one isn't there any more."""
        return "\n".join(self.files.stamp(name) for name in self.names.values())


@dataclass
class Records:
    """What a source of EMR data holds, before anything of it is understood."""

    name: str
    """Of the file or folder, for findings."""
    names: list[str]
    rows: list[list[str]]
    """Each as many fields as `names`, except where a line is ragged."""
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of those that were read, by name, for the audit."""
    findings: list[Finding] = field(default_factory=list)
    texts: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """Texts that belong to a patient and no row, by column and patient (FHIR's conditions)."""


def read_records(table: TableFiles, header: tuple[str, ...] = ()) -> Records:
    """header: column names of a file that has none. Text is UTF-16 where a byte order mark says so, UTF-8, else GB 18030 or
    Windows-1252, whichever its bytes look like. Of an Excel file all sheets of one header are read.

    Raises IngestError where the table as a whole can't be used.
    """
    if len(table.names) != 1:
        raise IngestError(
            "the EMR table is a folder of several files that aren't all FHIR resources; name one .csv, .tsv, .parquet or .xlsx file"
        )
    place = table.names[table.name]
    suffix = PurePosixPath(place).suffix
    readers = dict.fromkeys(TEXT_KINDS, _read_text) | dict.fromkeys((".xlsx", ".xlsm"), _read_excel) | {".parquet": _read_parquet}
    reader = readers.get(suffix.lower())
    if reader is None:
        raise IngestError(f"the EMR table is of unknown kind '{suffix}'; give a .csv, .tsv, .parquet or .xlsx file")
    try:
        data = table.files.read(place)
    except OSError:
        raise IngestError("the EMR table can't be read; check its permissions, and that its archive is whole") from None
    names, rows, others = reader(data, bool(header))
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
    findings = [Finding(f"{table.name}#{part}", *said) for part, *said in others]
    return Records(table.name, names, rows, {table.name: table.files.sha256(place)}, findings)


def _read_text(data: bytes, headless: bool) -> _Read:
    text = _decoded(data)
    first = text.split("\n", 1)[0]
    delimiter = max(",", "\t", ";", key=first.count)
    try:
        lines = [record for record in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if record]
    except csv.Error:
        raise IngestError("the EMR table is no valid CSV") from None
    header, rows = _split(lines, headless)
    return header, with_points(rows, sure=delimiter == ";"), []


def _decoded(data: bytes) -> str:
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # Excel's "Unicode text"
    others = ("cp1252", "gb18030") if _is_western(data) else ("gb18030", "cp1252")
    for encoding in ("utf-16",) if marked else ("utf-8-sig", *others):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise IngestError("the EMR table is no text in UTF-8, UTF-16, GB 18030 or Windows-1252; save it as UTF-8")


def _is_western(data: bytes) -> bool:
    """Whether bytes beyond ASCII stand alone between letters, as umlauts do; a Chinese character has two, so that its runs are even."""
    runs = [len(run) for run in _HIGH_RUN.findall(data)]
    return sum(length % 2 for length in runs) > len(runs) / 2


def _read_parquet(data: bytes, headless: bool) -> _Read:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError):
        raise IngestError("the EMR table is no valid Parquet file") from None
    columns = [[_text(value) for value in column.to_pylist()] for column in table.columns]
    return table.column_names, [list(record) for record in zip(*columns, strict=True)], []


def _read_excel(data: bytes, headless: bool) -> _Read:
    """All sheets of the header that most rows have, one after the other: years or wards are often kept so."""
    import pandas

    try:
        frames = pandas.read_excel(io.BytesIO(data), sheet_name=None, header=None, dtype=object, engine="openpyxl")
    except Exception:  # a damaged file can make the reader raise anything
        raise IngestError("the EMR table is no valid Excel file; save it as CSV") from None
    alike: dict[tuple[str, ...], list[list[str]]] = {}
    header_of: dict[int, tuple[str, ...]] = {}
    for number, frame in enumerate(frames.values(), 1):
        lines = _untitled([[_text(value) for value in record] for record in frame.itertuples(index=False)])
        header, rows = _split(lines, headless)
        if rows:
            header_of[number] = tuple(header) or (str(len(rows[0])),)  # of sheets without a header, those of as many columns
            alike.setdefault(header_of[number], []).extend(rows)
    if not alike:
        return [], [], []
    usual = max(alike, key=lambda header: len(alike[header]))
    others = [
        (f"sheet {number}", "ignored", "sheet", f"sheet {number} has other columns than those that are read; keep it in a file of its own")
        for number, header in header_of.items()
        if header != usual
    ]
    return [] if headless else list(usual), with_points(alike[usual], sure=False), others


def _untitled(lines: list[list[str]]) -> list[list[str]]:
    """Without empty rows, and without rows of one cell above the header, which are titles."""
    filled = [line for line in lines if any(line)]
    start = next((i for i, line in enumerate(filled) if sum(map(bool, line)) > 1), 0)
    return filled[start:]


def _split(lines: list[list[str]], headless: bool) -> tuple[list[str], list[list[str]]]:
    return ([], lines) if headless else (lines[0] if lines else [], lines[1:])


def _text(value: Any) -> str:
    """A cell as CSV would hold it: whole numbers without a decimal point, so that a key read as 17.0 is '17'."""
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
