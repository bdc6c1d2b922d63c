"""Units: molar masses against the formulas, conversions against published factors, spellings, and what is never converted."""

from __future__ import annotations

import re

import pytest

from hepdist.ingest.emr_units import ANALYTES, analyte_of, factor, read_unit
from hepdist.ingest.fhir_loinc import LOINC

WEIGHTS = {"H": 1.008, "C": 12.011, "N": 14.007, "O": 15.999, "Cu": 63.546, "Fe": 55.845}
FORMULAS = {
    "bilirubin_total": "C33H36N4O6", "bilirubin_direct": "C33H36N4O6", "bilirubin_indirect": "C33H36N4O6", "creatinine": "C4H7N3O",
    "urea": "CH4N2O", "urea_nitrogen": "N2", "uric_acid": "C5H4N4O3", "glucose": "C6H12O6", "cholesterol": "C27H46O",
    "triglycerides": "C57H104O6", "ammonia": "NH3", "copper": "Cu", "iron": "Fe", "lactate": "C3H6O3",
}  # fmt: skip


def test_molar_masses_are_those_of_the_formulas() -> None:
    masses = {a.name: a.molar_mass for a in ANALYTES if a.molar_mass is not None}
    assert masses.keys() == FORMULAS.keys()
    for name, formula in FORMULAS.items():
        mass = sum(WEIGHTS[element] * int(count or 1) for element, count in re.findall(r"([A-Z][a-z]?)(\d*)", formula))
        assert masses[name] == pytest.approx(mass, rel=1e-4), name


@pytest.mark.parametrize(
    ("name", "source", "target", "published"),
    [  # conventional to SI, as laboratories print them
        ("bilirubin", "mg/dL", "µmol/L", 17.104),
        ("crea", "mg/dL", "umol/L", 88.4),
        ("bun", "mg/dL", "mmol/L", 0.357),
        ("glucose", "mg/dL", "mmol/L", 0.0555),
        ("chol", "mg/dL", "mmol/L", 0.0259),
        ("trig", "mg/dL", "mmol/L", 0.0113),
        ("uric_acid", "mg/dL", "µmol/L", 59.48),
        ("nh3", "µg/dL", "µmol/L", 0.587),
        ("copper", "µg/dL", "µmol/L", 0.157),
        ("iron", "µg/dL", "µmol/L", 0.179),
        ("albumin", "g/dL", "g/L", 10.0),
        ("alt", "U/L", "µkat/L", 0.0167),
        ("ast", "U/mL", "U/L", 1000.0),
        ("platelet", "K/uL", "10*9/L", 1.0),
        ("platelet", "/mm3", "10^9/L", 1e-3),
        ("afp", "IU/mL", "ng/mL", 1.21),
    ],
)
def test_conversions_are_the_published_ones_and_go_both_ways(name: str, source: str, target: str, published: float) -> None:
    there, back = factor(source, target, analyte_of(name)), factor(target, source, analyte_of(name))
    assert there == pytest.approx(published, rel=5e-3)
    assert there is not None and back is not None and there * back == pytest.approx(1)


def test_units_are_read_however_they_are_written() -> None:
    spellings = ("µmol/L", "μmol/l", "umol/L", "UMOL/L", " umol / L ")
    assert len({read_unit(text) for text in spellings}) == 1
    assert read_unit("[iU]/L") == read_unit("IU/L") == read_unit("U/l")
    assert read_unit("10*9/L") == read_unit("x10^9/L") == read_unit("10⁹/L") == read_unit("K/µL") == read_unit("10*3/uL{cells}")
    assert factor("ng/mL", "µg/L") == factor("K/µL", "10^9/L") == 1
    assert read_unit("mg%") == read_unit("mg/100 mL") == read_unit("mg/dL")


def test_what_has_no_known_factor_is_not_converted() -> None:
    assert analyte_of("inr") is analyte_of("protime") is None
    assert factor("s", "%", None) is None
    assert factor("mg/dL", "µmol/L", None) is None
    assert factor("g/L", "mmol/L", analyte_of("protein")) is None
    assert factor("U/L", "µg/L", analyte_of("alt")) is None
    assert factor("s", "s", None) == 1.0


def test_every_loinc_name_and_alias_means_one_thing() -> None:
    names = [name for a in ANALYTES for name in (a.name, *a.aliases)]
    assert len(set(names)) == len(names)
    assert all(analyte_of(a.name) is a for a in ANALYTES)
    assert all(re.fullmatch(r"\d{3,5}-\d", code) and _check_digit(code) for code in LOINC)


def _check_digit(code: str) -> bool:
    """LOINC's modulus 10 check digit (LOINC Users' Guide, appendix C)."""
    body, digit = code.split("-")
    odd = str(int(body[::-1][::2][::-1]) * 2)
    total = sum(map(int, body[::-1][1::2] + odd))
    return (10 - total % 10) % 10 == int(digit)
