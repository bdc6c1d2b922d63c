"""An EMR table or FHIR resources as the whole source: samples without an image, one a patient (or landmark); their values are in `TableSource.table`."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from hepdist.errors import IngestError
from hepdist.ingest.emr_columns import plain
from hepdist.ingest.emr_known import KnownColumns
from hepdist.ingest.emr_read import TABLE_KINDS, TableFiles, read_records
from hepdist.ingest.emr_rows import column_index
from hepdist.ingest.emr_sequence import TIME_KEYS
from hepdist.ingest.fhir import DATE, FHIR_KINDS, PATIENT, is_fhir
from hepdist.ingest.files import Files, is_hidden
from hepdist.ingest.join import file_findings, read_emr
from hepdist.ingest.labels_table import DATE_KEYS, SITE_KEYS, date_of
from hepdist.ingest.sample import Finding, Sample
from hepdist.ingest.spec import IngestSpec

AT_ONCE = 1000
"""Rows of one item."""
UNSURE = (".txt", ".data")
"""Files of these names are tables where an option says so."""


class Told(NamedTuple):
    """What the table says of one future sample, besides its values."""

    key: str
    patient: str
    label: str | None
    site: str
    date: datetime.date | None
    """The first of several."""


class TableSource:
    """A CSV, TSV, Parquet or Excel file, or FHIR files; see `hepdist.ingest.emr.read_table`. Where no column names the patient, each row is one."""

    kind = "table"
    mask_classes: tuple[str, ...] = ()
    multilabel = False

    def __init__(self, files: Files, spec: IngestSpec, known: KnownColumns | None = None):
        table = _table(files)
        assert table is not None
        site, day = _placed(table, spec)
        kept = tuple(column for column in (site, day) if column is not None)
        self.table = read_emr(table, spec, by_row=True, known=known, keep=kept)
        self.label_names = self.table.label_names
        hidden = [Finding(name, "ignored", "hidden-file", "left by an operating system") for name in files.names if is_hidden(name)]
        self.findings: Sequence[Finding] = [*file_findings(self.table, table.name), *self.table.findings, *hidden]
        told = []
        sites = _one_each({patient: texts.get(site or "", []) for patient, texts in self.table.texts.items()})
        for key in self.table.rows:
            patient = self.table.patients.get(key, key)
            days = [found for text in self.table.texts.get(patient, {}).get(day or "", []) if (found := date_of(text)) is not None]
            told.append(Told(key, patient, self.table.labels.get(key), sites.get(patient, ""), min(days, default=None)))
        self.items = [tuple(told[n : n + AT_ONCE]) for n in range(0, len(told), AT_ONCE)]

    def __getstate__(self) -> dict[str, Any]:
        """What travels to a reading process: nothing, since an item is all that `read` needs."""
        return {"label_names": self.label_names}

    def read(self, item: tuple[Told, ...]) -> Iterator[Sample | Finding]:
        for row in item:
            yield Sample(key=row.key, patient=row.patient, label=row.label, site=row.site, date=row.date)


def _placed(table: TableFiles, spec: IngestSpec) -> tuple[str | None, str | None]:
    """The columns of the site and of the day by which the split asks; else those that the options name. Raises IngestError."""
    if spec.split_by == "patient" and spec.site_key is None and spec.date_key is None:
        return None, None
    names = [PATIENT, DATE] if is_fhir(table) else list(spec.emr_header) or read_records(table).names
    found = {plain(name): name for name in reversed(names)}

    def column(given: str | None, option: str, usual: tuple[str, ...], by: str) -> str | None:
        if given is not None:
            return names[column_index(names, given, option)]
        there = next((found[plain(key)] for key in usual if plain(key) in found), None)
        if there is None and spec.split_by == by:
            raise IngestError(f"split_by={by} needs the {by} of each row, and no column of the table has its name; give {option}=COLUMN")
        return there if spec.split_by == by else None

    return column(spec.site_key, "site_key", SITE_KEYS, "site"), column(spec.date_key, "date_key", (*DATE_KEYS, *TIME_KEYS), "date")


def _one_each(sites: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """One site of each patient; sites that share a patient go by the name of the first of them, since no split could part them."""
    first: dict[str, str] = {}

    def leader(site: str) -> str:
        while first.setdefault(site, site) != site:
            site = first[site]
        return site

    for there in sites.values():
        leaders = sorted({leader(site) for site in there})
        first.update(dict.fromkeys(leaders, leaders[0] if leaders else ""))
    return {patient: leader(there[0]) for patient, there in sites.items() if there}


def is_table(files: Files, spec: IngestSpec, visible: Sequence[str]) -> bool:
    """Whether the source is one table file, or FHIR files and nothing else. visible: the names that aren't hidden."""
    if spec.emr is not None:
        return False
    if len(visible) == 1 and visible[0].lower().endswith(TABLE_KINDS):
        declared = spec.emr_dictionary is not None or bool(spec.emr_header)
        return declared or not visible[0].lower().endswith(UNSURE)  # a .txt can be anything
    table = _table(files)
    return table is not None and all(name.lower().endswith(FHIR_KINDS) for name in visible) and is_fhir(table)


def _table(files: Files) -> TableFiles | None:
    return TableFiles.among(files, files.names, files.name)
