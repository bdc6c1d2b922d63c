"""The best score that any classifier can reach on the phantom, by inverting its generative model; knows no images and no files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy.special import expit, logit, ndtr
from scipy.stats import norm

from hepdist.phantom.disease import (
    AGE_MEAN,
    AGE_RANGE,
    AGE_SPREAD,
    EMR_SHIFT,
    IMAGE_SHIFT,
    LABS,
    MALE,
    PREVALENCE,
    SITES,
    Floats,
    Lab,
    draw_emr,
    draw_latents,
    missing_probability,
)


@dataclass(frozen=True)
class BayesScore:
    auroc: float
    accuracy: float
    """Share decided rightly when the posterior probability is cut at 0.5."""
    assumes: str


def posterior(*log_ratios: Floats) -> Floats:
    """P(hepatitis | all that the log-likelihood ratios saw); image and EMR add, being independent given the disease."""
    return expit(logit(PREVALENCE) + sum(log_ratios))


def image_log_ratio(severity: Floats) -> Floats:
    """log p(image severity | hepatitis) - log p(image severity | none)."""
    return IMAGE_SHIFT * severity - IMAGE_SHIFT**2 / 2


def emr_log_ratio(emr: pd.DataFrame, chunk: int = 4096) -> Floats:
    """log P(EMR row | hepatitis) - log P(EMR row | none), of rows as written: rounding and missingness included.

    emr: columns of `hepdist.phantom.disease.draw_emr`. The latent severity is integrated out on a grid; `chunk` rows at a time
    bound the memory.
    """
    parts = [_emr_log_ratio(emr.iloc[start : start + chunk]) for start in range(0, len(emr), chunk)]
    return np.concatenate(parts) if parts else np.zeros(0)


def expected_score(probabilities: Floats) -> tuple[float, float]:
    """AUROC and accuracy at 0.5 that exact posteriors imply about themselves.

    A row of posterior p counts as p of a case and 1 - p of a control, so no label's chance adds to the variance.
    """
    p = np.sort(probabilities)
    controls_below = np.cumsum(1 - p) - (1 - p) / 2
    auroc = float((p * controls_below).sum() / (p.sum() * (1 - p).sum()))
    return auroc, float(np.maximum(p, 1 - p).mean())


@lru_cache(maxsize=1)
def bayes_scores() -> dict[str, BayesScore]:
    """Best reachable scores from the image alone, the EMR row alone and both, as `image`, `emr` and `both`.

    The image's are closed forms; the others are means over 40,000 drawn patients (standard error about 0.001).
    """
    latents = draw_latents(_DRAWN, seed=2**31)
    image, emr = image_log_ratio(latents.image), emr_log_ratio(draw_emr(latents, seed=2**31))
    assumed_emr = (
        "the row of emr.csv as written, with exact knowledge of the generator; the latent severity, the rounding and the"
        f" missing values are marginalised; Monte Carlo over {_DRAWN} patients"
    )
    assumed_image = "the image severity is observed exactly, which no image allows: an upper bound for any reader of the images"
    return {
        "image": BayesScore(*_binormal(IMAGE_SHIFT), assumed_image),
        "emr": BayesScore(*expected_score(posterior(emr)), assumed_emr + "; visits.csv is not used"),
        "both": BayesScore(*expected_score(posterior(image, emr)), f"{assumed_image}; {assumed_emr}; visits.csv is not used"),
    }


def bayes_report() -> dict[str, dict[str, float | str]]:
    """`bayes_scores` as plain values for JSON, rounded to what the Monte Carlo carries."""
    return {name: {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(s).items()} for name, s in bayes_scores().items()}


_DRAWN = 40_000
_GRID = np.arange(-6.0, EMR_SHIFT + 6.0, 0.2)
"""Severities of the quadrature. The trapezoid rule is spectrally accurate here: the integrand is several steps wide and smooth."""


def _binormal(shift: float) -> tuple[float, float]:
    """AUROC, and accuracy at posterior 0.5, of two unit Gaussians `shift` apart."""
    cut = shift / 2 - logit(PREVALENCE) / shift
    return float(ndtr(shift / np.sqrt(2))), float(PREVALENCE * ndtr(shift - cut) + (1 - PREVALENCE) * ndtr(cut))


def _emr_log_ratio(emr: pd.DataFrame) -> Floats:
    site = pd.Categorical(emr["site"], categories=SITES).codes.astype(np.int64)
    log_likelihood = np.zeros((len(emr), len(_GRID)))
    for lab in LABS:
        # Rounding leaves a few hundred distinct values among thousands of rows: each is integrated once.
        values, which = np.unique(emr[lab.name].to_numpy(dtype=np.float64), return_inverse=True)
        log_written = _log_written(lab, np.nan_to_num(values, nan=lab.middle)[:, None])
        missing = missing_probability(lab, _GRID, np.arange(len(SITES))[:, None])
        absent = np.isnan(values)[which][:, None]
        log_likelihood += np.where(absent, np.log(missing)[site], np.log1p(-missing)[site] + log_written[which])
    peak = log_likelihood.max(axis=1, keepdims=True)
    likelihood = np.exp(log_likelihood - peak)
    ratio = np.log(likelihood @ norm.pdf(_GRID - EMR_SHIFT)) - np.log(likelihood @ norm.pdf(_GRID))
    male = emr["sex"].to_numpy() == "M"
    ratio += np.where(male, np.log(MALE[1] / MALE[0]), np.log((1 - MALE[1]) / (1 - MALE[0])))
    age = emr["age"].to_numpy(dtype=np.float64)
    return ratio + _log_age(age, AGE_MEAN[1]) - _log_age(age, AGE_MEAN[0])


def _log_written(lab: Lab, written: Floats) -> Floats:
    """log P(the lab is written as this value | severity) for every severity of the grid; [n, 1] -> [n, grid]."""
    half = 0.5 * 10.0**-lab.decimals
    below, above = written - half, written + half
    if lab.log:
        with np.errstate(divide="ignore"):
            below, above = np.log(np.maximum(below, 0)), np.log(above)
    middle = lab.location + lab.slope * _GRID
    return _log_interval((below - middle) / lab.spread, (above - middle) / lab.spread)


def _log_age(age: Floats, mean: float) -> Floats:
    below = np.where(age <= AGE_RANGE[0], -np.inf, (age - 0.5 - mean) / AGE_SPREAD)
    above = np.where(age >= AGE_RANGE[1], np.inf, (age + 0.5 - mean) / AGE_SPREAD)
    return _log_interval(below, above)


def _log_interval(below: Floats, above: Floats) -> Floats:
    """log P(below < N(0, 1) < above), taken in the lower tail, where the difference keeps its digits."""
    flip = below > 0
    low, high = np.where(flip, -above, below), np.where(flip, -below, above)
    return np.log(np.maximum(ndtr(high) - ndtr(low), np.finfo(float).tiny))
