"""One predicting process: items of a source in, files of their cases and a record of each item out; an item whose record holds is left alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any

from hepdist.inference.case import Case
from hepdist.inference.cohort_cases import CohortCases
from hepdist.inference.outputs import Outputs
from hepdist.inference.outputs import Row as TableRow
from hepdist.inference.predictor import Predictor
from hepdist.inference.reading import Reading
from hepdist.ingest.audit import Row, row_of
from hepdist.ingest.pseudonym import Pseudonyms
from hepdist.ingest.sample import Finding, Sample
from hepdist.ingest.unit import refused
from hepdist.place import Place

DONE = "done"
"""Folder of the records."""


@dataclass(frozen=True)
class Setting:
    """What a predicting process must know; pickles."""

    runs: tuple[str, ...]
    device: str
    threads: int | None
    tta: bool
    dropout_samples: int | None
    overlays: bool
    dicom: bool
    identify: bool
    signature: str
    """Of the model, the options and the tables beside the images: a record made under another one does not hold."""


@dataclass
class Record:
    """What became of one item; on disk it says that all files of its cases are there."""

    rows: list[TableRow] = field(default_factory=list)
    audit: list[Row] = field(default_factory=list)
    keys: list[dict[str, str]] = field(default_factory=list)
    """With identify=true: pseudonyms and what they stand for."""

    def dump(self, signature: str, files: dict[str, str]) -> bytes:
        content = {
            "signature": signature,
            "files": files,
            "rows": self.rows,
            "audit": [astuple(row) for row in self.audit],
            "keys": self.keys,
        }
        return json.dumps(content).encode()

    @classmethod
    def load(cls, data: bytes, signature: str, files: dict[str, str]) -> Record | None:
        """None where it is of another signature or of other files."""
        content = json.loads(data)
        if content["signature"] != signature or content["files"] != files:
            return None
        return cls(content["rows"], [Row(*row) for row in content["audit"]], content["keys"])


class Work:
    """Called with a few items; one lives in each process."""

    def __init__(self, reading: Reading | CohortCases, place: Place, names: Pseudonyms, setting: Setting) -> None:
        self._reading, self._place, self._names, self._setting = reading, place, names, setting
        self._predictor = Predictor(
            setting.runs, device=setting.device, threads=setting.threads, tta=setting.tta, dropout_samples=setting.dropout_samples
        )
        self._files = None if isinstance(reading, CohortCases) else reading.files
        self._outputs = Outputs(place, self._files, names, self._predictor, dicom=setting.dicom, overlays=setting.overlays)

    def __call__(self, items: Sequence[Any]) -> list[Record]:
        """One record an item, in order."""
        records = [self._recorded(item) for item in items]
        fresh = {index: Record() for index, record in enumerate(records) if record is None}
        cases = [(index, case) for index, record in fresh.items() for case in self._read(items[index], record)]
        answers = self._predictor([self._predictor.upright(case) for _, case in cases]) if cases else []
        for (index, case), answer in zip(cases, answers, strict=True):
            name = self._sample_id(case.sample)
            said = self._outputs.write(self._reading.kind, items[index], case, answer, name)
            fresh[index].rows.append({"sample_id": name, **self._keys(case.sample), **said})
        for index, record in fresh.items():
            self._place.write(self._marker(items[index]), record.dump(self._setting.signature, self._hashes(items[index])))
        return [record or fresh[index] for index, record in enumerate(records)]

    def _read(self, item: Any, record: Record) -> Iterable[Case]:
        for found in self._reading.read(item):
            if isinstance(found, Finding):
                self._audit(record, [found])
                continue
            fault = self._predictor.refusal(found)
            if fault is not None:
                self._audit(record, refused(found.sample, *fault))
                continue
            self._audit(
                record, [Finding(name, "predicted", study=found.sample.study, series=found.sample.series) for name in found.sample.files]
            )
            if self._setting.identify:
                record.keys.append(_raw(found.sample, self._sample_id(found.sample), self._keys(found.sample)))
            yield found

    def _recorded(self, item: Any) -> Record | None:
        try:
            data = self._place.read(self._marker(item))
        except FileNotFoundError:
            return None
        return Record.load(data, self._setting.signature, self._hashes(item))

    def _marker(self, item: Any) -> str:
        return marker(self._names, item)

    def _hashes(self, item: Any) -> dict[str, str]:
        """sha256 of the item's files by pseudonym; of the whole source where its items share one file."""
        if self._files is None:
            return {}
        names = getattr(item, "files", None) or self._files.names
        return {self._names.of("file", name): self._files.sha256(name) for name in names}

    def _audit(self, record: Record, findings: Iterable[Finding]) -> None:
        if self._files is not None:
            record.audit += [row_of(finding, self._names, self._files.sha256) for finding in findings]

    def _sample_id(self, sample: Sample) -> str:
        """In a cohort, keys are pseudonyms already."""
        return sample.key if self._files is None else self._names.of("sample", sample.key)

    def _keys(self, sample: Sample) -> dict[str, str]:
        if self._files is None:
            return {"patient": sample.patient, "study": "", "series": ""}
        raw = {"patient": sample.patient, "study": sample.study, "series": sample.series}
        return {kind: self._names.of(kind, value) if value else "" for kind, value in raw.items()}


def marker(names: Pseudonyms, item: Any) -> str:
    """The name of an item's record."""
    return f"{DONE}/{names.of('item', repr(item))}.json"


def _raw(sample: Sample, sample_id: str, keys: dict[str, str]) -> dict[str, str]:
    raw = {"patient_key": sample.patient, "study_key": sample.study, "series_key": sample.series, "key": sample.key}
    return {"sample_id": sample_id, **keys, **raw, "files": "; ".join(sample.files)}
