"""A table that names image files and says whose they are and of which class, and how its rows find the images; other data are EMR (emr.py)."""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from hepdist.errors import IngestError
from hepdist.ingest.called import Called
from hepdist.ingest.emr_columns import are_whole, is_missing, plain, signed
from hepdist.ingest.emr_read import TableFiles, read_records
from hepdist.ingest.emr_rows import FILE_KEYS, LABEL_KEYS, PATIENT_KEYS
from hepdist.ingest.files import Files, is_hidden
from hepdist.ingest.sample import Finding
from hepdist.ingest.spec import IngestSpec

SITE_KEYS = ("site", "institution", "hospital", "center", "centre", "医院", "机构", "院区")
DATE_KEYS = ("date", "study_date", "acquisition_date", "检查日期", "拍摄日期", "日期")
DATES = ("%Y%m%d", "%Y/%m/%d", "%d.%m.%Y", "%B %d, %Y", "%b %d, %Y", "%d-%b-%Y", "%d %b %Y", "%d %B %Y", "%Y-%m", "%Y")
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
    names_patients: bool
    """Whether it has a column of patients."""
    rows: list[tuple[int, str, Entry]]
    """Row number (1 for the first below the header), file, what it says."""
    findings: list[Finding] = field(default_factory=list)
    labelled: bool = True
    """Whether it is read for labels. Else it is the EMR table and says whose the images are alone; its rows are told of where they are read."""
    owners: LabelTable | None = None
    """The EMR table that says whose the images are, where this one may not."""
    columns: tuple[str, ...] = ()
    """As its header names them."""

    @property
    def patients(self) -> bool:
        """Whether it, or the EMR table beside it, says whose the images are."""
        return self.names_patients or self.owners is not None

    def match(self, images: Mapping[str, Iterable[str]]) -> tuple[dict[str, list[Entry]], list[Finding]]:
        """Entries of each image, one a patient, and findings about the table: rows of no image, and rows said twice.

        images: the names by which a row may call each. Two rows of one image and patient that differ in the class leave it
        unlabelled: nobody knows which is right. What a row doesn't say of whose an image is and of where and when it was taken,
        `owners` may.
        """
        entries, findings = self._match(images)
        if self.owners is None:
            return entries, findings
        owned, _ = self.owners.match(images)
        for image, whose in owned.items():
            said = entries.get(image, [])
            if len(said) == 1 and not said[0].patient:
                entries[image] = [
                    replace(said[0], patient=w.patient, site=said[0].site or w.site, date=said[0].date or w.date) for w in whose
                ]
            elif not said:
                entries[image] = whose
        return entries, findings

    def _match(self, images: Mapping[str, Iterable[str]]) -> tuple[dict[str, list[Entry]], list[Finding]]:
        called = Called(images)
        found: dict[str, dict[str, Entry]] = defaultdict(dict)
        findings = [*([Finding(self.name, "ingested")] if self.inside else []), *self.findings]
        for number, file, entry in self.rows:
            targets = called(file)
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
        return {image: list(entries.values()) for image, entries in found.items()}, findings if self.labelled else []


def find_table(files: Files, spec: IngestSpec) -> LabelTable | None:
    """The table that says of which class the images are (`find_labels`). Where the EMR table's rows are of images and name their
    patients, those are its `owners`, or all there is.

    Raises IngestError where the one named can't be used.
    """
    emr = frozenset(files.below(spec.emr)) if spec.emr is not None and spec.emr_key == "image" else frozenset()
    table = find_labels(files, spec, FILE_KEYS, emr)
    owners = _owners(files, spec.emr, spec) if spec.emr is not None and spec.emr_key == "image" else None
    there = [t for t in (table, owners) if t is not None]
    if owners is not None and spec.patient_key is not None and all(spec.patient_key not in t.columns for t in there):
        of = "the EMR table" if table is None else "the EMR table or the label table"
        raise IngestError(f"ingest key 'patient_key' is '{spec.patient_key}', which is no column of {of}; name one of its columns")
    if owners is None or not owners.names_patients:
        return table
    return owners if table is None else replace(table, owners=owners)


def find_labels(files: Files, spec: IngestSpec, keys: tuple[str, ...], skip: frozenset[str]) -> LabelTable | None:
    """The label table that the options name, else the only one of the source.

    keys: headers of the column that says what a row is of, the best first. skip: files of the source that are none. Raises IngestError.
    """
    if spec.labels_table is not None:
        return _named(files, spec.labels_table, spec, keys)
    return _only(files, spec, keys, skip)


def _named(files: Files, name: str, spec: IngestSpec, keys: tuple[str, ...]) -> LabelTable:
    inside = [name] if name in files.names else files.below(name)
    there = TableFiles.among(files, inside[:1], "") or TableFiles.at(name)
    if there is None or len(inside) > 1 or len(there.names) > 1:
        raise IngestError(f"ingest key 'labels_table' is '{name}', which is no file; give a path or URI, or a name inside the source")
    table = _read(there, inside[0] if inside else name, bool(inside), spec, keys)
    if table is None:
        raise IngestError(
            "the label table has no rows or lacks a column of files or of labels; name them with file_key=COLUMN label=COLUMN"
        )
    return table


def _only(files: Files, spec: IngestSpec, keys: tuple[str, ...], skip: frozenset[str]) -> LabelTable | None:
    """The label table of the source, where it has one."""
    if spec.emr is not None and spec.label is not None:  # the label is in the EMR table
        return None
    tables = []
    for name in files.names:
        if name.lower().endswith((".csv", ".tsv")) and not is_hidden(name) and name not in skip:
            try:
                table = _read(TableFiles(files, {name: name}, name), name, True, spec, keys)
            except (IngestError, OSError):
                continue
            if table is not None:
                tables.append(table)
    if len(tables) > 1:
        raise IngestError(f"the source holds {len(tables)} label tables; name one with labels_table=TABLE.csv")
    return tables[0] if tables else None


def _owners(files: Files, name: str, spec: IngestSpec) -> LabelTable | None:
    """Whose the images are that the EMR table's rows are of, and when and where they were taken; None where it names no images.

    Without it each image would be a patient, and two of one patient might train and test.
    """
    there = TableFiles.at(name) or TableFiles.among(files, files.below(name), name.rstrip("/"))
    try:
        table = _read(there, name, False, spec, FILE_KEYS, labels=False) if there is not None and len(there.names) == 1 else None
    except IngestError:  # what is wrong with it is told where its values are read
        return None
    return replace(table, labelled=False) if table is not None else None


def _read(there: TableFiles, name: str, inside: bool, spec: IngestSpec, keys: tuple[str, ...], *, labels: bool = True) -> LabelTable | None:
    """The table; name: what it is called. None where it lacks a column of `keys`, or of the labels that are to be read from it."""
    names, records = _records(there)
    named = {plain(n): i for i, n in reversed(list(enumerate(names)))}

    def pick(given: str | None, usual: tuple[str, ...], or_usual: bool = False) -> int | None:
        if given is not None and (given in names or not or_usual):
            return names.index(given) if given in names else None
        return next((named[plain(u)] for u in usual if plain(u) in named), None)

    file, label = pick(spec.file_key, keys), pick(spec.label, LABEL_KEYS)
    beside = spec.emr is not None  # then a key may name the column of the other table
    patient = pick(spec.patient_key, PATIENT_KEYS, beside)
    site, date = pick(spec.site_key, SITE_KEYS, beside), pick(spec.date_key, DATE_KEYS, beside)
    for key, given, place in (
        ("patient_key", spec.patient_key, patient),
        ("site_key", spec.site_key, site),
        ("date_key", spec.date_key, date),
    ):
        if given is not None and place is None and spec.labels_table is not None and spec.emr is None:
            raise IngestError(f"ingest key '{key}' is '{given}', which is no column of the label table; name one of its columns")
    if file is None or (labels and label is None):
        return None
    table = LabelTable(name, inside, patient is not None, [], columns=tuple(names))
    codes = signed(record[label].strip() for record in records if label is not None and len(record) == len(names))
    for number, record in enumerate(records, 1):
        if len(record) != len(names):
            reason = f"{len(record)} fields where the header has {len(names)}"
            table.findings.append(Finding(f"{name}#{number}", "quarantined", "ragged-row", reason))
            continue

        def cell(column: int | None, record: Sequence[str] = record) -> str:
            text = record[column].strip() if column is not None else ""
            return "" if is_missing(text) else text

        said = None
        if labels and label is not None:
            said = "" if is_missing(text := record[label].strip(), signed=codes) else text
        entry = Entry(said, cell(patient), cell(site), date_of(cell(date)))
        if patient is not None and not entry.patient:
            table.findings.append(Finding(f"{name}#{number}", "quarantined", "no-patient-key", "the row names no patient"))
        else:
            table.rows.append((number, cell(file), entry))
    if are_whole(entry.patient for _, _, entry in table.rows):
        table.rows = [(n, file, replace(entry, patient=entry.patient.removesuffix(".0"))) for n, file, entry in table.rows]
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
