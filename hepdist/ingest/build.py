"""The order of ingest: read, check, join, split, write; each step says what it does in one method."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

import hepdist
from hepdist.errors import IngestError
from hepdist.ingest.audit import AUDIT, Audit, row_of, rows_of
from hepdist.ingest.classes import Bad, check_multilabel, check_places, name_labels, name_mask_classes
from hepdist.ingest.clinical import LABELS, Clinical, Evidence, attach, write_evidence
from hepdist.ingest.columns import Columns, geometry_of
from hepdist.ingest.emr_known import KnownColumns
from hepdist.ingest.emr_read import TableFiles
from hepdist.ingest.files import Files
from hepdist.ingest.fit import fit_changes, misfits, plan_layout
from hepdist.ingest.folder import STAGING
from hepdist.ingest.frozen import SourceNames, freeze
from hepdist.ingest.horizon import label_rule
from hepdist.ingest.join import read_emr
from hepdist.ingest.parallel import Each
from hepdist.ingest.people import PEOPLE, Member, member_of, write_people
from hepdist.ingest.pseudonym import Pseudonyms
from hepdist.ingest.sample import Finding, Source
from hepdist.ingest.spec import IngestSpec
from hepdist.ingest.split import decide
from hepdist.ingest.stage import Staged
from hepdist.ingest.statistics import (
    DRAWN,
    Moments,
    Part,
    counts,
    fingerprint,
    missing_shares,
    missing_shares_of_visits,
    normalisation_of_emr,
    normalisation_of_visits,
    visits_of,
)
from hepdist.ingest.table import TableSource
from hepdist.ingest.told import declared_names, told
from hepdist.ingest.unit import UnitReader, units_of
from hepdist.ingest.unite import record_of
from hepdist.ingest.vocabulary import safe_names
from hepdist.ingest.write import ShardWriter, plan_shards
from hepdist.shards.manifest import SPLITS, Manifest, Shard, sha256_of

Progress = Callable[[int, int], None]


class Build:
    """One ingest: what its steps share."""

    needs_some = True
    """A source that gives nothing is refused; else it is all in the audit."""

    def __init__(
        self,
        part: Path,
        files: Files,
        source: Source,
        table: TableFiles | None,
        inside: frozenset[str],
        spec: IngestSpec,
        names: Pseudonyms,
        each: Each,
        progress: Progress,
    ):
        self.part, self.files, self.source, self.table, self.inside = part, files, source, table, inside
        self.spec, self.names, self.each, self.progress = spec, names, each, progress
        self.stage = part / STAGING
        self.audit = Audit()
        self.first = dict.fromkeys(SPLITS, 0)
        """Number of the first shard of each split."""
        self.known: KnownColumns | None = None
        """EMR columns of the cohort that is added to."""
        self.there: Mapping[str, frozenset[str]] = {}
        """Pseudonyms of what is in it, by kind."""
        self.declared = declared_names(spec)
        self.keys: list[tuple[str, str]] = []

    def run(self, name: str) -> Manifest:
        samples, clinical = self._joined(self._read())
        samples, label_names, mask_classes, mask_values = self._classes(samples, clinical.label_names or self.source.label_names)
        samples, split_rule = self._split(samples)
        called = SourceNames(label_names, mask_classes, clinical.columns, clinical.sequence)
        columns = self._columns(samples, clinical, label_names, mask_classes, mask_values)
        written = self._write(samples, columns)
        for sample in samples:
            for row in rows_of(sample, "ingested") if sample.files else ():
                self.audit.add(row)
        self._write_beside(samples, clinical)
        return self._manifest(name, samples, columns, called, written, split_rule)

    def _joined(self, samples: list[Staged]) -> tuple[list[Staged], Clinical]:
        """The samples that can be in one cohort, with what the EMR table says of them."""
        samples = self._without(samples, [(s, "geometry", "its channels or axes are not those of most images") for s in misfits(samples)])
        return samples, self._join(samples)

    def _columns(
        self,
        samples: list[Staged],
        clinical: Clinical,
        label_names: tuple[str, ...],
        mask_classes: tuple[str, ...],
        mask_values: tuple[int, ...],
    ) -> Columns:
        # a class may be called after a person; what its owner didn't declare is told only if it is made of ordinary words
        label_names = safe_names(label_names, "class", self.declared)
        mask_classes = safe_names(mask_classes, "label", self.declared)
        pictured = [s for s in samples if s.image is not None]
        layout = plan_layout(pictured, self.spec) if pictured else None
        geometry = geometry_of(pictured, bool(mask_classes), fit_changes(pictured, layout)) if layout else ()
        if layout is None and not clinical.columns and not clinical.sequence:
            raise IngestError(f"there is nothing to learn from, neither an image nor a feature of the EMR table{self._why(clinical)}")
        length = "mm" if any(s.spacing is not None for s in samples) else "source pixels"
        return Columns(
            layout, label_names, self.source.multilabel, mask_classes, mask_values, clinical.columns, clinical.sequence, clinical.visits,
            bool(pictured) and len(pictured) < len(samples), geometry,
            any(s.followup is not None for s in samples), length,
        )  # fmt: skip

    def _why(self, clinical: Clinical) -> str:
        told = [f.reason for f in (*self.source.findings, *clinical.findings) if f.check == "not-a-feature"]
        return (
            f" ({'; '.join(told[:3])}{'; ...' if told[3:] else ''}); emr_dictionary=FILE may declare what its columns are" if told else ""
        )

    def _write_beside(self, samples: list[Staged], clinical: Clinical) -> None:
        """The tables that stand beside the shards."""
        headers = [s.header for s in samples if s.header is not None]
        self._tables(headers, clinical.evidence, [member_of(s, self.names, self.spec.split_by == "site") for s in samples])

    def _tables(self, headers: Sequence[Mapping[str, str | float]], evidence: Sequence[Evidence], members: Sequence[Member]) -> None:
        self.audit.write(self.part / AUDIT)
        if headers:
            from hepdist.ingest.headers import HEADERS, write_headers

            write_headers(self.part / HEADERS, headers)
        if evidence:
            write_evidence(self.part / LABELS, evidence)
        write_people(self.part / PEOPLE, members, self.names)

    def _read(self) -> list[Staged]:
        """All sound samples, staged on disk; everything else is in the audit."""
        # links in a circle, devices, members of an archive that lead out of it
        others = [Finding(name, "ignored", "not-a-file", reason) for name, reason in self.files.skipped]
        units = units_of(self.source, others)
        arguments = (
            self.source,
            self.files,
            self.names,
            self.stage,
            f"{time.time_ns():x}",
            self.spec.near_identical,
            bool(self.spec.reidentification_map),
        )
        outcomes, done = {}, 0
        for index, outcome in self.each(UnitReader, arguments, units):
            outcomes[index] = outcome
            done += len(units[index].items)
            self.progress(done, 2 * max(1, len(self.source.items)))
        self.keys = [key for index in sorted(outcomes) for key in outcomes[index].keys]
        samples: dict[str, Staged] = {}
        for index in sorted(outcomes):
            for row in outcomes[index].rows:
                self.audit.add(row)
            for sample in outcomes[index].samples:
                if sample.sample_id in samples:
                    self._quarantine(sample, "duplicate-key", "another image has the same identifier")
                else:
                    samples[sample.sample_id] = sample
        return self._without(list(samples.values()), [])

    def _join(self, samples: list[Staged]) -> Clinical:
        """What the EMR table gives, where there is one; it may add samples without an image."""
        if isinstance(self.source, TableSource):
            clinical = attach(samples, self.source.table, "table", self.spec, self.names, whole=True, there=self.there)
        elif self.table is not None:
            name = next(iter(self.inside)) if len(self.inside) == 1 else self.table.name
            table = read_emr(self.table, self.spec, known=self.known)
            clinical = attach(samples, table, name, self.spec, self.names, whole=False, there=self.there)
        else:
            return Clinical()
        for finding in clinical.findings:
            self.audit.add(row_of(finding, self.names, self.files.sha256))
        return clinical

    def _classes(
        self, samples: list[Staged], declared: tuple[str, ...]
    ) -> tuple[list[Staged], tuple[str, ...], tuple[str, ...], tuple[int, ...]]:
        """The samples of known classes, label names, mask classes and the masks' values."""
        spec, source = self.spec, self.source
        if source.multilabel:
            check_multilabel(samples, source.label_names)
            label_names: tuple[str, ...] = source.label_names
        else:
            check_places(samples, spec.label_names)
            label_names, bad = name_labels(samples, spec.label_names or declared, spec.unlabelled)
            samples = self._without(samples, bad)
        masked, pictured = (
            sum(place is not None for place in places) for places in zip(*((s.mask, s.image) for s in samples), strict=True)
        )
        wanted = spec.masks == "require" or (spec.masks == "auto" and masked and (masked == pictured or not label_names))
        if not wanted:
            return samples, label_names, (), ()
        samples = self._without(samples, [(s, "unpaired", "image without a mask") for s in samples if s.image and s.mask is None])
        mask_classes, mask_values, bad = name_mask_classes(samples, spec.classes or source.mask_classes)
        return self._without(samples, bad), label_names, mask_classes, mask_values

    def _split(self, samples: list[Staged]) -> tuple[list[Staged], dict[str, object]]:
        """Every sample in the split of its patient, and the rule that decided it."""
        records = [record_of(s) for s in samples]
        found = decide(records, self.spec.split, self.names, self.spec.split_by, self.spec.near_identical)
        reason = f"the same patient or an identical image is in the {'official ' if found.rule['kind'] == 'official' else ''}%s split"
        outside = [(samples[i], "duplicate-across-splits", reason % kept) for i, kept in found.outside.items()]
        samples = self._without(samples, outside)
        for sample in samples:
            sample.person = found.leaders[sample.person]
            sample.split = found.splits[sample.person]
        return samples, found.rule

    def _write(self, samples: list[Staged], columns: Columns) -> list[tuple[Shard, Part]]:
        plans = [
            plan for split in SPLITS for plan in plan_shards(split, [s for s in samples if s.split == split], columns, self.first[split])
        ]
        most = max(1, DRAWN // max(1, sum(s.split == "train" for s in samples)))
        written, done, items = {}, 0, max(1, len(self.source.items))
        for index, shard in self.each(ShardWriter, (self.stage, self.part, columns, most), plans):
            written[index] = shard
            done += len(plans[index].samples)
            self.progress(items + done * items // len(samples), 2 * items)
        return [written[index] for index in sorted(written)]

    def _manifest(
        self,
        name: str,
        samples: list[Staged],
        columns: Columns,
        called: SourceNames,
        written: list[tuple[Shard, Part]],
        split_rule: dict[str, object],
    ) -> Manifest:
        moments = Moments(columns.layout.channels if columns.layout else 0)
        mask_rows = {split: np.zeros(len(columns.mask_classes), np.int64) for split in SPLITS}
        for shard, part in written:  # in the order of shards, so that sums round alike on any number of processes
            moments.add(part.image.count, part.image.mean, part.image.squares)
            mask_rows[shard.split] += part.mask_rows
        normalisation = {"image": {"mean": moments.mean.tolist(), "std": moments.std.tolist()}} if columns.layout else {}
        if columns.emr:
            normalisation["emr"] = normalisation_of_emr(samples, columns.emr)
        if columns.visits:
            normalisation["sequence"] = normalisation_of_visits(samples, columns.sequence)
        shares = missing_shares(samples, columns.emr)
        facts = fingerprint(samples, [voxels for _, part in written for voxels in part.drawn])
        bricks = None
        if columns.layout is not None and columns.in_bricks:
            facts["bricks"] = {"size": list(columns.layout.size), "overlap": columns.layout.overlap}
            bricks = {split: sum(shard.rows for shard, _ in written if shard.split == split) for split in SPLITS}
        return Manifest(
            name=name,
            source=self.source.kind,
            tensors=columns.meanings(),
            shards=tuple(shard for shard, _ in written),
            label_names=columns.label_names,
            multilabel=columns.multilabel,
            emr=told(columns.emr, shares, self.declared),
            sequence=told(columns.sequence, missing_shares_of_visits(samples, columns.sequence), self.declared),
            counts={**counts(samples, columns.label_names, columns.mask_classes, mask_rows, bricks), "audit": self.audit.counts()},
            normalisation=normalisation,
            fingerprint=facts,
            split_rule=split_rule,
            label_rule=label_rule(self.spec),
            created_by=f"hepdist {hepdist.__version__}",
            frozen=freeze(self.spec, self.source, columns, called, visits_of(samples), sha256_of(self.part / PEOPLE), self.names),
        )

    def _without(self, samples: list[Staged], bad: Bad) -> list[Staged]:
        """The others; the bad ones go to the audit. Raises IngestError where none is left."""
        for sample, check, reason in bad:
            self._quarantine(sample, check, reason)
        gone = {sample.sample_id for sample, _, _ in bad}
        left = [s for s in samples if s.sample_id not in gone]
        if not left and self.needs_some:
            raise IngestError(f"no image of the source could be ingested; the commonest reason is {self.audit.commonest()}")
        return left

    def _quarantine(self, sample: Staged, check: str, reason: str) -> None:
        for row in rows_of(sample, "quarantined", check, reason):
            self.audit.add(row)
