"""EMR tables as numbers: a patient's static values and visits, columns described, labels apart, and what was left out in findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hepdist.errors import IngestError
from hepdist.ingest.emr_columns import in_order, plain, says_nothing
from hepdist.ingest.emr_dictionary import Dictionary
from hepdist.ingest.emr_features import Feature, declare
from hepdist.ingest.emr_known import KnownColumns
from hepdist.ingest.emr_read import Records, TableFiles, read_records
from hepdist.ingest.emr_rows import FILE_KEYS, LABEL_KEYS, Roles, Row, column_index, roles_of, rows_in_use, whole_rows, with_days
from hepdist.ingest.emr_sequence import Visits
from hepdist.ingest.emr_values import features_of, values_of
from hepdist.ingest.fhir import PATIENT, is_fhir, read_fhir
from hepdist.ingest.label_rules import LabelRules
from hepdist.ingest.sample import Finding
from hepdist.shards.manifest import EMRColumn


@dataclass(frozen=True)
class EMRTable:
    """Raw keys and raw units: nothing here is pseudonymous or normalised yet. Where rows are of studies or images, so are the keys."""

    columns: tuple[EMRColumn, ...]
    """The static features, in the order of the table; of a table of visits those that never change within a patient."""
    rows: dict[str, dict[str, float | None]]
    """By patient key and column name; a category is its index in `categories`, None is missing."""
    sequence_columns: tuple[EMRColumn, ...] = ()
    """The features that change between visits; empty unless the table is one of visits."""
    sequences: dict[str, Visits] = field(default_factory=dict)
    """By patient key, for patients with a visit whose day is known; values in the order of `sequence_columns`."""
    labels: dict[str, str] = field(default_factory=dict)
    """By patient key; a patient without one is unlabelled."""
    label_names: tuple[str, ...] = ()
    """The classes: as the dictionary orders them, else the negative one first ('no', 'normal'), numbers by value, else by letter."""
    texts: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """By patient key and column, what the columns asked for hold, row by row; for rules that make labels, never to be written."""
    findings: list[Finding] = field(default_factory=list)
    """Rows, columns and cells left out or changed, as 'TABLE#row', 'TABLE#column' and 'TABLE#row.column'."""
    numbers: dict[str, int] = field(default_factory=dict)
    """Number of each patient's first row, from 1 for the first below the header."""
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the files that were read, by name, for the audit."""
    by_row: bool = False
    """No column names the patient, so each row is one."""
    starts: dict[str, float] = field(default_factory=dict)
    """By patient key, the day of the first visit as the table counts days, or a date as a number; of a table of visits."""
    patients: dict[str, str] = field(default_factory=dict)
    """By key, whose row it is, where a patient has several (`hepdist.ingest.horizon`); else empty."""
    followups: dict[str, tuple[float, bool]] = field(default_factory=dict)
    """By key, days to the event or the end of the follow-up, and whether it was the event; where follow-up makes the labels."""

    def row_of(self, patient: str) -> int:
        """The row number of a patient, as findings write it ('TABLE#row')."""
        return self.numbers[patient]


def read_table(
    source: TableFiles | Path | str,
    *,
    patient_key: str | None = None,
    label: str | None = None,
    columns: Sequence[str] = (),
    drop: Sequence[str] = (),
    header: Sequence[str] = (),
    missing: Sequence[str] = (),
    unlabelled: Sequence[str] = (),
    time: str | None = None,
    dictionary: Dictionary | None = None,
    keep_texts: Sequence[str] = (),
    rules: LabelRules | None = None,
    kind: str = "patient",
    by_row: bool = False,
    known: KnownColumns | None = None,
) -> EMRTable:
    """Read a CSV, TSV, Parquet or Excel table, or FHIR R4 resources (a Bundle, NDJSON, or a folder of them), at a path or URI.

    patient_key: column that names the patient, or 'row' where each row is one; None: the first of the usual names; for FHIR see
    `read_fhir`. kind: what the rows are of, 'patient', 'study' or 'image'. by_row: where no column names the patient, each row is
    one, instead of an error. label: column that holds the class; it is no feature.
    columns: the features to keep; empty: all that can be one. drop: columns to leave out, such as an outcome that tells the label.
    header: column names of a file without a header. missing: texts that mean 'no value' besides blank, ?, NA, NaN, null and
    the like (such as 999). unlabelled: label texts that mean 'not known'. time: column with the day or date of each row's visit, or
    'none'; None: a column of such a name, where a patient has several rows. keep_texts: columns to give in `texts`, no features; rules: so are those that they read.
    known: the columns of a cohort that is added to, which the table's are brought to instead of being inferred.
    What these don't say, the dictionary may. Raises IngestError where the table as a whole can't be used.
    """
    table, dictionary = source if isinstance(source, TableFiles) else TableFiles.at(source), dictionary or Dictionary()
    if table is None:
        raise IngestError("the EMR table does not exist; give the path or URI of a CSV, TSV, Parquet or Excel file")
    if is_fhir(table):
        records, patient_key = read_fhir(table, patient_key), PATIENT
    else:
        records = read_records(table, tuple(header) or dictionary.header)
    names, findings = records.names, records.findings
    roles = roles_of(names, dictionary, patient_key, label, time, kind, by_row)
    rows = whole_rows(records, roles, frozenset(missing) | frozenset(dictionary.missing), findings)
    roles, rows = with_days(records, roles if known is None else known.with_time(roles), rows)
    groups = rows_in_use(records.name, roles, rows, findings)
    keep_texts = (*keep_texts, *(rules.columns_in([*names, *records.texts]) if rules else ()))
    left_out = _left_out(records, columns, drop, keep_texts)
    features = features_of(records.name, names, roles, dictionary, groups, left_out, findings, known)
    values = values_of(records.name, features, groups, roles.time is not None and roles.time_asked, findings, known)
    labels, label_names = _labels(records, roles, groups, unlabelled)
    return EMRTable(
        columns=values.columns,
        rows=values.rows,
        sequence_columns=values.sequence_columns,
        sequences=values.sequences,
        labels=labels,
        label_names=label_names,
        texts=_texts(records, keep_texts, rows),
        findings=findings,
        numbers={patient: group[0].number for patient, group in groups.items()},
        files=records.files,
        by_row=roles.key is None,
        starts={patient: min(days) for patient, group in groups.items() if (days := [row.day for row in group if row.day is not None])},
    )


def _left_out(records: Records, columns: Sequence[str], drop: Sequence[str], keep_texts: Sequence[str]) -> dict[int, str]:
    """The columns that become no features whatever they hold, with the reason."""
    names = records.names
    wanted = {column_index(names, name, "emr_columns") for name in columns}
    unasked = {index: "is not among those asked for" for index in range(len(names)) if wanted and index not in wanted}
    dropped = {column_index(names, name, "emr_drop"): "is left out by emr_drop" for name in drop}
    texts = {column_index(names, name, "keep_texts"): "is text for labels" for name in keep_texts if name not in records.texts}
    called = [plain(name) for name in names]
    of_images = not columns and any(plain(key) in called for key in FILE_KEYS)
    classes = {i: "names the class of an image by its header" for i, name in enumerate(called) if of_images and name in LABEL_KEYS}
    return classes | unasked | dropped | texts


def _labels(
    records: Records, roles: Roles, groups: dict[str, list[Row]], unlabelled: Sequence[str]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The class of each patient whose rows agree on one, and the classes."""
    if roles.label is None:
        return {}, ()
    entry, header = roles.entries.get(roles.label), records.names[roles.label]
    declared = declare(roles.label, header, entry.model_copy(update={"type": "category"}), (), None) if entry and entry.categories else None
    labels: dict[str, str] = {}
    for patient, group in groups.items():
        found = {text for row in group if not says_nothing(text := row.texts[roles.label], tuple(unlabelled))}
        number = group[0].number
        where = f"{records.name}#{number}.{roles.label + 1}"
        if isinstance(declared, Feature):
            indices = {declared.value(text)[0] for text in found}
            if None in indices:
                reason = f"row {number}, column {roles.label + 1}: the label is none that the dictionary declares; left unlabelled"
                records.findings.append(Finding(where, "ignored", "label-unknown", reason))
                continue
            found = {declared.column.categories[int(index)] for index in indices if index is not None}
        if len(found) > 1:
            reason = f"rows of the patient of row {number} give different labels; left unlabelled"
            records.findings.append(Finding(where, "ignored", "label-conflict", reason))
        elif found:
            labels[patient] = found.pop()
    there = set(labels.values())
    return labels, tuple(n for n in declared.column.categories if n in there) if isinstance(declared, Feature) else in_order(list(there))


def _texts(records: Records, asked: Sequence[str], rows: Sequence[tuple[str, Row]]) -> dict[str, dict[str, list[str]]]:
    texts: dict[str, dict[str, list[str]]] = {}
    for column in asked:
        for patient, found in records.texts.get(column, {}).items():
            texts.setdefault(patient, {})[column] = list(found)
        if column not in records.texts:
            index = column_index(records.names, column, "keep_texts")
            for patient, row in rows:
                if row.texts[index]:
                    texts.setdefault(patient, {}).setdefault(column, []).append(row.texts[index])
    return texts
