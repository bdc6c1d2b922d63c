"""EMR rows to images by the key of patient, study or image: whose values are whose, and findings about rows that no image belongs to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from hepdist.errors import IngestError
from hepdist.ingest.called import rows_by_name
from hepdist.ingest.emr import EMRTable, read_table
from hepdist.ingest.emr_dictionary import load_dictionary
from hepdist.ingest.emr_known import KnownColumns
from hepdist.ingest.emr_read import TableFiles
from hepdist.ingest.fhir import is_fhir
from hepdist.ingest.files import Files
from hepdist.ingest.horizon import Horizon, at_landmarks
from hepdist.ingest.label_rules import load_rules
from hepdist.ingest.sample import Finding
from hepdist.ingest.spec import IngestSpec

KINDS = {"patient": "patient", "study": "study", "image": "sample"}
"""What pseudonyms of each kind of key are made of."""


@dataclass(frozen=True)
class Match:
    """Which row of an EMR table belongs to which sample. Keys are the table's raw ones: they may not leave ingest."""

    rows: dict[str, str]
    """Key of the row by sample id, for samples that have one."""
    unmatched: tuple[str, ...]
    """Keys of rows that no sample belongs to, in the order of the table."""
    findings: list[Finding]
    """About those rows, and about rows that several images answer to."""


def table_of(files: Files, spec: IngestSpec) -> tuple[TableFiles | None, frozenset[str]]:
    """The EMR table that the options name, at a path or URI or inside the source, and the names of its files where they lie in the source.

    Raises IngestError where it is nowhere.
    """
    if spec.emr is None:
        return None, frozenset()
    inside = files.below(spec.emr)
    table = TableFiles.at(spec.emr) or TableFiles.among(files, inside, spec.emr.rstrip("/"))
    if table is None or (len(table.names) > 1 and not is_fhir(table)):
        raise IngestError(
            f"ingest key 'emr' is '{spec.emr}', which is no table; give the path, URI or name inside the source"
            " of a CSV, TSV, Parquet or Excel file, or of FHIR resources"
        )
    return table, frozenset(inside)


def read_emr(
    table: TableFiles, spec: IngestSpec, by_row: bool = False, known: KnownColumns | None = None, keep: tuple[str, ...] = ()
) -> EMRTable:
    """The table as the options say, with the texts that label rules read, and labels where follow-up makes them.

    by_row, known: see `read_table`. keep: further columns whose texts are wanted. Raises IngestError and RecipeError.
    """
    rule = Horizon.of(spec)
    read = read_table(
        table,
        patient_key=spec.file_key if spec.emr_key == "image" else spec.patient_key,
        label=spec.label,
        columns=spec.emr_columns,
        drop=spec.emr_drop,
        header=spec.emr_header,
        missing=spec.emr_missing,
        unlabelled=spec.unlabelled,
        time=spec.emr_time,
        dictionary=load_dictionary(spec.emr_dictionary) if spec.emr_dictionary is not None else None,
        rules=load_rules(spec.label_rules) if spec.label_rules is not None else None,
        kind=spec.emr_key,
        by_row=by_row,
        keep_texts=(*((rule.event, rule.time) if rule else ()), *keep),
        known=known,
    )
    return at_landmarks(read, table.name, rule, several=by_row) if rule else read


def file_findings(table: EMRTable, name: str) -> list[Finding]:
    """One about each file of the table that was read whole. name: of the table in the audit, in place of its file's or folder's."""
    told = {finding.file for finding in table.findings}
    alone = len(table.files) == 1
    reason = "no column names the patient, so each row is one" if table.by_row else ""
    return [
        Finding(name if alone else f"{name}/{file}", "ingested", "", reason, sha256=sha256)
        for file, sha256 in table.files.items()
        if file not in told
    ]


def match(
    table: EMRTable,
    names: Mapping[str, Sequence[str]],
    pseudonym: Callable[[str, str], str],
    *,
    kind: str = "patient",
    file: str = "emr",
    keep_unmatched: bool = False,
    there: Collection[str] = (),
) -> Match:
    """Find the row of each sample by pseudonyms alone.

    names: of each sample id the pseudonyms a row may name it by: of its patient, its study, or its `image_names`, the most exact
    first. kind: 'patient', 'study' or 'image'. file: the table's name in findings. keep_unmatched: rows that no sample belongs to
    become samples without an image, so that nothing is to be said of them. there: pseudonyms of what is in the cohort that is added to.
    Raises IngestError where no row belongs to any sample.
    """
    raw = {pseudonym(KINDS[kind], key): key for key in table.rows}
    by_name = rows_by_name(table.rows, lambda name: pseudonym(KINDS[kind], name)) if kind == "image" else raw
    samples: dict[str, list[str]] = defaultdict(list)
    for sample, called in names.items():
        key = next((by_name[name] for name in called if name in by_name), None)
        if key is not None:
            samples[key].append(sample)
    findings, rows = [], {}
    for key, those in samples.items():
        if kind == "image" and len({tuple(names[sample]) for sample in those}) > 1:  # two folders hold a file of this name
            where = f"{file}#{table.row_of(key)}"
            findings.append(Finding(where, "quarantined", "ambiguous", "the row names several images of the source"))
        else:
            rows.update(dict.fromkeys(those, key))
    if not rows and not any(name in there for name in raw):
        raise IngestError(
            f"no row of the EMR table belongs to {'an image' if kind == 'image' else f'a {kind} of the images'};"
            f" name its {kind} column with {'file_key' if kind == 'image' else 'patient_key'}=COLUMN"
        )
    unmatched = tuple(key for name, key in raw.items() if key not in samples and name not in there)
    for key in () if keep_unmatched else unmatched:
        reason = f"no image belongs to the {kind} of this row"
        findings.append(Finding(f"{file}#{table.row_of(key)}", "quarantined", f"unknown-{kind}", reason))
    for key in (key for name, key in raw.items() if key not in samples and name in there):
        reason = f"the {kind} of this row is in the cohort already, and no image here is of it; the values there stay as they are"
        findings.append(Finding(f"{file}#{table.row_of(key)}", "ignored", "duplicate", reason))
    return Match(rows, unmatched, findings)
