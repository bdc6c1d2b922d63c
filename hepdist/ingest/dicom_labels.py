"""DICOM images whose class a table beside them tells, by file, folder, instance, series, study or patient, or a pattern on their paths."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from hepdist.errors import IngestError
from hepdist.ingest.called import Called, image_names, path_ends
from hepdist.ingest.dicom import DicomSource
from hepdist.ingest.dicom_items import ImageItem, VolumeItem
from hepdist.ingest.dicom_plan import Each
from hepdist.ingest.emr_columns import plain
from hepdist.ingest.emr_rows import FILE_KEYS, PATIENT_KEYS
from hepdist.ingest.files import Files
from hepdist.ingest.labels_table import Entry, LabelTable, find_labels
from hepdist.ingest.sample import Finding, Sample
from hepdist.ingest.spec import IngestSpec
from hepdist.ingest.subjects import UNLISTED

UID_KEYS = {
    "sop_instance_uid": "instance", "sopinstance_uid": "instance", "series_instance_uid": "series", "series_uid": "series",
    "study_instance_uid": "study", "study_uid": "study",
}  # fmt: skip
"""Headers of what a row is of, as `plain` writes them, besides FILE_KEYS; and what that is."""
KINDS = UID_KEYS | dict.fromkeys(PATIENT_KEYS, "patient")
SHARED = "identity", "rows of the table that says whose images are name several patients of it"
Item = ImageItem | VolumeItem


class LabelledDicom(DicomSource):
    """A DicomSource with labels, and with the site and date of the table where it tells them.

    A row is of all images that its cell names. Whose an image is, its header says, and where that was emptied the table; unless
    patient_key= names a column of the table, or patient_pattern= a part of the path.
    """

    def __init__(self, files: Files, spec: IngestSpec, skip: frozenset[str], each: Each):
        """skip, each: see DicomSource. Raises IngestError where an option can't be followed."""
        if spec.mask_pattern is not None:
            raise IngestError(
                "ingest key 'mask_pattern' tells masks by their files' names, which say nothing in DICOM; name the folders of mask series with"
                " mask_folders=REGEX"
            )
        keys = (*FILE_KEYS, *UID_KEYS) + (PATIENT_KEYS if spec.labels_table is not None else ())
        table = find_labels(files, spec, keys, skip)
        if table is None and spec.emr is None:
            for key in ("label", "file_key", "patient_key", "site_key", "date_key"):
                if given := getattr(spec, key):
                    raise IngestError(
                        f"ingest key '{key}' is '{given}', a column, but there is no table; add emr=TABLE.csv or labels_table=TABLE.csv"
                    )
        super().__init__(
            files,
            modality=spec.modality,
            allow_burned_in=spec.allow_burned_in,
            display=spec.display,
            frames=spec.frames,
            classes=spec.classes,
            mask_folders=spec.mask_folders,
            skip=skip | ({table.name} if table is not None and table.inside else set()),
            each=each,
        )
        self._spec = spec
        self._told: Mapping[str, Entry] = {}
        if table is not None:
            header = spec.file_key or next(key for key in keys if key in map(plain, table.columns))
            rows = told(table, self.items, KINDS.get(plain(header), ""))
            if not rows.entries and not spec.allow_unlabelled:
                raise IngestError(
                    "no row of the label table names a file, series, study or patient of the source; name its column with file_key=COLUMN"
                )
            self._told, refused = self._owned(rows, asked=spec.patient_key in table.columns, named=table.names_patients)
            self.findings = [*self.findings, *rows.findings]
            for item in (item for item in self.items if item.key in refused):
                names = (*item.files, *(name for mask in item.masks for name in mask.files))
                uids = item.header.study, item.header.series
                self.findings += [Finding(name, "quarantined", *refused[item.key], *uids) for name in names]
            self.items = [item for item in self.items if item.key not in refused]

    def _owned(self, rows: Told, asked: bool, named: bool) -> tuple[dict[str, Entry], dict[str, tuple[str, str]]]:
        """What the rows say, with a patient where the table decides whose an image is; and check and reason of images of which nobody knows.

        asked: the table decides of all, not only where the header names no patient. named: it has a column of patients.
        """
        entries, refused = {}, {}
        for item in self.items:
            entry = rows.entries.get(item.key)
            emptied = item.header.patient == item.header.study
            if self._part(self._spec.patient_pattern, item) or not (asked or (emptied and named and rows.kind != "patient")):
                entry = entry and replace(entry, patient="")
            elif item.key in rows.shared:
                refused[item.key] = SHARED
            elif entry is None and not self._spec.allow_unlabelled:  # by another name its patient may be one of the table's
                refused[item.key] = UNLISTED
            if entry is not None:
                entries[item.key] = entry
        return entries, refused

    def _part(self, pattern: str | None, item: Item) -> str | None:
        found = re.search(pattern, item.files[0]) if pattern else None
        return found[1] if found else None

    def read(self, item: Item) -> Iterator[Sample | Finding]:
        entry = self._told.get(item.key, Entry())
        label, patient = self._part(self._spec.label_pattern, item), self._part(self._spec.patient_pattern, item)
        for found in super().read(item):
            if isinstance(found, Sample):
                found.label = label if entry.label is None else entry.label
                found.patient = patient or entry.patient or found.patient
                found.site, found.date = entry.site or found.site, entry.date or found.date
            yield found


@dataclass
class Told:
    """What a table says of the items."""

    kind: str
    """What its rows are of, by the column's header: 'instance', 'series', 'study', 'patient'; empty: whatever their cells name."""
    entries: dict[str, Entry] = field(default_factory=dict)
    """By the item's key."""
    shared: set[str] = field(default_factory=set)
    """Keys of items that rows of several patients name."""
    findings: list[Finding] = field(default_factory=list)


def told(table: LabelTable, items: Sequence[Item], kind: str) -> Told:
    """What the table says of each item that it names. kind: see Told.

    Rows of one item that differ in the class leave it unlabelled: nobody knows which is right.
    """
    named, found = _Named(items, kind), Told(kind)
    entries, findings = found.entries, found.findings
    findings += [*([Finding(table.name, "ingested")] if table.inside else []), *table.findings]
    for number, cell, entry in table.rows:
        keys, doubt = named(cell)
        row = f"{table.name}#{number}"
        if not keys:
            reason = "names files or folders of several places" if doubt else "names no file, series, study or patient of the source"
            findings.append(Finding(row, "quarantined", "ambiguous" if doubt else "unknown-image", reason))
        found.shared |= {key for key in keys if entries.setdefault(key, entry).patient != entry.patient}
        torn = [key for key in keys if entries[key].label != entry.label]
        for key in torn:
            entries[key] = replace(entries[key], label="")
        if torn:
            findings.append(Finding(row, "quarantined", "ambiguous", "an image has a row of another class already; it is left unlabelled"))
    return found


class _Named:
    """Which items a cell means: by a file's path, an identifier of the header, or a folder's path; by one kind of identifier, if told."""

    def __init__(self, items: Sequence[Item], kind: str):
        self._ids: dict[str, set[str]] = defaultdict(set)
        self._folders: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        names: dict[str, list[str]] = {}
        for item in items:
            header = item.header
            instances = [header.sop_instance] if isinstance(item, ImageItem) else [plane.sop_instance for plane in item.stack.planes]
            identifiers = {"instance": instances, "series": [header.series], "study": [header.study], "patient": [header.patient]}
            for identifier in identifiers[kind] if kind else (one for those in identifiers.values() for one in those):
                self._ids[identifier].add(item.key)
            if kind:
                continue
            names[item.key] = [name for file in item.files for name in image_names(file)]
            for folder in {str(parent) for file in item.files for parent in PurePosixPath(file).parents} - {"."}:
                for end in path_ends(folder):
                    self._folders[end][folder].add(item.key)
        self._files = Called(names)

    def __call__(self, cell: str) -> tuple[set[str], bool]:
        """Keys of the items, and whether there are none because the cell could mean several files or folders."""
        files = self._files(cell) if cell else []
        if len(files) == 1:
            return set(files), False
        if not files and cell in self._ids:  # a file's name comes first: images and patients may both be numbered
            return self._ids[cell], False
        folders = next((self._folders[end] for end in path_ends(cell) if end in self._folders), {})
        if len(folders) == 1 and not files:
            return next(iter(folders.values())), False
        return set(), bool(files or folders)
