"""EMR rows to images by patient: values and labels onto samples, and findings about rows that no image belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hepdist.errors import IngestError
from hepdist.ingest.emr import EMRTable, read_table
from hepdist.ingest.files import Files
from hepdist.ingest.pseudonym import Pseudonyms
from hepdist.ingest.sample import Finding
from hepdist.ingest.spec import IngestSpec
from hepdist.ingest.stage import Staged
from hepdist.shards.manifest import sha256_of


def table_path(files: Files, spec: IngestSpec) -> tuple[Path | None, frozenset[str]]:
    """Where the EMR table is, and its name inside the source where it lies there. Raises IngestError where it is nowhere."""
    if spec.emr is None:
        return None, frozenset()
    inside = files.root / spec.emr if files.root is not None else None
    path = Path(spec.emr) if Path(spec.emr).is_file() else inside
    if path is None or not path.is_file():
        raise IngestError(f"ingest key 'emr' is '{spec.emr}', which is no file; give the path of a CSV, TSV, Parquet or Excel table")
    if files.root is not None and path.resolve().is_relative_to(files.root.resolve()):
        return path, frozenset({path.resolve().relative_to(files.root.resolve()).as_posix()})
    return path, frozenset()


def join(samples: Sequence[Staged], path: Path, spec: IngestSpec, name: str, names: Pseudonyms) -> tuple[EMRTable, list[Finding]]:
    """Give each sample its patient's EMR values and, where `label` names a column, its label.

    A patient without a row keeps images, with every value missing; a row without an image goes to the audit.
    name: of the table in the audit. Raises IngestError where no row belongs to any image.
    """
    table = read_table(
        path, patient_key=spec.patient_key, label=spec.label, columns=spec.emr_columns, missing=spec.emr_missing, unlabelled=spec.unlabelled
    )
    patients = {sample.patient for sample in samples}
    keys = {names.of("patient", raw): raw for raw in table.rows}
    if not patients & keys.keys():
        raise IngestError("no row of the EMR table belongs to a patient of the images; name its patient column with patient_key=COLUMN")
    for sample in samples:
        raw = keys.get(sample.patient, "")
        sample.emr = dict(table.rows.get(raw, {}))
        if spec.label is not None and sample.label is None:
            sample.label = table.labels.get(raw)
    findings = [Finding(name, "ingested", sha256=sha256_of(path)), *table.findings]
    for patient in (raw for key, raw in keys.items() if key not in patients):
        findings.append(
            Finding(f"{path.name}#{table.row_of(patient)}", "quarantined", "unknown-patient", "no image belongs to the patient of this row")
        )
    return table, findings
