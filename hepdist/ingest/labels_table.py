"""A CSV that names image files and their labels, and how its rows find the images; patients' other data are EMR (emr.py)."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hepdist.errors import IngestError
from hepdist.ingest.files import Files, is_hidden
from hepdist.ingest.sample import Finding
from hepdist.ingest.spec import IngestSpec

FILE_KEYS = ("file", "filename", "file_name", "image", "image_path", "path", "image_id")
LABEL_KEYS = ("label", "class", "finding", "diagnosis", "target", "category")
PATIENT_KEYS = ("patient", "patient_id", "patientid", "subject", "subject_id")


@dataclass(frozen=True)
class Entry:
    """What one row says of its image."""

    label: str | None
    patient: str


@dataclass
class LabelTable:
    """Rows by the file they name."""

    name: str
    """Relative to the source, or as the option gave it."""
    inside: bool
    """Whether it is one of the source's files."""
    rows: list[tuple[str, Entry]]

    def match(self, images: Iterable[str]) -> tuple[dict[str, list[Entry]], list[Finding]]:
        """Entries of each image, and findings about the table: rows of no image, and rows said twice.

        A row names an image by its relative path, its file name, or its file name without the suffix.
        """
        by_name: dict[str, list[str]] = defaultdict(list)
        for image in images:
            path = PurePosixPath(image)
            for name in {image, path.name, path.stem}:
                by_name[name].append(image)
        found: dict[str, list[Entry]] = defaultdict(list)
        findings = [Finding(self.name, "ingested")] if self.inside else []
        for number, (file, entry) in enumerate(self.rows, start=2):
            targets = by_name.get(file, [])
            row = f"{self.name}#{number}"
            if len(targets) != 1:
                reason = "names no image of the source" if not targets else "names several images of the source"
                findings.append(Finding(row, "quarantined", "unknown-image", reason))
            elif any(e.patient == entry.patient for e in found[targets[0]]):
                findings.append(Finding(row, "quarantined", "duplicate-row", "the image has a row already"))
            else:
                found[targets[0]].append(entry)
        return dict(found), findings


def find_table(files: Files, spec: IngestSpec) -> LabelTable | None:
    """The table that `labels_table` names, else the only CSV of the source that has a file and a label column.

    Raises IngestError where the one named can't be used.
    """
    if spec.labels_table is not None:
        inside = spec.labels_table in files.names
        path = Path(spec.labels_table)
        if not inside and not path.is_file():
            raise IngestError(
                f"ingest key 'labels_table' is '{spec.labels_table}', which is no file; give a path, or a name inside the source"
            )
        data = files.read(spec.labels_table) if inside else path.read_bytes()
        rows = _rows(data, path.suffix)
        keys = _keys(rows[0].keys() if rows else (), spec)
        if keys is None:
            raise IngestError(
                "the label table has no rows or lacks a column of files or of labels; name them with file_key=COLUMN label=COLUMN"
            )
        return LabelTable(spec.labels_table, inside, _entries(rows, *keys))
    if spec.emr is not None and spec.label is not None:  # the label is in the EMR table
        return None
    tables = []
    for name in files.names:
        if name.lower().endswith((".csv", ".tsv")) and not is_hidden(name):
            try:
                rows = _rows(files.read(name), PurePosixPath(name).suffix)
            except (IngestError, OSError):
                continue
            keys = _keys(rows[0].keys() if rows else (), spec)
            if keys is not None:
                tables.append(LabelTable(name, True, _entries(rows, *keys)))
    if len(tables) > 1:
        raise IngestError(f"the source holds {len(tables)} label tables; name one with labels_table=TABLE.csv")
    return tables[0] if tables else None


def _rows(data: bytes, suffix: str) -> list[dict[str, str]]:
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig")), delimiter="\t" if suffix.lower() == ".tsv" else ",")
        return [{k: (v or "").strip() for k, v in row.items() if k is not None} for row in reader]
    except (UnicodeDecodeError, csv.Error):
        raise IngestError("the label table is not CSV in UTF-8; save it as that") from None


def _keys(columns: Iterable[str], spec: IngestSpec) -> tuple[str, str, str | None] | None:
    """The columns of file, label and (where there is one) patient; None where one of the first two is lacking."""
    named = list(columns)

    def pick(given: str | None, usual: tuple[str, ...]) -> str | None:
        if given is not None:
            return given if given in named else None
        return next((c for u in usual for c in named if c.strip().lower() == u), None)

    file, label = pick(spec.file_key, FILE_KEYS), pick(spec.label, LABEL_KEYS)
    if file is None or label is None:
        return None
    return file, label, pick(spec.patient_key, PATIENT_KEYS)


def _entries(rows: list[dict[str, str]], file: str, label: str, patient: str | None) -> list[tuple[str, Entry]]:
    return [(row[file], Entry(row[label], row[patient] if patient else "")) for row in rows]
