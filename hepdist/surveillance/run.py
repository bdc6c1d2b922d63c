"""`hepdist surveil`: the table, the counts, the judgements, the outputs, in this order."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from hepdist.errors import IngestError
from hepdist.evaluation.provenance import versions
from hepdist.surveillance.accuracy import classifier
from hepdist.surveillance.alerts import Judged, alerts_table, judge_all
from hepdist.surveillance.episodes import first_visits
from hepdist.surveillance.judge import false_alarms
from hepdist.surveillance.page import PAGE, render
from hepdist.surveillance.quarantine import Quarantine
from hepdist.surveillance.spec import SurveilSpec, parse_options
from hepdist.surveillance.table import read_reports
from hepdist.surveillance.weekly import Weekly, weekly

ALERTS, QUARANTINE, FACTS = "alerts", "quarantine.csv", "surveil.json"
SILENT_WEEKS = 8
"""A site without a row for as many weeks up to the newest has probably stopped reporting; one that begins so late has been added."""


@dataclass(frozen=True)
class Outcome:
    """What a person at the terminal is told, who has the table and may see more than the outputs tell."""

    folder: Path
    table: pd.DataFrame
    """As published."""
    records: int
    left_out: Mapping[str, int]
    judged: Judged


def surveil(table: str, out: str | Path, options: list[str], today: date | None = None) -> Outcome:
    """Judge the weeks of a table and write OUT/alerts.parquet, alerts.csv, quarantine.csv, surveil.json and surveil.html.

    options: key=value of SurveilSpec; today: for tests. Raises RecipeError, IngestError or RunError before anything is written.
    """
    spec = parse_options(options)
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise IngestError(f"'{out}' is a file; give a folder to write to")
    threshold, accuracy = classifier(spec)
    quarantine = Quarantine()
    reports = read_reports(table, spec, threshold, quarantine, today or datetime.now().date())
    kept = first_visits(reports.rows, spec.same_case_days, spec.patient or "patient", quarantine)
    counts = weekly(replace(reports, rows=kept))
    judged = judge_all(counts, spec)
    published = alerts_table(counts, judged, spec, accuracy)
    left_out = quarantine.by_check()
    title = PurePosixPath(table).stem
    page = render(title, published, judged, spec, accuracy, left_out, str(reports.until), _comings_and_goings(counts))

    parquet = io.BytesIO()
    published.to_parquet(parquet, index=False)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / f"{ALERTS}.parquet", parquet.getvalue())
    _write(folder / f"{ALERTS}.csv", published.to_csv(index=False, lineterminator="\n").encode())
    _write(folder / QUARANTINE, quarantine.text().encode())
    _write(folder / PAGE, page.encode())
    _write(folder / FACTS, json.dumps(_facts(spec, judged, left_out, str(reports.until)), indent=1, ensure_ascii=False).encode())
    return Outcome(folder, published, reports.records, left_out, judged)


def _facts(spec: SurveilSpec, judged: Judged, left_out: Mapping[str, int], until: str) -> dict[str, object]:
    """How it was done, for machines: no counts."""
    options = spec.model_dump(mode="json") | {"run": PurePosixPath(spec.run).name}
    latest = judged.latest()
    return {
        "options": options, "until": until, "left_out": dict(left_out), "series": len(judged.series),
        "latest": {"judged": len(latest), "false_alarms_expected": round(false_alarms(list(latest.values()), spec), 4)},
        "methods": {name: one.method for name, one in latest.items()}, "versions": versions(),
    }  # fmt: skip


def _comings_and_goings(counts: Weekly) -> list[str]:
    """Sites that began after the table did, and those that sent nothing of late, in sentences: what they do to a plot is no epidemic."""
    said = []
    late = [site for site, start in zip(counts.sites, counts.starts, strict=True) if start >= SILENT_WEEKS]
    if late and len(counts.sites) > 1:
        said.append(f"The sum of all sites rises where a site begins to report: {', '.join(late)} began after the table's first weeks.")
    if counts.tested is not None:  # else: no case need not be no report
        silent = [site for site, row in zip(counts.sites, counts.tested, strict=True) if not np.any(row[-SILENT_WEEKS:])]
        if silent:
            said.append(f"No report for {SILENT_WEEKS} weeks from {', '.join(silent)}: what looks quiet may be silence.")
    return said


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.rename(path)
