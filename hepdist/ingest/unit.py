"""One unit of reading: a few items of a source, read in one go by one process, kept on disk so that a restart finds them done."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hepdist.ingest.audit import Row, row_of
from hepdist.ingest.called import image_names
from hepdist.ingest.files import Files
from hepdist.ingest.likeness import likeness_of
from hepdist.ingest.pseudonym import Pseudonyms
from hepdist.ingest.sample import Finding, Sample, Source
from hepdist.ingest.stage import Arrays, Staged, content_of, fault_of

MOST_ITEMS, MOST_FINDINGS = 64, 512
"""Of one unit: enough that its own file costs nothing beside it, few enough that a kill loses seconds."""
FEWEST_UNITS = 64
"""Where a source has as many items: volumes are read one by one, and every process has its share."""
TRIES = 2
"""Times that an item may end its process, such as by a decoder's crash, before it is quarantined."""


@dataclass(frozen=True)
class Unit:
    number: int
    items: tuple[Any, ...] = ()
    findings: tuple[Finding, ...] = ()
    """About files that no item holds; they are hashed here."""


@dataclass
class Outcome:
    """What a unit gave: samples in order, and audit rows of everything else."""

    samples: list[Staged]
    rows: list[Row]
    keys: list[tuple[str, str]] = field(default_factory=list)
    """(kind, raw key) for a re-identification map; only where one is asked for, and never on disk."""


def units_of(source: Source, others: Sequence[Finding] = ()) -> list[Unit]:
    """All of a source and `others`, findings first, so that what reading an item tells of a file replaces them.

    A function of the source alone, so that a restart finds the same units on any number of processes.
    """
    size = min(MOST_ITEMS, max(1, len(source.items) // FEWEST_UNITS))
    findings = [*others, *source.findings]
    units = [Unit(0, findings=tuple(findings[n : n + MOST_FINDINGS])) for n in range(0, len(findings), MOST_FINDINGS)]
    units += [Unit(0, tuple(source.items[n : n + size])) for n in range(0, len(source.items), size)]
    return [replace(unit, number=number) for number, unit in enumerate(units)]


class UnitReader:
    """Reads units into the staging folder; one lives in each reading process."""

    def __init__(self, source: Source, files: Files, names: Pseudonyms, folder: Path, run: str, alike: bool, keyed: bool):
        """run: a name of this run, which tells its crashes from a kill of an earlier one; alike: find near-identical images; keyed: give
        raw keys, for which a unit that was read before is read again.
        """
        self._source, self._files, self._names, self._folder, self._run = source, files, names, folder, run
        self._alike, self._keyed = alike, keyed

    def __call__(self, unit: Unit) -> Outcome:
        done = self._folder / f"unit-{unit.number:06d}.json"
        if done.is_file() and not self._keyed:
            return _load(done)
        arrays = Arrays(done.with_suffix(".arrays"))
        outcome = Outcome([], [row_of(finding, self._names, self._files.sha256) for finding in unit.findings])
        for index, item in enumerate(unit.items):
            for found in self._read(done, index, item):
                if isinstance(found, Finding):
                    outcome.rows.append(self._row(found))
                elif fault := fault_of(found):
                    outcome.rows += [self._row(f) for f in refused(found, *fault)]
                else:
                    outcome.samples.append(self._stage(found, arrays))
                    outcome.keys += _keys_of(found) if self._keyed else []
        arrays.close()
        if not outcome.samples:
            done.with_suffix(".arrays").unlink()
        _save(done, outcome)
        return outcome

    def _read(self, done: Path, index: int, item: Any) -> Iterator[Sample | Finding]:
        """The item's samples, unless it has ended this run's processes TRIES times already."""
        mark = done.with_suffix(f".{index}.{self._run}")
        tries = mark.stat().st_size if mark.is_file() else 0
        if tries >= TRIES:
            for name in getattr(item, "files", ()):
                yield Finding(name, "quarantined", "crash", f"reading it ended the process {tries} times")
            return
        with open(mark, "ab") as file:
            file.write(b".")
        yield from self._source.read(item)
        mark.unlink()

    def _row(self, finding: Finding) -> Row:
        return row_of(finding, self._names, self._files.sha256)

    def _stage(self, sample: Sample, arrays: Arrays) -> Staged:
        of, image, mask = self._names.of, sample.image, sample.mask
        patient = of("patient", sample.patient)
        return Staged(
            sample_id=of("sample", sample.key),
            patient=patient,
            person=patient,
            study=of("study", sample.study) if sample.study else "",
            series=of("series", sample.series) if sample.series else "",
            site=of("site", sample.site) if sample.site else "",
            called=tuple(of("sample", name) for name in image_names(sample.key, sample.patient)),
            image=arrays.put(image) if image is not None else None,
            mask=arrays.put(mask.astype(np.uint8, copy=False)) if mask is not None else None,
            content=content_of(image) if image is not None else "",
            likeness=likeness_of(image).hex() if image is not None and self._alike else "",
            mask_values=tuple(int(v) for v in np.unique(mask)) if mask is not None else (),
            label=sample.label,
            labels=tuple(int(v) for v in sample.labels) if sample.labels is not None else None,
            split=sample.split or "",
            spacing=tuple(float(s) for s in sample.spacing) if sample.spacing is not None else None,
            affine=tuple(tuple(float(v) for v in row) for row in sample.affine) if sample.affine is not None else None,
            unit=sample.image_unit,
            files=tuple((of("file", name), self._files.sha256(name)) for name in sample.files),
            day=sample.date.toordinal() if sample.date is not None else None,
            header=_header_row(sample.header, self._names) if sample.header is not None else None,
        )


def refused(sample: Sample, check: str, reason: str) -> Sequence[Finding]:
    """A finding for each file of a sample; one that is a part of a larger file is named by its key."""
    return [Finding(name, "quarantined", check, reason, sample.study, sample.series) for name in sample.files or (f"#{sample.key}",)]


def _keys_of(sample: Sample) -> list[tuple[str, str]]:
    named = [("patient", sample.patient), ("study", sample.study), ("series", sample.series), ("sample", sample.key)]
    return [*named, *(("file", name) for name in sample.files)]


def _header_row(header: Any, names: Pseudonyms) -> dict[str, str | float]:
    from hepdist.ingest.headers import header_row  # the table of PS3.15 takes a second to import

    return header_row(header, names)


def _save(path: Path, outcome: Outcome) -> None:
    part = path.with_suffix(".part")
    content = {"samples": [s.to_json() for s in outcome.samples], "rows": [astuple(row) for row in outcome.rows]}
    with open(part, "w", encoding="utf-8") as file:
        file.write(json.dumps(content))  # not json.dump, which is written in Python
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)  # the arrays were written before: a unit whose facts are there is whole


def _load(path: Path) -> Outcome:
    content = json.loads(path.read_text(encoding="utf-8"))
    return Outcome([Staged.from_json(s) for s in content["samples"]], [Row(*row) for row in content["rows"]])
