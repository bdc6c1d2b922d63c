"""An EMR table or FHIR resources as the whole source: samples without an image, one a patient (or landmark); their values are in `TableSource.table`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from hepdist.ingest.emr_known import KnownColumns
from hepdist.ingest.emr_read import TABLE_KINDS, TableFiles
from hepdist.ingest.fhir import FHIR_KINDS, is_fhir
from hepdist.ingest.files import Files, is_hidden
from hepdist.ingest.join import file_findings, read_emr
from hepdist.ingest.sample import Finding, Sample
from hepdist.ingest.spec import IngestSpec

AT_ONCE = 1000
"""Rows of one item."""
UNSURE = (".txt", ".data")
"""Files of these names are tables where an option says so."""


class TableSource:
    """A CSV, TSV, Parquet or Excel file, or FHIR files; see `hepdist.ingest.emr.read_table`. Where no column names the patient, each row is one."""

    kind = "table"
    mask_classes: tuple[str, ...] = ()
    multilabel = False

    def __init__(self, files: Files, spec: IngestSpec, known: KnownColumns | None = None):
        table = _table(files)
        assert table is not None
        self.table = read_emr(table, spec, by_row=True, known=known)
        self.label_names = self.table.label_names
        hidden = [Finding(name, "ignored", "hidden-file", "left by an operating system") for name in files.names if is_hidden(name)]
        self.findings: Sequence[Finding] = [*file_findings(self.table, table.name), *self.table.findings, *hidden]
        told = [(key, self.table.patients.get(key, key), self.table.labels.get(key)) for key in self.table.rows]
        self.items = [tuple(told[n : n + AT_ONCE]) for n in range(0, len(told), AT_ONCE)]

    def __getstate__(self) -> dict[str, Any]:
        """What travels to a reading process: nothing, since an item is all that `read` needs."""
        return {"label_names": self.label_names}

    def read(self, item: tuple[tuple[str, str, str | None], ...]) -> Iterator[Sample | Finding]:
        for key, patient, label in item:
            yield Sample(key=key, patient=patient, label=label)


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
