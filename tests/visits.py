"""A made-up table of visits with follow-up, ingested without images; for tests of what reads sequences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from salts import SALT

from hepdist.ingest import ingest

CASES = 48


def cohort_of_visits(folder: Path) -> Path:
    """A row at each visit of 48 patients; the event comes sooner where alt is high and rising; sex never changes; some values are missing."""
    rng = np.random.default_rng(0)
    lines = ["patient_id,day,sex,alt [U/L],bilirubin [mg/dL],until,end"]
    for patient in range(CASES):
        high = patient % 2
        until, end = (260 + patient, "dead") if high else (900, "alive") if patient % 8 else (300, "alive")
        for day in range(0, 60 * int(rng.integers(1, 5)), 60):
            alt = f"{30 + 40 * high + 0.05 * day * high + rng.normal(0, 8):.1f}"
            bilirubin = "" if rng.random() < 0.3 else f"{rng.lognormal(0, 0.5):.2f}"
            lines.append(f"p{patient},{day},{'fm'[patient % 4 // 2]},{alt},{bilirubin},{until},{end}")
    (folder / "visits.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "salt").write_text(SALT)
    rule = ["event=end", "event_values=dead", "event_time=until", "horizon=365", "landmark=visits", f"salt={folder / 'salt'}"]
    ingest(str(folder / "visits.csv"), str(folder / "cohort"), rule)
    return folder / "cohort"
