"""DICOM images whose class a table beside them tells, by file, folder, instance, series, study or patient, or a pattern on their paths."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from hepdist.errors import IngestError
from hepdist.ingest.called import Called, image_names, path_ends
from hepdist.ingest.dicom import DicomSource
from hepdist.ingest.dicom_items import ImageItem, VolumeItem
from hepdist.ingest.dicom_plan import Each
from hepdist.ingest.emr_rows import FILE_KEYS, PATIENT_KEYS
from hepdist.ingest.files import Files
from hepdist.ingest.labels_table import Entry, LabelTable, find_labels
from hepdist.ingest.sample import Finding, Sample
from hepdist.ingest.spec import IngestSpec

UID_KEYS = ("sop_instance_uid", "sopinstance_uid", "series_instance_uid", "series_uid", "study_instance_uid", "study_uid")
"""Headers of what a row is of, as `plain` writes them, besides FILE_KEYS."""
Item = ImageItem | VolumeItem


class LabelledDicom(DicomSource):
    """A DicomSource with labels, and with the site and date of the table where it tells them.

    A row is of all images that its cell names. Whose an image is, its header says; unless patient_key= names a column of the table
    besides, or patient_pattern= a part of the path, for sets whose headers were emptied.
    """

    def __init__(self, files: Files, spec: IngestSpec, skip: frozenset[str], each: Each):
        """skip, each: see DicomSource. Raises IngestError where an option can't be followed."""
        if spec.mask_pattern is not None:
            raise IngestError(
                "ingest key 'mask_pattern' tells masks by their files' names, which say nothing in DICOM; name the folders of mask series with"
                " mask_folders=REGEX"
            )
        keys = FILE_KEYS + UID_KEYS + (PATIENT_KEYS if spec.labels_table is not None else ())
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
            self._told, findings = told(table, self.items)
            self.findings = [*self.findings, *findings]
            if not self._told:
                raise IngestError(
                    "no row of the label table names a file, series, study or patient of the source; name its column with file_key=COLUMN"
                )
            if spec.patient_key is None:
                self._told = {key: replace(entry, patient="") for key, entry in self._told.items()}

    def read(self, item: Item) -> Iterator[Sample | Finding]:
        entry = self._told.get(item.key, Entry())
        patterns = self._spec.label_pattern, self._spec.patient_pattern
        label, patient = (match[1] if pattern and (match := re.search(pattern, item.files[0])) else None for pattern in patterns)
        for found in super().read(item):
            if isinstance(found, Sample):
                found.label = label if entry.label is None else entry.label
                found.patient = patient or entry.patient or found.patient
                found.site, found.date = entry.site or found.site, entry.date or found.date
            yield found


def told(table: LabelTable, items: Sequence[Item]) -> tuple[dict[str, Entry], list[Finding]]:
    """What the table says of each item that it names, by the item's key, and findings about the table.

    Rows of one item that differ in the class leave it unlabelled: nobody knows which is right.
    """
    named = _Named(items)
    entries: dict[str, Entry] = {}
    findings = [*([Finding(table.name, "ingested")] if table.inside else []), *table.findings]
    for number, cell, entry in table.rows:
        keys, doubt = named(cell)
        row = f"{table.name}#{number}"
        if not keys:
            reason = "names files or folders of several places" if doubt else "names no file, series, study or patient of the source"
            findings.append(Finding(row, "quarantined", "ambiguous" if doubt else "unknown-image", reason))
        torn = [key for key in keys if entries.setdefault(key, entry).label != entry.label]
        for key in torn:
            entries[key] = replace(entries[key], label="")
        if torn:
            findings.append(Finding(row, "quarantined", "ambiguous", "an image has a row of another class already; it is left unlabelled"))
    return entries, findings


class _Named:
    """Which items a cell means: by an identifier of the header, a file's path, or a folder's."""

    def __init__(self, items: Sequence[Item]):
        self._ids: dict[str, set[str]] = defaultdict(set)
        self._folders: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        names: dict[str, list[str]] = {}
        for item in items:
            header = item.header
            instances = [header.sop_instance] if isinstance(item, ImageItem) else [plane.sop_instance for plane in item.stack.planes]
            for identifier in (*instances, header.series, header.study, header.patient):
                self._ids[identifier].add(item.key)
            names[item.key] = [name for file in item.files for name in image_names(file)]
            for folder in {str(parent) for file in item.files for parent in PurePosixPath(file).parents} - {"."}:
                for end in path_ends(folder):
                    self._folders[end][folder].add(item.key)
        self._files = Called(names)

    def __call__(self, cell: str) -> tuple[set[str], bool]:
        """Keys of the items, and whether there are none because the cell could mean several files or folders."""
        if not cell or cell in self._ids:
            return self._ids[cell] if cell else set(), False
        files = self._files(cell)
        if len(files) == 1:
            return set(files), False
        folders = next((self._folders[end] for end in path_ends(cell) if end in self._folders), {})
        if len(folders) == 1 and not files:
            return next(iter(folders.values())), False
        return set(), bool(files or folders)
