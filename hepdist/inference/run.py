"""`hepdist predict` from a command to its folder: a source of any kind, the models of one run or several, and an answer for every case."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hepdist.errors import RunError
from hepdist.inference.cohort_cases import CohortCases, is_cohort
from hepdist.inference.identity import Identity
from hepdist.inference.outputs import FOLDERS
from hepdist.inference.page import write_page
from hepdist.inference.predictor import Predictor
from hepdist.inference.reading import Reading
from hepdist.inference.spec import ASIDE, PredictSpec, parse_predict
from hepdist.inference.spread import Spread, spread
from hepdist.inference.work import DONE, Record, Setting, Work, marker
from hepdist.ingest.audit import AUDIT, Audit, row_of
from hepdist.ingest.files import Files
from hepdist.ingest.pipeline import SMALL_BYTES, SMALL_FILES
from hepdist.ingest.pseudonym import Pseudonyms, read_salt
from hepdist.place import Place, absolute, place_of
from hepdist.shards.manifest import Manifest

STATED, TABLE, CSV, KEYS = "predict.json", "predictions.parquet", "predictions.csv", "keys.csv"
MOST_TOGETHER = 16
"""Pictures that a process takes at once; volumes go one by one."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Summary:
    """What a prediction came to."""

    table: pd.DataFrame
    counts: dict[str, int]
    """Files by outcome, and by check where one failed."""
    identity: Identity
    page: str


def predict(
    runs: str, source: str, out: str, options: Sequence[str] = (), *, split: str | None = None, progress: Progress | None = None
) -> Summary:
    """Predict every case at `source` with the run at `runs` (several, joined by '+', as one ensemble) into the folder or URI `out`.

    options: key=value of PredictSpec, and those of ingest that say how the source is laid out; split: of a cohort, else all. The same
    command again goes on where it stopped, and takes up files that are new or have changed. Raises HepdistError.
    """
    spec, others = parse_predict(list(options))
    _refuse_inside(source, out)
    report = progress or (lambda done, total: None)
    predictor = Predictor(_runs(runs), tta=spec.tta, dropout_samples=spec.dropout_samples)
    identity, signature, place = Identity.of(predictor), predictor.signature, place_of(out)
    names = Pseudonyms(read_salt(spec.salt))
    stated = _stated(identity, source, spec, others, split, names)
    _refuse_other(place, stated)
    cohort = is_cohort(source)
    if split is not None and not cohort:
        raise RunError(f"--split {split} is one of a cohort's, and '{source}' is no cohort; leave it out")
    with spread(spec, _is_small(source, cohort)) as where:
        reading = CohortCases(absolute(source), signature, split) if cohort else Reading(source, signature, others, names, where.headers)
        place.write(STATED, json.dumps(stated, indent=1).encode())
        setting = Setting(
            tuple(absolute(run) for run in _runs(runs)), where.device, where.threads, spec.tta, spec.dropout_samples, spec.overlays,
            spec.dicom, spec.identify, names.of("signature", json.dumps([stated, reading.stamp])),
        )  # fmt: skip
        records = _records(where, reading, (reading, _anywhere(place), names, setting), predictor, report)
    audit = Audit()
    if isinstance(reading, Reading):
        for finding in reading.findings:
            audit.add(row_of(finding, names, reading.files.sha256))
    for row in (row for record in records for row in record.audit):
        audit.add(row)
    rows = [row for record in records for row in record.rows]
    table = pd.DataFrame(rows)
    if len(table):
        table = table.sort_values("sample_id", ignore_index=True)
    with place.writing(AUDIT) as path:
        audit.write(path)
    _write_table(place, table)
    if spec.identify:
        _write_keys(place, [key for record in records for key in record.keys])
    _sweep(
        place, {cell for row in rows for cell in row.values() if isinstance(cell, str)} | {marker(names, item) for item in reading.items}
    )
    counts = audit.counts() if isinstance(reading, Reading) else {}
    place.write(STATED, json.dumps({**stated, "cases": len(table), "files": counts}, indent=1).encode())
    summary = Summary(table, counts, identity, write_page(place, table, counts, identity, spec.embed))
    if not len(table):
        raise RunError(f"no case of the source could be predicted; the commonest reason is {audit.commonest()}; all are in {place}/{AUDIT}")
    return summary


def _records(
    where: Spread, reading: Reading | CohortCases, arguments: tuple[Any, ...], predictor: Predictor, report: Progress
) -> list[Record]:
    volumes = predictor.layout is not None and len(predictor.layout.size) == 3
    size = 1 if volumes else min(MOST_TOGETHER, max(1, len(reading.items) // (4 * where.count)))
    units = [tuple(reading.items[first : first + size]) for first in range(0, len(reading.items), size)]
    found, done = {}, 0
    report(0, len(reading.items))
    for index, records in where.each(Work, arguments, units):
        found[index] = records
        done += len(units[index])
        report(done, len(reading.items))
    return [record for index in sorted(found) for record in found[index]]


def _runs(runs: str) -> list[str]:
    """Of an ensemble; a folder may have a plus in its name."""
    return [runs] if Path(runs).is_dir() else [run for run in runs.split("+") if run]


def _stated(identity: Identity, source: str, spec: PredictSpec, others: list[str], split: str | None, names: Pseudonyms) -> dict[str, Any]:
    """What a folder of predictions is of; the source's path may name somebody."""
    asked = spec.model_dump(exclude=set(ASIDE))
    layout = names.of("options", "\n".join(sorted(others)))
    return {
        "model": asdict(identity),
        "source": names.of("source", absolute(source)),
        "options": asked | {"split": split, "ingest": layout},
    }


def _refuse_other(place: Place, stated: dict[str, Any]) -> None:
    """Raises RunError where the folder holds anything else than predictions of the same."""
    try:
        before = json.loads(place.read(STATED))
    except FileNotFoundError:
        if place.folder is not None and place.folder.exists() and (not place.folder.is_dir() or any(place.folder.iterdir())):
            raise RunError(f"'{place}' exists and holds no predictions; choose another folder") from None
        return
    for key, what in (("model", "by another model"), ("source", "of another input"), ("options", "with other options")):
        if before.get(key) != json.loads(json.dumps(stated[key])):
            raise RunError(f"'{place}' holds predictions {what}; choose another folder, or remove it")


def _refuse_inside(source: str, out: str) -> None:
    """Raises RunError where the output lies in the input: its own pictures would be cases the next time."""
    place = place_of(out)
    if place.folder is not None and Path(source).is_dir() and place.folder.resolve().is_relative_to(Path(source).resolve()):
        raise RunError(
            f"output '{out}' lies inside the input, which would be read with it the next time; choose a folder beside '{source}'"
        )


def _sweep(place: Place, kept: set[str]) -> None:
    """Remove files of cases that are gone from the input, and of answers that have changed, such as a SEG in which nothing is found any more."""
    for folder in (*FOLDERS, DONE):
        for name in [name for name in place.names(f"{folder}/") if name not in kept]:
            place.remove(name)


def _is_small(source: str, cohort: bool) -> bool:
    if cohort:
        return sum(shard.bytes for shard in Manifest.load(source).shards) < SMALL_BYTES
    files = Files(source)
    return len(files.names) < SMALL_FILES and files.bytes() < SMALL_BYTES


def _anywhere(place: Place) -> Place:
    """The same in a process of another working folder."""
    return place if place.folder is None else place_of(place.folder.resolve())


def _write_table(place: Place, table: pd.DataFrame) -> None:
    with place.writing(TABLE) as path:
        table.to_parquet(path, index=False)
    with place.writing(CSV) as path:
        table.to_csv(path, index=False, float_format="%.6g")


def _write_keys(place: Place, keys: list[dict[str, str]]) -> None:
    with place.writing(KEYS) as path:
        pd.DataFrame(keys).to_csv(path, index=False, errors="surrogateescape")
        path.chmod(0o600)
