"""A whole phantom cohort on disk: DICOM folders, EMR tables and the scores that they allow, the same bytes for the same seed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from hepdist.errors import IngestError
from hepdist.phantom.abdomen import SPACING_MM, render_abdomen
from hepdist.phantom.bayes import bayes_report
from hepdist.phantom.chest import PIXEL_MM, draw_chest, render_chest
from hepdist.phantom.dicom import Encoding, Person, ct_slices, write_ct, write_liver_mask, write_xray
from hepdist.phantom.disease import PREVALENCE, Latents, draw_emr, draw_latents
from hepdist.phantom.records import emr_table, index_date, patient_id, visits_table, write_table
from hepdist.phantom.streams import stream

CT_EVERY = 4
"""One patient in this many also has a CT."""


@dataclass(frozen=True)
class PhantomSummary:
    """What was written; also the content of phantom.json, which holds no patient's data."""

    patients: int
    seed: int
    hepatitis: int
    """Patients with the disease."""
    prevalence: float
    """That the generator draws from."""
    xrays: int
    ct_series: int
    ct_slices: int
    liver_masks: int
    visits: int
    bayes: dict[str, dict[str, float | str]]
    """`image`, `emr`, `both`: best reachable `auroc` and `accuracy`, and what each `assumes`."""


def write_phantom(
    out: Path, patients: int, seed: int, *, ct: bool = True, progress: Callable[[int, int], None] | None = None
) -> PhantomSummary:
    """Write `patients` phantom patients under `out`: dicom/, emr.csv, visits.csv and, last, phantom.json.

    ct: also write CT series with liver masks. progress: called with (patients written, patients). The same seed writes the same
    bytes, and a larger cohort begins with the patients of a smaller one. Raises IngestError where `out` already holds something.
    """
    if patients < 1:
        raise IngestError(f"a phantom cohort of {patients} patients can't be written; ask for at least 1")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise IngestError(f"'{out}' is not an empty folder; name a new one for the phantom cohort")
    latents = draw_latents(patients, seed)
    emr = draw_emr(latents, seed)
    visits = visits_table(emr, latents, seed)
    out.mkdir(parents=True, exist_ok=True)
    write_table(emr_table(emr, latents), out / "emr.csv")
    write_table(visits, out / "visits.csv")
    slices = 0
    for index in range(patients):
        _write_xray(out / "dicom", index, _person(index, emr, seed), latents)
        if ct and index % CT_EVERY == 0:
            slices += _write_abdomen(out / "dicom", index, _person(index, emr, seed), latents)
        if progress:
            progress(index + 1, patients)
    series = len(range(0, patients, CT_EVERY)) if ct else 0
    summary = PhantomSummary(
        patients, seed, int(latents.hepatitis.sum()), PREVALENCE, patients, series, slices, series, len(visits), bayes_report()
    )
    (out / "phantom.json").write_text(json.dumps(asdict(summary), indent=2) + "\n", encoding="utf-8")
    return summary


def xray_path(index: int) -> Path:
    """Where patient `index`'s X-ray lies under dicom/: mostly flat .dcm files, every third a nested name without extension."""
    number = patient_id(index)
    return Path(number, "STUDY1", "SERIES1", "IM000001") if index % 3 == 2 else Path(f"{number}.dcm")


def _person(index: int, emr: pd.DataFrame, seed: int) -> Person:
    row = emr.iloc[index]
    return Person(patient_id(index), f"Phantom^{index:04d}", row["sex"], int(row["age"]), row["site"], index_date(index, seed), seed)


def _write_xray(folder: Path, index: int, person: Person, latents: Latents) -> None:
    rng = stream(person.seed, f"chest {index}")
    image = render_chest(draw_chest(float(latents.image[index]), rng), rng)
    write_xray(folder / xray_path(index), image, PIXEL_MM, person, Encoding.of(index))


def _write_abdomen(folder: Path, index: int, person: Person, latents: Latents) -> int:
    """Write the patient's CT series and liver mask; the number of slices."""
    volume, liver = render_abdomen(float(latents.image[index]), stream(person.seed, f"abdomen {index}"))
    slices = ct_slices(volume, SPACING_MM, person)
    study = folder / person.number / "CT1"
    write_ct(study / "SERIES1", slices)
    write_liver_mask(study / "liver.dcm", liver, slices, person)
    return len(slices)
