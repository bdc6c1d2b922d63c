"""Which columns of an EMR table name the patient, the visit and the label, and which of its rows are used; reads no values."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hepdist.errors import IngestError
from hepdist.ingest.emr_columns import are_whole, is_missing, name_and_unit, plain, signed
from hepdist.ingest.emr_dictionary import ColumnEntry, Dictionary
from hepdist.ingest.emr_read import Records
from hepdist.ingest.emr_sequence import look_like_dates, read_days, time_column
from hepdist.ingest.sample import Finding
from hepdist.ingest.vocabulary import is_ordinary, safe_names

PATIENT_KEYS = (
    "patient_id", "patientid", "patient", "patient_key", "subject_id", "subject", "mrn",
    "患者id", "患者编号", "患者号", "病人id", "病人编号", "病历号", "病案号",
)  # fmt: skip
"""Headers that name the patient in any table, as `plain` writes them; the first that is there is taken."""
FILE_KEYS = ("filename", "file_name", "file", "image", "image_path", "image_id", "path", "文件名", "影像文件", "图像文件", "影像", "图像")
"""Headers that name an image file in any table."""
LABEL_KEYS = ("label", "class", "finding", "diagnosis", "target", "category", "标签", "类别", "诊断")
"""Headers of an image's class in any table."""
KEYS = {
    "patient": (*PATIENT_KEYS, "pid", "case_id", "case", "id"),
    "study": ("study_instance_uid", "study_uid", "study_id", "study", "accession_number", "accession", "检查号", "检查编号"),
    "image": ("sop_instance_uid", "image_key", *FILE_KEYS),
}
"""Headers of an EMR table for each kind of key that rows can be joined by."""
BY_ROW, NO_TIME = "row", "none"


@dataclass(frozen=True)
class Roles:
    """What the columns are, by index."""

    key: int | None
    """None: each row is a patient."""
    label: int | None
    time: int | None
    time_asked: bool
    """Whether the table was said to hold visits; else it looks like it."""
    entries: dict[int, ColumnEntry]
    """What the dictionary says."""
    units: dict[int, int]
    """The column that holds the units of a column."""


@dataclass(frozen=True)
class Row:
    number: int
    """From 1 for the first below the header."""
    texts: list[str]
    """Stripped; blank where missing."""
    day: float | None = None
    """From any origin; None where rows are no visits or this one says no day."""


def roles_of(
    names: list[str], dictionary: Dictionary, patient_key: str | None, label: str | None, time: str | None, kind: str, by_row: bool
) -> Roles:
    """The roles as asked for, as the dictionary says, or by the usual names. Raises IngestError for a column that isn't there.

    kind: 'patient', 'study' or 'image'. by_row: where no column names the patient, each row is one.
    """
    entries = {column_index(names, header, "emr_dictionary"): entry for header, entry in dictionary.columns.items()}
    units = {i: column_index(names, entry.unit_column, "emr_dictionary") for i, entry in entries.items() if entry.unit_column}
    label, time = label or dictionary.label, time or dictionary.time
    label_index = None if label is None else column_index(names, label, "label")
    key = _key(names, patient_key or dictionary.key, kind, by_row)
    if time is not None and time != NO_TIME:
        return Roles(key, label_index, column_index(names, time, "emr_time"), True, entries, units)
    guess = None if time == NO_TIME or kind == "image" else time_column(names)
    return Roles(key, label_index, None if guess in entries or guess == label_index else guess, False, entries, units)


def whole_rows(records: Records, roles: Roles, missing: frozenset[str], findings: list[Finding]) -> list[tuple[str, Row]]:
    """The rows of as many fields as the header that name a patient, with that patient. Raises IngestError where there is none."""
    own = {index: frozenset(entry.missing) for index, entry in roles.entries.items() if entry.missing}
    width = len(records.names)
    results = {i for i in range(width) if signed(record[i] for record in records.rows if len(record) == width)}
    rows = []
    for number, record in enumerate(records.rows, 1):
        where = f"{records.name}#{number}"
        if len(record) != width:
            reason = f"{len(record)} fields where the header has {width}"
            findings.append(Finding(where, "quarantined", "ragged-row", reason))
            continue
        texts = ["" if is_missing(text, missing, i in results) else text for i, text in enumerate(t.strip() for t in record)]
        for index, codes in own.items():
            if is_missing(texts[index], codes):
                texts[index] = ""
        patient = str(number) if roles.key is None else texts[roles.key]
        if patient:
            rows.append((patient, Row(number, texts)))
        else:
            findings.append(Finding(where, "quarantined", "no-patient-key", "the row names no patient"))
    if are_whole(key for key, _ in rows):
        rows = [(key.removesuffix(".0"), row) for key, row in rows]
    if not rows:
        raise IngestError("the EMR table holds no row with a patient; check the file or name its column with patient_key=COLUMN")
    return rows


def with_days(records: Records, roles: Roles, rows: list[tuple[str, Row]]) -> tuple[Roles, list[tuple[str, Row]]]:
    """The rows with their days, and the roles without the time column where nothing but its name says that rows are visits."""
    if roles.time is None:
        return roles, rows
    days = read_days([row.texts[roles.time] for _, row in rows])
    alone = len({patient for patient, _ in rows}) == len(rows)
    dated = look_like_dates([row.texts[roles.time] for _, row in rows])
    if days is None and (roles.time_asked or (dated and not alone)):
        raise IngestError(
            f"column {roles.time + 1} of the EMR table can't be read as days or dates of visits, in one way that leaves no doubt; write day"
            " numbers or dates as 2020-01-31, or set emr_time=none to keep one row a patient"
        )
    if days is None and not alone:
        reason = (
            f"column {roles.time + 1} has the name of a day or date, but most of it can't be read as such, so that its rows are no visits"
        )
        records.findings.append(Finding(f"{records.name}#{records.names[roles.time]}", "ignored", "no-date", reason))
    if days is None or (alone and not roles.time_asked):
        return replace(roles, time=None), rows
    return roles, [(patient, replace(row, day=day)) for (patient, row), day in zip(rows, days, strict=True)]


def rows_in_use(name: str, roles: Roles, rows: Sequence[tuple[str, Row]], findings: list[Finding]) -> dict[str, list[Row]]:
    """The rows of each patient: one, or one or more a visit; repetitions and rows without a day go to the findings.

    A patient without any day keeps the first row, for what never changes.
    """
    groups: dict[str, list[Row]] = {}
    for patient, row in sorted(rows, key=lambda pair: roles.time is not None and pair[1].day is None):  # rows without a day come last
        group = groups.setdefault(patient, [])
        where = f"{name}#{row.number}"
        twin = next((other for other in group if other.texts == row.texts), None)
        if twin is not None:
            findings.append(Finding(where, "ignored", "duplicate-row", f"the same as row {twin.number}"))
        elif roles.time is not None and row.day is None:
            findings.append(Finding(where, "quarantined", "no-date", f"row {row.number} says no day that can be read, so it is no visit"))
            if not group:
                group.append(row)
        elif group and (roles.time is None or group[0].day is None):
            reason = f"differs from row {group[0].number} of the same patient, which is used"
            findings.append(Finding(where, "quarantined", "duplicate-row", reason))
        else:
            group.append(row)
    return groups


def column_index(names: list[str], asked: str, option: str) -> int:
    """Raises IngestError, with the nearest name, where there is no such column."""
    if asked in names:
        return names.index(asked)
    alike = [i for i, name in enumerate(names) if plain(name) == plain(asked) or name_and_unit(name)[0] == asked]
    if len(alike) == 1:
        return alike[0]
    near = difflib.get_close_matches(asked, [name for name in names if is_ordinary(name)], n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"it has {_told(names)}"
    raise IngestError(f"ingest key '{option}' names column '{asked}', which the table doesn't have; {hint}")


def _key(names: list[str], asked: str | None, kind: str, by_row: bool) -> int | None:
    """Index of the column that names the patient, study or image; None: each row is one."""
    if asked is not None:
        return None if asked == BY_ROW and BY_ROW not in names else column_index(names, asked, "patient_key")
    found = {plain(name): index for index, name in reversed(list(enumerate(names)))}
    for usual in KEYS[kind]:
        if usual in found:
            return found[usual]
    if by_row:
        return None
    if kind != "patient":
        raise IngestError(f"no column of the table names the {kind}; name it in the dictionary with key: COLUMN, one of {_told(names)}")
    raise IngestError(
        f"no column of the table names the patient; name it with patient_key=COLUMN, one of {_told(names)},"
        f" or set patient_key={BY_ROW} where each row is a patient"
    )


def _told(names: Sequence[str]) -> str:
    """The headers that may stand in an error: one that is no ordinary word could be a name, since tables without a header exist."""
    usual = {key for keys in KEYS.values() for key in keys}
    return ", ".join(safe_names(names, "column", [name for name in names if plain(name) in usual]))
