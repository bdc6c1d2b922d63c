"""Adding to a cohort: an ingest whose form, classes and splits are those of what is there, and whose tables and counts join it.

No row that is there is read again, moved or written anew: its shards go over as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hepdist.errors import IngestError
from hepdist.ingest.admission import Admission, unfit
from hepdist.ingest.audit import Audit
from hepdist.ingest.build import Build
from hepdist.ingest.classes import name_labels, strange_masks
from hepdist.ingest.clinical import Clinical, Evidence
from hepdist.ingest.columns import Columns
from hepdist.ingest.frozen import SourceNames
from hepdist.ingest.onto import Onto
from hepdist.ingest.people import Member, salted_content
from hepdist.ingest.split import decide
from hepdist.ingest.stage import Staged
from hepdist.ingest.statistics import Part, visits_of
from hepdist.ingest.table import TableSource
from hepdist.ingest.unite import Record, record_of, straddling
from hepdist.shards.manifest import SPLITS, EMRColumn, Manifest, Shard

STRADDLES = "straddles-splits", "with it, one patient or image would be in two splits of the cohort"
UNSPLIT = "no-split", "the cohort keeps its source's official splits, and this one names none"


class Append(Build):
    needs_some = False

    def __init__(self, onto: Onto, *arguments: Any):
        """arguments: as Build takes them. Raises IngestError where the source is of another kind."""
        super().__init__(*arguments)
        manifest = onto.manifest
        if self.source.kind != manifest.source or self.source.multilabel != manifest.multilabel:
            raise IngestError(
                f"the source is of the kind '{self.source.kind}', the cohort of '{manifest.source}'; make a cohort of its own of it"
            )
        if isinstance(self.source, TableSource) and self.source.table.by_row:
            raise IngestError(
                "no column of the table names the patient, so new rows can't be told from those of the cohort; add patient_key=COLUMN"
            )
        self.onto, self.frozen = onto, onto.frozen
        self.audit = Audit(onto.audit)
        self.first = {split: len(manifest.of(split)) for split in SPLITS}
        self.known = self.frozen.known
        self.admission = Admission(onto.members, onto.audit, self.names)
        self.there = self.admission.there
        self.person = {member.patient: member.person for member in onto.members}
        self.split_of = {member.person: member.split for member in onto.members}

    def _joined(self, samples: list[Staged]) -> tuple[list[Staged], Clinical]:
        """The new samples that the cohort can hold. What is there already is joined too, so that its rows of the table aren't strangers."""
        clinical = self._join(samples) if samples else Clinical()
        new = []
        for sample in samples:
            rows = self.admission.found_before(sample)
            if rows is None:
                new.append(sample)
            for row in rows or ():
                self.audit.add(row)
        for sample in new:
            sample.person = self.person.get(sample.patient, sample.patient)
        spacing = self.onto.manifest.fingerprint.get("median_spacing")
        return self._without(new, unfit(new, self.frozen.columns, spacing, self.stage)), clinical

    def _classes(
        self, samples: list[Staged], declared: tuple[str, ...]
    ) -> tuple[list[Staged], tuple[str, ...], tuple[str, ...], tuple[int, ...]]:
        """The samples of the cohort's classes."""
        columns, source, spec = self.frozen.columns, self.source, self.spec
        if source.multilabel:
            if self.frozen.recognised(self.frozen.labels, source.label_names) != source.label_names:
                raise IngestError("the source's labels are not those of the cohort; name them in the same order with label_names=")
        elif columns.label_names:
            texts = {str(sample.label).strip() for sample in samples} | {*spec.label_names, *source.label_names}
            names = self.frozen.recognised(self.frozen.labels, texts)
            _, bad = name_labels(samples, names, spec.unlabelled, by_place=bool(spec.label_names or source.label_names))
            samples = self._without(samples, bad)
        else:
            for sample in samples:
                sample.label = None
        values: tuple[int, ...] = ()
        if columns.mask_classes:
            samples = self._without(samples, [(s, "unpaired", "image without a mask") for s in samples if s.image and s.mask is None])
            masked = [s for s in samples if s.mask is not None]
            values = self.frozen.mask_values(spec.classes or source.mask_classes, masked)
            samples = self._without(samples, strange_masks(masked, values))
        return samples, columns.label_names, columns.mask_classes, values

    def _split(self, samples: list[Staged]) -> tuple[list[Staged], dict[str, object]]:
        """New patients by the cohort's rule, new studies with their patient; which samples would tear one of both is found out first."""
        rule, old = self.onto.manifest.split_rule, [member.record() for member in self.onto.members]
        if rule["kind"] == "official":
            for sample in samples:
                sample.split = sample.split or self.split_of.get(sample.person, "")
            samples = self._without(samples, [(s, *UNSPLIT) for s in samples if not s.split])
        else:
            for sample in samples:
                sample.split = ""
        samples.sort(key=lambda sample: sample.sample_id)
        alike, by = self.spec.near_identical, self.spec.split_by
        torn = straddling([*old, *self._records(samples)], alike, by == "site")
        samples = self._without(samples, [(samples[i - len(old)], *STRADDLES) for i in sorted(torn)])
        if not samples:
            return samples, rule
        found = decide([*old, *self._records(samples)], self.spec.split, self.names, by, alike)
        samples = self._without(samples, [(samples[i - len(old)], *STRADDLES) for i in sorted(found.outside)])
        there: dict[str, str] = {}
        for member in self.onto.members:  # whoever is there keeps the pseudonym that the shards have
            leader = found.leaders[member.person]
            there[leader] = min(there.get(leader, member.person), member.person)
        for sample in samples:
            leader = found.leaders[sample.person]
            sample.person, sample.split = there.get(leader, leader), found.splits[leader]
        merged = {s.patient for s in samples if s.patient not in self.person and s.patient != s.person}
        changed = {"patients_merged": rule["patients_merged"] + len(merged)} | ({"sites": found.rule["sites"]} if "sites" in rule else {})
        return samples, rule | changed

    def _records(self, samples: Sequence[Staged]) -> list[Record]:
        return [replace(record_of(sample), content=salted_content(sample, self.names)) for sample in samples]

    def _columns(
        self,
        samples: list[Staged],
        clinical: Clinical,
        label_names: tuple[str, ...],
        mask_classes: tuple[str, ...],
        mask_values: tuple[int, ...],
    ) -> Columns:
        """The cohort's."""
        return replace(self.frozen.columns, mask_values=mask_values)

    def _tables(self, headers: Sequence[Mapping[str, str | float]], evidence: Sequence[Evidence], members: Sequence[Member]) -> None:
        """The cohort's rows and the new ones; what stands in the cohort counts."""
        onto, known = self.onto, frozenset(self.onto.evidence)
        evidence = [*onto.evidence, *(e for e in evidence if e not in known)]
        super()._tables([*headers, *onto.headers], evidence, [*onto.members, *members])
        self.members = [*onto.members, *members]

    def _manifest(
        self,
        name: str,
        samples: list[Staged],
        columns: Columns,
        called: SourceNames,
        written: list[tuple[Shard, Part]],
        split_rule: dict[str, object],
    ) -> Manifest:
        """That of the cohort, with the new shards and counts; the same object where nothing is new."""
        old = self.onto.manifest
        if not samples and frozenset(self.audit.rows()) == frozenset(self.onto.audit):
            return old
        self.onto.link_shards(self.part)
        new = super()._manifest(name, samples, columns, called, written, split_rule)
        visits = visits_of(samples)
        rows = [sum(manifest.counts[split].get("volumes", manifest.counts[split]["rows"]) for split in SPLITS) for manifest in (old, new)]
        return replace(
            old,
            shards=tuple(shard for split in SPLITS for shard in (*old.of(split), *new.of(split))),
            counts={split: self._counts(split, old.counts[split], new.counts[split]) for split in SPLITS} | {"audit": self.audit.counts()},
            emr=_shared(old.emr, new.emr, rows[0], rows[1]),
            sequence=_shared(old.sequence, new.sequence, old.frozen["visits"], visits),
            split_rule=split_rule,
            created_by=new.created_by,
            generation=old.generation + 1,
            frozen={**old.frozen, "visits": old.frozen["visits"] + visits, "people": new.frozen["people"]},
        )

    def _counts(self, split: str, old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
        classes = {name: count + new["classes"][name] for name, count in old["classes"].items()}
        patients = len({member.person for member in self.members if member.split == split})
        return {key: old[key] + new[key] for key in old if key != "classes"} | {"patients": patients, "classes": classes}


def _shared(old: tuple[EMRColumn, ...], new: tuple[EMRColumn, ...], before: int, added: int) -> tuple[EMRColumn, ...]:
    """The old columns, their share of missing values over `before` and `added` rows."""
    return tuple(
        replace(column, missing_share=(column.missing_share * before + other.missing_share * added) / max(1, before + added))
        for column, other in zip(old, new, strict=True)
    )
