"""What a clinical table gives the samples of a cohort: values, visits and labels, each with its evidence; reading is in emr.py, keys are in join.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hepdist.ingest.emr import EMRTable
from hepdist.ingest.emr_sequence import pack, usual_length
from hepdist.ingest.join import file_findings, match
from hepdist.ingest.label_rules import LabelRules, load_rules
from hepdist.ingest.pseudonym import Pseudonyms
from hepdist.ingest.sample import Finding
from hepdist.ingest.spec import IngestSpec
from hepdist.ingest.stage import Staged
from hepdist.shards.manifest import EMRColumn

LABELS = "labels.parquet"


@dataclass(frozen=True)
class Evidence:
    """A row of COHORT/labels.parquet: why a patient has a label, in the words of the declared rules and none of the text's."""

    key: str
    """Pseudonym of the patient, study or image that the table's row is of."""
    label: str
    """What was decided of all evidence; empty: left unlabelled."""
    ambiguous: str
    """'yes' where sources or sentences disagree."""
    class_name: str
    rule: str
    """Declared id of the finding, or the declared set of codes."""
    source: str
    """'icd10', 'icd9' or 'text'."""
    polarity: str
    """'affirmed', 'negated', 'uncertain', 'historical' or 'family'."""


@dataclass
class Clinical:
    """All that a table gives."""

    columns: tuple[EMRColumn, ...] = ()
    sequence: tuple[EMRColumn, ...] = ()
    """Of visits."""
    visits: int = 0
    """Length of every sequence; 0: no visits."""
    label_names: tuple[str, ...] = ()
    """Those classes of the table that a sample has; of labels by horizon always both."""
    evidence: tuple[Evidence, ...] = ()
    findings: tuple[Finding, ...] = ()


def attach(
    samples: list[Staged],
    table: EMRTable,
    name: str,
    spec: IngestSpec,
    names: Pseudonyms,
    *,
    whole: bool,
    there: Mapping[str, frozenset[str]] | None = None,
) -> Clinical:
    """Give each sample its values, visits and label; rows that no sample belongs to become samples or findings.

    name: of the table in findings. whole: the table is the source itself, whose own findings are told already. there: pseudonyms by
    kind of what is in the cohort that is added to.
    A patient without a row keeps images, with every value missing. Raises IngestError where no row belongs to any sample.
    """
    kind = "image" if table.patients else "patient" if whole else spec.emr_key  # where patients have several rows, each is a sample's own
    called = {s.sample_id: _names_of(s, kind) for s in samples}
    elsewhere = (there or {}).get(kind, frozenset())
    found = match(table, called, names.of, kind=kind, file=name, keep_unmatched=spec.keep_unmatched, there=elsewhere)
    rows = dict(found.rows)
    if spec.keep_unmatched:
        for key in found.unmatched:
            alone = _alone(key, kind, names)
            samples.append(alone)
            rows[alone.sample_id] = key
    length = (spec.emr_visits or usual_length(table.sequences.values())) if table.sequence_columns else 0
    rules = load_rules(spec.label_rules) if spec.label_rules else None
    labels, evidence, findings = _decided(table, rules, kind, name, names) if rules else (table.labels, (), ())
    for sample in samples:
        key = rows.get(sample.sample_id, "")
        sample.emr = dict(table.rows.get(key, {}))
        if key in table.sequences:
            packed = pack(table.sequences[key], length)
            sample.visits = (packed.values.tolist(), packed.missing.tolist(), packed.gap_days.tolist(), packed.steps)
        if sample.label is None and (spec.label is not None or spec.event is not None or rules):
            sample.label = labels.get(key)
        sample.followup = table.followups.get(key)
    present = {sample.label for sample in samples}
    classes = rules.class_names if rules else table.label_names
    told = () if whole else (*file_findings(table, name), *table.findings)
    return Clinical(
        table.columns,
        table.sequence_columns,
        length,
        tuple(n for n in classes if n in present or spec.event is not None),  # an event that nobody has yet still is class 1
        evidence,
        (*told, *findings, *found.findings),
    )


def write_evidence(path: Path, evidence: Sequence[Evidence]) -> None:
    """Ordered by key, so that the order of the table doesn't get out."""
    rows = sorted(astuple(e) for e in evidence)
    pq.write_table(pa.table({f.name: pa.array([row[i] for row in rows], pa.string()) for i, f in enumerate(fields(Evidence))}), path)


def read_evidence(path: Path) -> list[Evidence]:
    """The rows of a cohort's labels.parquet."""
    return [Evidence(**row) for row in pq.read_table(path).to_pylist()]


def _decided(
    table: EMRTable, rules: LabelRules, kind: str, name: str, names: Pseudonyms
) -> tuple[dict[str, str], tuple[Evidence, ...], tuple[Finding, ...]]:
    labels: dict[str, str] = {}
    evidence: list[Evidence] = []
    findings: list[Finding] = []
    for key, texts in table.texts.items():
        decision = rules.decide({column: "\n".join(cells) for column, cells in texts.items()})
        if decision.label is not None:
            labels[key] = decision.label
        pseudonym, ambiguous = names.of(kind if kind != "image" else "sample", key), "yes" if decision.ambiguous else ""
        evidence += [
            Evidence(pseudonym, decision.label or "", ambiguous, e.class_name, e.rule, e.source, e.polarity) for e in decision.evidence
        ]
        reasons = {"not-a-code": "a column of codes holds something else", "text-too-long": "a text is too long to be read"}
        findings += [Finding(f"{name}#{table.row_of(key)}", "ignored", p, reasons[p]) for p in decision.problems]
    return labels, tuple(evidence), tuple(findings)


def _names_of(sample: Staged, kind: str) -> tuple[str, ...]:
    if kind == "image":
        return sample.called
    return (sample.patient if kind == "patient" else sample.study,)


def _alone(key: str, kind: str, names: Pseudonyms) -> Staged:
    """A row of the table as a sample without an image; of a study or an image alone nobody knows the patient, so it counts as one."""
    person = names.of("patient", key)
    return Staged(
        sample_id=names.of("sample", f"{kind} of a table\0{key}"), patient=person, person=person, study="", series="", site="", called=(),
        image=None, mask=None, content="", likeness="", mask_values=(), label=None, labels=None, split="", spacing=None, affine=None,
        unit="raw", files=(),
    )  # fmt: skip
