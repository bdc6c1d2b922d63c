"""The generative model of the phantom's disease: who has it, how severe image and EMR make it look, and the EMR row; no images, no files.

Image severity and EMR severity are drawn apart given the disease, each Gaussian with a shifted mean in hepatitis, so that neither
decides the label and each adds to the other. Everything that an EMR row depends on is stated here as a number, which is what
lets hepdist.phantom.bayes invert the model exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from hepdist.phantom.streams import stream

Floats = NDArray[np.float64]

PREVALENCE = 0.4
"""Share of patients with hepatitis."""
IMAGE_SHIFT = 1.53
"""Mean image severity in hepatitis; without it 0. Standard deviation 1 in both."""
EMR_SHIFT = 1.72
"""Mean EMR severity in hepatitis; without it 0. Larger than the image's, since the laboratory values blur it."""
SITES = ("Northgate", "Riverside", "St. Anne")


@dataclass(frozen=True)
class Lab:
    """One measured value: `middle + slope * severity + spread * N(0, 1)`, exponentiated where `log`, rounded to `decimals`."""

    name: str
    unit: str
    log: bool
    middle: float
    """Median at severity 0, in `unit`."""
    slope: float
    """Change a unit of severity; of the natural logarithm where `log`."""
    spread: float
    """Standard deviation about that, of person and assay together; of the natural logarithm where `log`."""
    decimals: int
    missing: tuple[float, float, float]
    """Log-odds that the value was never measured at severity 0, by site."""
    missing_slope: float = 0.0
    """Change of those log-odds a unit of severity: costly tests are left out in mild cases."""

    @property
    def location(self) -> float:
        return float(np.log(self.middle)) if self.log else self.middle


LABS = (
    Lab("alt", "U/L", True, 30.0, 0.55, 0.50, 0, (-4.0, -3.5, -3.0)),
    Lab("ast", "U/L", True, 28.0, 0.48, 0.50, 0, (-4.0, -3.5, -2.5)),
    Lab("bilirubin", "mg/dL", True, 0.7, 0.33, 0.45, 1, (-3.5, -3.0, -2.5)),
    Lab("albumin", "g/dL", False, 4.2, -0.16, 0.35, 1, (-1.8, -1.2, -0.6), -0.35),
    Lab("inr", "1", True, 1.03, 0.035, 0.07, 2, (-0.9, -0.2, 0.6), -0.45),
    Lab("temperature", "degC", False, 36.8, 0.20, 0.45, 1, (-3.0, -2.2, -2.6)),
)
"""Slopes follow acute hepatitis: transaminases lead, bilirubin and INR rise, albumin falls, fever is mild."""

MALE = (0.50, 0.58)
"""Share of men, without and with hepatitis."""
AGE_MEAN = (47.0, 50.0)
"""Mean age in years, without and with hepatitis."""
AGE_SPREAD = 15.0
AGE_RANGE = (18, 89)
"""Ages beyond are written as the nearest of these two."""


@dataclass(frozen=True)
class Latents:
    """What the generator knows and the files don't say; arrays [patients]."""

    hepatitis: NDArray[np.bool_]
    image: Floats
    emr: Floats


def draw_latents(patients: int, seed: int) -> Latents:
    """Disease and both severities; the first patients of a larger cohort are those of a smaller one."""
    hepatitis = stream(seed, "hepatitis").random(patients) < PREVALENCE
    image = stream(seed, "image severity").normal(size=patients) + IMAGE_SHIFT * hepatitis
    emr = stream(seed, "EMR severity").normal(size=patients) + EMR_SHIFT * hepatitis
    return Latents(hepatitis, image, emr)


def draw_emr(latents: Latents, seed: int) -> pd.DataFrame:
    """EMR row of each patient: age (years), sex (F/M), site, and LABS as written (rounded; NaN = not measured)."""
    patients, sick = len(latents.emr), latents.hepatitis.astype(int)
    age = np.take(AGE_MEAN, sick) + AGE_SPREAD * stream(seed, "age").normal(size=patients)
    site = stream(seed, "site").integers(len(SITES), size=patients)
    columns = {
        "age": np.clip(np.round(age), *AGE_RANGE).astype(int),
        "sex": np.where(stream(seed, "sex").random(patients) < np.take(MALE, sick), "M", "F"),
        "site": np.take(SITES, site),
    }
    for lab in LABS:
        columns[lab.name] = draw_lab(lab, latents.emr, site, stream(seed, lab.name), stream(seed, f"{lab.name} missing"))
    return pd.DataFrame(columns)


def draw_lab(lab: Lab, severity: Floats, site: NDArray[np.int64], values: np.random.Generator, missing: np.random.Generator) -> Floats:
    """One value a severity, as it would be written: rounded, NaN where not measured. severity, site: [n]."""
    drawn = lab.location + lab.slope * severity + lab.spread * values.normal(size=len(severity))
    written = np.round(np.exp(drawn) if lab.log else drawn, lab.decimals)
    return np.where(missing.random(len(severity)) < missing_probability(lab, severity, site), np.nan, written)


def missing_probability(lab: Lab, severity: Floats, site: NDArray[np.int64]) -> Floats:
    """Probability that `lab` was never measured; severity and site broadcast."""
    return expit(np.take(lab.missing, site) + lab.missing_slope * severity)
