"""The order of ingest: read, check, join, split, write; a cohort appears whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

import hepdist
from hepdist.errors import IngestError
from hepdist.ingest.audit import Audit, findings_of
from hepdist.ingest.classes import Bad, check_multilabel, name_labels, name_mask_classes
from hepdist.ingest.detect import open_source
from hepdist.ingest.files import Files
from hepdist.ingest.fit import fit_changes, misfits, plan_layout
from hepdist.ingest.join import join, table_path
from hepdist.ingest.pseudonym import Pseudonyms, read_salt
from hepdist.ingest.sample import Finding, Sample, Source
from hepdist.ingest.spec import IngestSpec, parse_options
from hepdist.ingest.split import assign, outside_their_split, unite_identical
from hepdist.ingest.stage import Stage, Staged, content_of, fault_of
from hepdist.ingest.statistics import Statistics
from hepdist.ingest.write import Columns, write_split
from hepdist.shards.manifest import MANIFEST, SPLITS, EMRColumn, Manifest

Progress = Callable[[int, int], None]


def run(source: str, cohort: str, options: list[str], progress: Progress | None = None) -> Manifest:
    """See hepdist.ingest.ingest."""
    spec = parse_options(options)
    target = Path(cohort)
    refuse_existing(target, spec.overwrite)
    names = Pseudonyms(read_salt(spec.salt))
    files = Files(source)
    table, inside = table_path(files, spec)
    reader = open_source(files, spec, skip=inside)
    if spec.label is not None and table is None and reader.kind != "images":
        raise IngestError(f"ingest key 'label' is '{spec.label}', a column, but there is no table; add emr=TABLE.csv")
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    (part / "shards").mkdir(parents=True)
    try:
        manifest = _build(part, target.name, files, reader, table, spec, names, progress or (lambda done, total: None))
        manifest.save(part)
        _put_in_place(part, target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return manifest


def refuse_existing(target: Path, overwrite: bool) -> None:
    """Raises IngestError where `target` holds anything that may not be replaced."""
    if (target / MANIFEST).is_file():
        if not overwrite:
            raise IngestError(f"cohort '{target}' exists already; choose another folder or replace it with overwrite=true")
    elif target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise IngestError(f"'{target}' exists and is not a cohort; choose another folder")


def _build(
    part: Path, name: str, files: Files, source: Source, table: Path | None, spec: IngestSpec, names: Pseudonyms, progress: Progress
) -> Manifest:
    audit, stage = Audit(), Stage(part / "staging")
    total = max(1, len(source.items))
    samples = _read(source, names, stage, audit, lambda done: progress(min(done, total), 2 * total))

    samples = _without(samples, audit, [(s, "geometry", "its channels or axes are not those of most images") for s in misfits(samples)])
    emr, declared = _join(samples, table, files, spec, audit)
    samples, label_names, mask_classes, mask_values = _classes(samples, source, declared or source.label_names, spec, audit)
    samples, split_rule = _split(samples, spec, names, audit)

    layout = plan_layout(samples, spec)
    columns = Columns(
        layout,
        label_names,
        source.multilabel,
        mask_classes,
        mask_values,
        emr,
        _geometry(samples, bool(mask_classes), fit_changes(samples, layout)),
        "mm" if any(s.spacing is not None for s in samples) else "source pixels",
    )
    by_split = {split: [s for s in samples if s.split == split] for split in SPLITS}
    statistics = Statistics(layout.channels, len(emr), label_names, mask_classes, len(by_split["train"]))
    written = 0

    def wrote() -> None:
        nonlocal written
        written += 1
        progress(total + written * total // len(samples), 2 * total)

    shards = [shard for split in SPLITS for shard in write_split(part, split, by_split[split], stage, names, columns, statistics, wrote)]
    stage.remove()
    for sample in samples:
        for finding in findings_of(sample, "ingested") if sample.files else ():
            audit.add(finding)
    audit.write(part / "audit.parquet", names, files.sha256)
    shares = statistics.missing_shares()
    return Manifest(
        name=name,
        source=source.kind,
        tensors=columns.meanings(),
        shards=tuple(shards),
        label_names=label_names,
        multilabel=source.multilabel,
        emr=tuple(replace(column, missing_share=share) for column, share in zip(emr, shares, strict=True)),
        counts={**statistics.counts(), "audit": audit.counts()},
        normalisation=statistics.normalisation(emr),
        fingerprint=statistics.fingerprint(),
        split_rule=split_rule,
        created_by=f"hepdist {hepdist.__version__}",
    )


def _read(source: Source, names: Pseudonyms, stage: Stage, audit: Audit, progress: Callable[[int], None]) -> list[Staged]:
    """All sound samples, staged on disk; everything else is in the audit."""
    samples: dict[str, Staged] = {}
    for finding in source.findings:
        audit.add(finding)
    for done, item in enumerate(source.items, 1):
        for found in source.read(item):
            if isinstance(found, Finding):
                audit.add(found)
                continue
            sample_id = names.of("sample", found.key)
            fault = ("duplicate-key", "another image has the same identifier") if sample_id in samples else fault_of(found)
            if fault is not None:
                _quarantine(audit, found, *fault)
            else:
                samples[sample_id] = _stage(found, sample_id, names, stage)
        progress(done)
    stage.finish()
    if not samples:
        raise IngestError(f"no image of the source could be ingested; the commonest reason is {audit.commonest()}")
    return list(samples.values())


def _stage(sample: Sample, sample_id: str, names: Pseudonyms, stage: Stage) -> Staged:
    assert sample.image is not None
    return Staged(
        sample_id=sample_id,
        key=sample.key,
        patient=sample.patient,
        person=names.of("patient", sample.patient),
        study=sample.study,
        series=sample.series,
        image=stage.put(sample.image),
        mask=stage.put(sample.mask.astype(np.uint8, copy=False)) if sample.mask is not None else None,
        content=content_of(sample.image),
        mask_values=tuple(int(v) for v in np.unique(sample.mask)) if sample.mask is not None else (),
        label=sample.label,
        labels=sample.labels,
        split=sample.split or "",
        spacing=sample.spacing,
        affine=sample.affine,
        unit=sample.image_unit,
        files=sample.files,
    )


def _join(
    samples: list[Staged], path: Path | None, files: Files, spec: IngestSpec, audit: Audit
) -> tuple[tuple[EMRColumn, ...], tuple[str, ...]]:
    """EMR columns, and the classes of those labels of the table that an image has; both empty without a table."""
    if path is None:
        return (), ()
    _, inside = table_path(files, spec)
    table, findings = join(samples, path, spec, next(iter(inside), path.name))
    for finding in findings:
        audit.add(finding)
    there = {s.label for s in samples}
    return table.columns, tuple(name for name in table.label_names if name in there)


def _classes(
    samples: list[Staged], source: Source, declared: tuple[str, ...], spec: IngestSpec, audit: Audit
) -> tuple[list[Staged], tuple[str, ...], tuple[str, ...], tuple[int, ...]]:
    """The samples of known classes, label names, mask classes and the masks' values."""
    if source.multilabel:
        check_multilabel(samples, source.label_names)
        label_names: tuple[str, ...] = source.label_names
    else:
        label_names, bad = name_labels(samples, spec.label_names or declared, spec.unlabelled)
        samples = _without(samples, audit, bad)
    masked = sum(s.mask is not None for s in samples)
    wanted = spec.masks == "require" or (spec.masks == "auto" and masked and (masked == len(samples) or not label_names))
    if not wanted:
        return samples, label_names, (), ()
    samples = _without(samples, audit, [(s, "unpaired", "image without a mask") for s in samples if s.mask is None])
    mask_classes, mask_values, bad = name_mask_classes(samples, spec.classes or source.mask_classes)
    return _without(samples, audit, bad), label_names, mask_classes, mask_values


def _split(samples: list[Staged], spec: IngestSpec, names: Pseudonyms, audit: Audit) -> tuple[list[Staged], dict[str, object]]:
    """Every sample in the split of its patient, and the rule that decided it."""
    merged = unite_identical(samples)
    if not all(s.split for s in samples):
        stratified = assign(samples, spec.split, names)
        return samples, {"kind": "hash", "ratio": list(spec.split), "stratified": stratified, "patients_merged": merged}
    reason = "the same patient or an identical image is in the official {} split"
    samples = _without(samples, audit, [(s, "duplicate-across-splits", reason.format(kept)) for s, kept in outside_their_split(samples)])
    rule: dict[str, object] = {"kind": "official", "patients_merged": merged}
    if not any(s.split == "val" for s in samples):
        train = [s for s in samples if s.split == "train"]
        rule |= {"val": "from train", "ratio": list(spec.split), "stratified": assign(train, (*spec.split[:2], 0), names)}
    return samples, rule


def _without(samples: list[Staged], audit: Audit, bad: Bad) -> list[Staged]:
    """The others; the bad ones go to the audit. Raises IngestError where none is left."""
    gone = set()
    for sample, check, reason in bad:
        _quarantine(audit, sample, check, reason)
        gone.add(sample.sample_id)
    left = [s for s in samples if s.sample_id not in gone]
    if not left:
        raise IngestError(f"no image of the source could be ingested; the commonest reason is {audit.commonest()}")
    return left


def _quarantine(audit: Audit, sample: Sample | Staged, check: str, reason: str) -> None:
    for finding in findings_of(sample, "quarantined", check, reason):
        audit.add(finding)


def _geometry(samples: Sequence[Staged], masked: bool, changes: tuple[bool, bool]) -> tuple[str, ...]:
    """The geometry columns that say something in this cohort."""
    resampled, moved = changes
    there = {
        "spacing": masked or resampled or any(s.spacing is not None for s in samples),
        "source_shape": resampled,
        "original_shape": masked or moved,
        "offset": masked or moved,
        "affine": any(s.affine is not None for s in samples),
    }
    return tuple(name for name, keep in there.items() if keep)


def _put_in_place(part: Path, target: Path) -> None:
    if target.exists():
        old = target.with_name(f"{target.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
        part.rename(target)
        shutil.rmtree(old)
    else:
        part.rename(target)
