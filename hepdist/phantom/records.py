"""The phantom's tables: one EMR row a patient (emr.csv) and the visits around it (visits.csv); draws visits, invents no severities."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from hepdist.phantom.disease import EMR_SHIFT, LABS, SITES, Latents, draw_lab
from hepdist.phantom.streams import stream

LABEL = "hepatitis"
"""Column of the diagnosis in emr.csv, `yes` or `no`."""


def patient_id(index: int) -> str:
    """The hospital's number of the patient: identifying on purpose, so that de-identification has something to remove."""
    return f"PH-{index:06d}"


def index_date(index: int, seed: int) -> datetime.date:
    """Day of the chest X-ray and of the EMR row: 2019 to 2023."""
    return datetime.date(2019, 1, 1) + datetime.timedelta(days=int(stream(seed, f"index date {index}").integers(5 * 365)))


def emr_table(emr: pd.DataFrame, latents: Latents) -> pd.DataFrame:
    """patient_id, the columns of `hepdist.phantom.disease.draw_emr`, and the diagnosis in words."""
    ids = [patient_id(i) for i in range(len(emr))]
    return emr.assign(**{LABEL: np.where(latents.hepatitis, "yes", "no")}).set_axis(pd.Index(ids, name="patient_id")).reset_index()


def visits_table(emr: pd.DataFrame, latents: Latents, seed: int) -> pd.DataFrame:
    """patient_id, date (ISO), and LABS at 2 to 8 visits; the visit on the index date repeats the patient's EMR row."""
    rows = [row for i in range(len(emr)) for row in _visits(i, emr, latents, seed)]
    return pd.DataFrame(rows, columns=["patient_id", "date", *(lab.name for lab in LABS)])


def write_table(table: pd.DataFrame, path: Path) -> None:
    """CSV in UTF-8 with an empty cell for what is missing; values carry the decimals they were measured with."""
    written = table.copy()
    for lab in LABS:
        written[lab.name] = ["" if np.isnan(v) else f"{v:.{lab.decimals}f}" for v in table[lab.name]]
    written.to_csv(path, index=False, lineterminator="\n", encoding="utf-8")


def _visits(index: int, emr: pd.DataFrame, latents: Latents, seed: int) -> Iterator[list[object]]:
    rng = stream(seed, f"visits {index}")
    count = int(rng.integers(2, 9))
    days = np.unique(np.append(rng.choice(np.r_[-90:0, 1:181], size=count - 1, replace=False), 0))
    severity = _course(days, float(latents.emr[index]), bool(latents.hepatitis[index]), rng)
    site = np.full(count, SITES.index(emr["site"].iloc[index]))
    measured = {lab.name: draw_lab(lab, severity, site, rng, rng) for lab in LABS}
    start = index_date(index, seed)
    for visit, day in enumerate(days):
        values = [emr[lab.name].iloc[index] if day == 0 else measured[lab.name][visit] for lab in LABS]
        yield [patient_id(index), (start + datetime.timedelta(days=int(day))).isoformat(), *values]


def _course(days: np.ndarray, severity: float, hepatitis: bool, rng: np.random.Generator) -> np.ndarray:
    """Severity at each visit, `severity` on day 0: in hepatitis it rises over weeks and falls over months, else it stays."""
    wobble = np.where(days == 0, 0, rng.normal(0, 0.25, size=len(days)))
    if not hepatitis:
        return severity + wobble
    weeks = np.where(days < 0, 18.0, 60.0)
    remission = severity - EMR_SHIFT
    return remission + EMR_SHIFT * np.exp(-((days / weeks) ** 2)) + wobble
