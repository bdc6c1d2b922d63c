"""A table that names image files and says whose they are and of which class, and how its rows find the images; other data are EMR (emr.py)."""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import PurePosixPath

from hepdist.errors import IngestError
from hepdist.ingest.emr_columns import is_missing, plain
from hepdist.ingest.emr_read import TableFiles, read_records
from hepdist.ingest.emr_rows import FILE_KEYS, PATIENT_KEYS
from hepdist.ingest.files import Files, is_hidden
from hepdist.ingest.sample import Finding
from hepdist.ingest.spec import IngestSpec

LABEL_KEYS = ("label", "class", "finding", "diagnosis", "target", "category", "标签", "类别", "诊断")
SITE_KEYS = ("site", "institution", "hospital", "center", "centre", "医院", "机构", "院区")
DATE_KEYS = ("date", "study_date", "acquisition_date", "检查日期", "拍摄日期", "日期")
DATES = ("%Y%m%d", "%Y/%m/%d", "%d.%m.%Y", "%B %d, %Y", "%b %d, %Y", "%Y-%m", "%Y")
"""Besides ISO 8601; a day such as 01/02/2020 is no date, since it is two. A month or year alone is its first day."""


@dataclass(frozen=True)
class Entry:
    """What one row says of its image; empty where it says nothing."""

    label: str | None = None
    patient: str = ""
    site: str = ""
    date: datetime.date | None = None


@dataclass
class LabelTable:
    """Rows by the file they name."""

    name: str
    """Relative to the source, or as the option gave it."""
    inside: bool
    """Whether it is one of the source's files."""
    patients: bool
    """Whether it has a column of patients."""
    rows: list[tuple[int, str, Entry]]
    """Row number (1 for the first below the header), file, what it says."""
    findings: list[Finding] = field(default_factory=list)
    quiet: bool = False
    """Its rows are told of by another door, which reads the same table."""

    def match(self, images: Mapping[str, Iterable[str]]) -> tuple[dict[str, list[Entry]], list[Finding]]:
        """Entries of each image, one a patient, and findings about the table: rows of no image, and rows said twice.

        images: the names by which a row may call each. Two rows of one image and patient that differ in the class leave it
        unlabelled: nobody knows which is right.
        """
        by_name: dict[str, list[str]] = defaultdict(list)
        for image, names in images.items():
            for name in set(names):
                by_name[name].append(image)
        found: dict[str, dict[str, Entry]] = defaultdict(dict)
        findings = [*([Finding(self.name, "ingested")] if self.inside else []), *self.findings]
        for number, file, entry in self.rows:
            targets = by_name.get(file) or by_name.get(PurePosixPath(file).name, [])
            row = f"{self.name}#{number}"
            if len(targets) != 1:
                reason = "names no image of the source" if not targets else "names several images of the source"
                findings.append(Finding(row, "quarantined", "unknown-image", reason))
            elif (earlier := found[targets[0]].get(entry.patient)) is None:
                found[targets[0]][entry.patient] = entry
            elif earlier.label == entry.label:
                findings.append(Finding(row, "quarantined", "duplicate-row", "the image has a row already"))
            else:
                found[targets[0]][entry.patient] = replace(earlier, label=None)
                reason = "the image has a row of another class already; it is left unlabelled"
                findings.append(Finding(row, "quarantined", "ambiguous", reason))
        return {image: list(entries.values()) for image, entries in found.items()}, [] if self.quiet else findings


def find_table(files: Files, spec: IngestSpec) -> LabelTable | None:
    """The table that `labels_table` names, else an EMR table whose rows are of images and name their patients, else the only one of the
    source that has a file and a label column.

    Raises IngestError where the one named can't be used.
    """
    if spec.labels_table is not None:
        inside = [spec.labels_table] if spec.labels_table in files.names else files.below(spec.labels_table)
        there = TableFiles.among(files, inside[:1], "") or TableFiles.at(spec.labels_table)
        if there is None or len(inside) > 1 or len(there.names) > 1:
            raise IngestError(
                f"ingest key 'labels_table' is '{spec.labels_table}', which is no file; give a path or URI, or a name inside the source"
            )
        table = _read(there, inside[0] if inside else spec.labels_table, bool(inside), spec)
        if table is None:
            raise IngestError(
                "the label table has no rows or lacks a column of files or of labels; name them with file_key=COLUMN label=COLUMN"
            )
        return table
    if spec.emr is not None and spec.emr_key == "image" and (whose := _owners(files, spec.emr, spec)):
        return whose
    if spec.emr is not None and spec.label is not None:  # the label is in the EMR table
        return None
    tables = []
    for name in files.names:
        if name.lower().endswith((".csv", ".tsv")) and not is_hidden(name):
            try:
                table = _read(TableFiles(files, {name: name}, name), name, True, spec)
            except (IngestError, OSError):
                continue
            if table is not None:
                tables.append(table)
    if len(tables) > 1:
        raise IngestError(f"the source holds {len(tables)} label tables; name one with labels_table=TABLE.csv")
    return tables[0] if tables else None


def _owners(files: Files, name: str, spec: IngestSpec) -> LabelTable | None:
    """Whose the images are that the EMR table's rows are of, and when and where they were taken; None where it names no patients.

    Without it each image would be a patient, and two of one patient might train and test.
    """
    there = TableFiles.at(name) or TableFiles.among(files, files.below(name), name.rstrip("/"))
    try:
        table = _read(there, name, False, spec, labels=False) if there is not None and len(there.names) == 1 else None
    except IngestError:  # what is wrong with it is told where its values are read
        return None
    return replace(table, quiet=True) if table is not None and table.patients else None


def _read(there: TableFiles, name: str, inside: bool, spec: IngestSpec, *, labels: bool = True) -> LabelTable | None:
    """The table; name: what it is called. None where it lacks a column of files, or of the labels that are to be read from it."""
    names, records = _records(there)
    named = {plain(n): i for i, n in reversed(list(enumerate(names)))}

    def pick(given: str | None, usual: tuple[str, ...]) -> int | None:
        if given is not None:
            return names.index(given) if given in names else None
        return next((named[plain(u)] for u in usual if plain(u) in named), None)

    file, label, patient, site, date = (
        pick(given, usual)
        for given, usual in (
            (spec.file_key, FILE_KEYS),
            (spec.label, LABEL_KEYS),
            (spec.patient_key, PATIENT_KEYS),
            (spec.site_key, SITE_KEYS),
            (spec.date_key, DATE_KEYS),
        )
    )
    for key, given, place in (
        ("patient_key", spec.patient_key, patient),
        ("site_key", spec.site_key, site),
        ("date_key", spec.date_key, date),
    ):
        if given is not None and place is None and spec.labels_table is not None and spec.emr is None:
            raise IngestError(f"ingest key '{key}' is '{given}', which is no column of the label table; name one of its columns")
    if file is None or (labels and label is None):
        return None
    table = LabelTable(name, inside, patient is not None, [])
    for number, record in enumerate(records, 1):
        if len(record) != len(names):
            reason = f"{len(record)} fields where the header has {len(names)}"
            table.findings.append(Finding(f"{name}#{number}", "quarantined", "ragged-row", reason))
            continue

        def cell(column: int | None, record: Sequence[str] = record) -> str:
            text = record[column].strip() if column is not None else ""
            return "" if is_missing(text) else text

        said = record[label].strip() if labels and label is not None else None
        entry = Entry(said, cell(patient), cell(site), date_of(cell(date)))
        if patient is not None and not entry.patient:
            table.findings.append(Finding(f"{name}#{number}", "quarantined", "no-patient-key", "the row names no patient"))
        else:
            table.rows.append((number, cell(file), entry))
    return table


def _records(table: TableFiles) -> tuple[list[str], list[list[str]]]:
    try:
        records = read_records(table)
    except IngestError:  # speaks of an EMR table
        raise IngestError("the label table holds no rows, or is no table; give a CSV, TSV, Parquet or Excel file with a header") from None
    return records.names, records.rows


@lru_cache(1 << 12)
def date_of(text: str) -> datetime.date | None:
    """The day that a cell names, in ISO 8601 or one of the common unambiguous ways; None where it names none."""
    try:
        return datetime.datetime.fromisoformat(text).date()
    except ValueError:
        pass
    for form in DATES:
        try:
            return datetime.datetime.strptime(text, form).date()
        except ValueError:
            continue
    return None
