"""Finished runs on the same cohort, compared on the same test patients; see docs/benchmarks.md.

    python benchmarks/fusion.py RUN OTHER [OTHER ...] [--phantom SOURCE --salt FILE]

The first run is set against each other one: difference of AUROC with its interval over resampled patients and a two-sided p. With the
phantom's folder and the salt of the ingest, the generator's own posterior joins them: the best that anybody can do on these patients.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
from common import machine, markdown
from numpy.typing import NDArray

from hepdist.evaluation.bootstrap import percentile_interval, resampled_weights
from hepdist.evaluation.metrics import auroc
from hepdist.ingest.pseudonym import Pseudonyms, read_salt
from hepdist.phantom.bayes import emr_log_ratio, image_log_ratio, posterior
from hepdist.phantom.disease import draw_emr, draw_latents
from hepdist.phantom.records import patient_id

Floats = NDArray[np.float64]
RESAMPLES = 10_000
OPTIMUM = "the generator's posterior"


def scores_on_test(run: Path) -> pd.DataFrame:
    """patient, label and score of a run's labelled test rows, by sample_id; of more than two classes, 1 minus the first's probability."""
    table = pd.read_parquet(run / "predictions.parquet")
    table = table[(table["split"] == "test") & table["label"].notna()].set_index("sample_id").sort_index()
    return table[["patient"]].assign(label=table["label"].astype(int) > 0, score=1 - table["probability_0"])


def bayes_scores(source: Path, salt: str | None) -> dict[str, float]:
    """Posterior of hepatitis by the patient's pseudonym, from what the generator drew."""
    facts = json.loads((source / "phantom.json").read_text(encoding="utf-8"))
    patients, seed = facts["patients"], facts["seed"]
    latents = draw_latents(patients, seed)
    both = posterior(image_log_ratio(latents.image), emr_log_ratio(draw_emr(latents, seed)))
    names = Pseudonyms(read_salt(salt))
    return {names.of("patient", patient_id(i)): float(both[i]) for i in range(patients)}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("runs", nargs="+", type=Path)
    arguments.add_argument("--phantom", type=Path)
    arguments.add_argument("--salt")
    asked = arguments.parse_args()
    tables = {run.name: scores_on_test(run) for run in asked.runs}
    first = next(iter(tables.values()))
    if any(not table.index.equals(first.index) for table in tables.values()):
        raise SystemExit("the runs were not scored on the same test rows")
    scores = {name: table["score"].to_numpy() for name, table in tables.items()}
    if asked.phantom:
        by_patient = bayes_scores(asked.phantom, asked.salt)
        scores[OPTIMUM] = first["patient"].map(by_patient).to_numpy(np.float64)
    truth, patient = first["label"].to_numpy(bool), first["patient"].to_numpy(str)
    drawn: dict[str, Floats] = {name: np.empty(0) for name in scores}
    for weight in resampled_weights(patient, RESAMPLES, seed=0):
        drawn = {name: np.append(drawn[name], auroc(truth, score, weight)) for name, score in scores.items()}
    point = {name: float(auroc(truth, score, np.ones((1, len(truth))))[0]) for name, score in scores.items()}
    print(f"{machine()}\n\n{len(truth)} test rows of {len(set(patient))} patients, {truth.sum()} positive\n")
    name, *others = scores
    rows = []
    for other, values in drawn.items():
        bound, difference = percentile_interval(values), drawn[name] - values
        cells = [other, f"{point[other]:.3f} [{bound.low:.3f}, {bound.high:.3f}]"]
        if other in others:
            gap = percentile_interval(difference)
            p = min(1.0, 2 * (min((difference <= 0).sum(), (difference >= 0).sum()) + 1) / (RESAMPLES + 1))
            cells += [f"{point[name] - point[other]:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]", f"{p:.4f}"]
        rows.append([*cells, *[""] * (4 - len(cells))])
    print(markdown(["model", "AUROC", f"{name} above it", "p"], rows))


if __name__ == "__main__":
    main()
