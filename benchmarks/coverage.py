"""Do intervals hold the truth, and do tests keep their level? Test sets are drawn from models whose true scores are known.

python benchmarks/coverage.py [--sets 500] [--null-sets 2000] [--only auroc,dice,shares,paired,subgroups]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
import pandas as pd
from common import machine, markdown
from scipy.stats import norm

from hepdist.evaluation.bootstrap import intervals, resampled_weights
from hepdist.evaluation.delong import auroc_covariance, auroc_interval, compare_aurocs
from hepdist.evaluation.metrics import auroc, segmentation_scores
from hepdist.evaluation.paired import bootstrap_difference, mcnemar, signed_ranks
from hepdist.evaluation.proportions import proportion
from hepdist.evaluation.subgroup_scores import subgroup_scores

RESAMPLES = 1000
ALIKE = 0.6
"""Share of the variance of a score that is the patient's, not the row's."""
WORKERS = 2


def draw_scores(
    rng: np.random.Generator, patients: int, rows: int, area: float, prevalence: float = 0.4, *, mixed: bool = False, models: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """truth bool[n], scores [models, n] and patient of a binormal model with this AUROC; mixed: a patient's rows may differ in class.

    Scores of a patient share ALIKE of their variance, those of a row's models half of the rest.
    """
    n = patients * rows
    truth = rng.random(n) < prevalence if mixed else np.repeat(rng.random(patients) < prevalence, rows)
    truth[:2], truth[-2:] = True, False
    alike = ALIKE if rows > 1 else 0.0
    person = np.repeat(rng.normal(0, np.sqrt(alike), patients), rows)
    shared, own = rng.normal(0, np.sqrt((1 - alike) / 2), n), rng.normal(0, np.sqrt((1 - alike) / 2), (models, n))
    shift = np.sqrt(2) * norm.ppf(area)
    return truth, person + shared + own + shift * truth, np.repeat(np.arange(patients), rows).astype(str)


def auroc_held(seed: int, patients: int, rows: int, area: float, mixed: bool, resamples: int = RESAMPLES) -> list[bool]:
    """Whether the intervals hold the truth: DeLong with patients, DeLong as if rows were independent, bootstrap."""
    truth, scores, patient = draw_scores(np.random.default_rng([1, seed]), patients, rows, area, mixed=mixed)
    held = []
    for owner in (patient, np.arange(len(truth)).astype(str)):
        found, covariance = auroc_covariance(truth, scores, owner)
        low, high = auroc_interval(float(found[0]), float(covariance[0, 0]))
        held.append(low <= area <= high)
    bound = intervals(lambda weight: {"auroc": auroc(truth, scores[0], weight)}, patient, resamples, seed)["auroc"]
    return [*held, bool(bound.low <= area <= bound.high)]


def dice_held(seed: int, patients: int, rows: int, mean: float, resamples: int = RESAMPLES) -> list[bool]:
    """Whether the bootstrap's interval of the Dice holds the mean of Beta-distributed overlaps, whose level is the patient's."""
    rng = np.random.default_rng([2, seed])
    level = np.repeat(rng.beta(mean * 12, (1 - mean) * 12, patients), rows)
    dice = np.stack([rng.beta(level * 30, (1 - level) * 30) for _ in range(2)], axis=1)
    patient = np.repeat(np.arange(patients), rows).astype(str)
    bound = intervals(lambda w: {"dice": segmentation_scores(dice, None, None, None, w)["dice"]}, patient, resamples, seed)["dice"]
    return [bool(bound.low <= mean <= bound.high)]


def share_held(seed: int, patients: int, rows: int, share: float) -> list[bool]:
    """Whether Wilson's interval on the rows that patients are worth, Wilson's on all rows, and the bootstrap's hold a share."""
    rng = np.random.default_rng([3, seed])
    each = np.repeat(rng.beta(share * 4, (1 - share) * 4, patients), rows) if rows > 1 else share
    hit, patient = rng.random(patients * rows) < each, np.repeat(np.arange(patients), rows).astype(str)
    held = []
    for owner in (patient, np.arange(len(hit)).astype(str)):
        found = proportion(hit, owner)
        held.append(bool(found.low <= share <= found.high))
    bound = intervals(lambda w: {"share": w @ hit.astype(float) / w.sum(axis=1)}, patient, 300, seed)["share"]
    return [*held, bool(bound.low <= share <= bound.high)]


def paired_refused(seed: int, patients: int, rows: int, resamples: int = 500) -> list[bool]:
    """Which tests say at the 5 % level that two equally good models differ: DeLong, McNemar, bootstrap of the Brier score, Wilcoxon."""
    rng = np.random.default_rng([4, seed])
    truth, scores, patient = draw_scores(rng, patients, rows, 0.85, models=2)
    probability = norm.cdf(scores - np.sqrt(2) * norm.ppf(0.85) / 2)
    right = (probability >= 0.5) == truth
    p = [compare_aurocs(truth, *scores, patient).p, mcnemar(right[0], right[1], patient).p]
    error = (probability - truth) ** 2
    weights = list(resampled_weights(patient, resamples, seed))
    brier = [[weight @ e / weight.sum(axis=1) for weight in weights] for e in error]
    p.append(bootstrap_difference(float(error[0].mean() - error[1].mean()), *brier, patients)[2])
    p.append(signed_ranks(probability[0] - probability[1], patient))
    return [value < 0.05 for value in p]


def subgroups_refused(seed: int, patients: int, rows: int, resamples: int = 300) -> list[bool]:
    """Whether any subgroup of a model that is equally good for all is said to differ: after Holm's correction, and before."""
    rng = np.random.default_rng([5, seed])
    truth, scores, patient = draw_scores(rng, patients, rows, 0.9)
    positive = norm.cdf(scores[0] - np.sqrt(2) * norm.ppf(0.9) / 2)
    keys = [f"{i:08}" for i in range(len(truth))]
    table = pd.DataFrame({"sample_id": keys, "patient": patient, "label": truth.astype(int), "probability_0": 1 - positive})
    table["probability_1"] = positive
    cuts = {"sex": 2, "age": 4, "manufacturer": 3}
    groups = {name: dict(zip(keys, np.repeat(rng.integers(0, k, patients), rows).astype(str), strict=True)) for name, k in cuts.items()}
    found = subgroup_scores("classification", table, 0.5, ("normal", "ill"), groups, resamples, seed)["groups"]
    scores_of = [score for entry in found for score in entry.get("scores", {}).values() if score["p"] is not None]
    return [any(score[key] < 0.05 for score in scores_of) for key in ("p_holm", "p")]


def shares(run: Callable[[int], list[bool]], sets: int) -> np.ndarray:
    """Of each answer of `run`, the share of sets, 0 to 1."""
    with ProcessPoolExecutor(WORKERS) as pool:
        return np.mean(list(pool.map(run, range(sets), chunksize=max(1, sets // (8 * WORKERS)))), axis=0)


def percent(values: np.ndarray) -> list[str]:
    return [f"{100 * value:.1f} %" for value in values]


def tables(sets: int, null_sets: int, only: set[str]) -> Iterator[tuple[str, str]]:
    if "auroc" in only:
        rows = []
        for patients, each, area, mixed in (
            (100, 1, 0.75, False),
            (100, 1, 0.9, False),
            (200, 1, 0.97, False),
            (100, 3, 0.85, False),
            (100, 3, 0.85, True),
        ):
            held = shares(partial(auroc_held, patients=patients, rows=each, area=area, mixed=mixed), sets)
            rows.append([patients, f"{each}{', of either class' if mixed else ''}", area, *percent(held)])
        yield (
            f"Coverage of 95 % intervals of the AUROC, {sets} sets",
            markdown(["patients", "rows each", "AUROC", "DeLong by patient", "DeLong by row", "bootstrap"], rows),
        )
    if "dice" in only:
        rows = [[patients, each, mean, *percent(shares(partial(dice_held, patients=patients, rows=each, mean=mean), sets))]
                for patients, each, mean in ((30, 1, 0.85), (60, 1, 0.9), (60, 3, 0.8))]  # fmt: skip
        yield f"Coverage of 95 % intervals of the Dice, {sets} sets", markdown(["patients", "rows each", "Dice", "bootstrap"], rows)
    if "shares" in only:
        rows = [[patients, each, share, *percent(shares(partial(share_held, patients=patients, rows=each, share=share), sets))]
                for patients, each, share in ((40, 1, 0.95), (100, 1, 0.8), (60, 3, 0.9))]  # fmt: skip
        yield (
            f"Coverage of 95 % intervals of a share, {sets} sets",
            markdown(["patients", "rows each", "share", "Wilson by patient", "Wilson by row", "bootstrap"], rows),
        )
    if "paired" in only:
        rows = [[patients, each, *percent(shares(partial(paired_refused, patients=patients, rows=each), null_sets))]
                for patients, each in ((60, 1), (200, 1), (100, 3))]  # fmt: skip
        yield (
            f"False alarms of paired tests at the 5 % level, {null_sets} sets",
            markdown(["patients", "rows each", "DeLong", "McNemar", "bootstrap (Brier)", "Wilcoxon"], rows),
        )
    if "subgroups" in only:
        rows = [[patients, each, *percent(shares(partial(subgroups_refused, patients=patients, rows=each), sets))]
                for patients, each in ((150, 1), (300, 2))]  # fmt: skip
        yield (
            f"Sets with any false alarm among 9 subgroups of 3 columns, {sets} sets",
            markdown(["patients", "rows each", "corrected (Holm)", "uncorrected"], rows),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=500)
    parser.add_argument("--null-sets", type=int, default=2000)
    parser.add_argument("--only", default="auroc,dice,shares,paired,subgroups")
    arguments = parser.parse_args()
    print(machine(), flush=True)
    start = time.monotonic()
    for title, table in tables(arguments.sets, arguments.null_sets, set(arguments.only.split(","))):
        print(f"\n{title}\n\n{table}\n\n{time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
