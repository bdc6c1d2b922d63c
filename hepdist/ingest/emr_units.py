"""Units of laboratory values: how they are written, what one is in another, and what is known of the common liver labs; reads no tables."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import NamedTuple

PREFIXES = {"": 1.0, "k": 1e3, "m": 1e-3, "u": 1e-6, "n": 1e-9, "p": 1e-12, "f": 1e-15}
PER_LITRE = {"l": 1.0, "dl": 1e1, "100ml": 1e1, "cl": 1e2, "ml": 1e3, "cc": 1e3, "ul": 1e6, "mm3": 1e6, "cumm": 1e6, "nl": 1e9, "pl": 1e12}
_UNITS_PER_KATAL = 6e7  # 1 U turns over 1 µmol a minute, 1 kat 1 mol a second
_BASES = {
    "g": ("mass", 1.0), "gm": ("mass", 1.0), "mol": ("substance", 1.0), "u": ("activity", 1.0), "iu": ("activity", 1.0),
    "kat": ("activity", _UNITS_PER_KATAL),
}  # fmt: skip
_AMOUNT = re.compile(r"^([kmunpf]?)(gm|g|mol|kat|iu|u)/(.+)$")
_COUNT = re.compile(r"^x?(?:10[*^e]?(\d{1,2})|(k|thou|thousand))?(?:cells?|#)?/(.+)$")


class Unit(NamedTuple):
    """A concentration: its kind ('mass', 'substance', 'activity', 'count'), and how many g, mol, U or cells per litre one of it is."""

    kind: str
    size: float


@dataclass(frozen=True)
class Analyte:
    """What is known of one measured thing, whatever the table calls it."""

    name: str
    unit: str
    """In which it is kept where the source (FHIR) leaves the choice."""
    high: float
    """In `unit`. No living patient has more: far above any clinical limit, it catches missing codes such as 999 and slipped decimals."""
    aliases: tuple[str, ...]
    """Other names, as `plain` writes headers."""
    molar_mass: float | None = None
    """g/mol, from the formula and IUPAC's standard atomic weights (Prohaska et al., Pure Appl. Chem. 94:573, 2022)."""
    grams_per_unit: float | None = None
    """g/IU, where an international standard fixes it."""


# BUN is the nitrogen in urea, two atoms a molecule: a table's 'bun' in mg/dL is 28/60 of its urea.
# AFP: WHO's first international standard 72/225; 1 IU = 1.21 ng (Sizaret & Anderson, J Biol Stand 4:149, 1976).
# Triglycerides by convention as triolein; total protein and immunoglobulins have no one molar mass.
ANALYTES = (
    Analyte("bilirubin_total", "µmol/L", 1500, ("bilirubin", "bili", "bil", "tbil", "total_bilirubin", "t_bili", "总胆红素"), 584.66),
    Analyte("bilirubin_direct", "µmol/L", 1500, ("dbil", "direct_bilirubin", "conjugated_bilirubin", "直接胆红素", "结合胆红素"), 584.66),
    Analyte("bilirubin_indirect", "µmol/L", 1500, ("ibil", "indirect_bilirubin", "unconjugated_bilirubin", "间接胆红素"), 584.66),
    Analyte("creatinine", "µmol/L", 5000, ("crea", "creat", "scr", "cr", "serum_creatinine", "肌酐"), 113.12),
    Analyte("urea", "mmol/L", 150, ("serum_urea", "尿素"), 60.06),
    Analyte("urea_nitrogen", "mmol/L", 300, ("bun", "blood_urea_nitrogen", "尿素氮"), 28.014),
    Analyte("uric_acid", "µmol/L", 5000, ("urate", "ua", "尿酸"), 168.11),
    Analyte("glucose", "mmol/L", 150, ("glu", "glc", "blood_glucose", "blood_sugar", "血糖", "葡萄糖"), 180.16),
    Analyte("cholesterol", "mmol/L", 80, ("chol", "total_cholesterol", "tc", "总胆固醇", "胆固醇"), 386.65),
    Analyte("triglycerides", "mmol/L", 150, ("trig", "tg", "triglyceride", "甘油三酯"), 885.43),
    Analyte("ammonia", "µmol/L", 5000, ("nh3", "血氨"), 17.031),
    Analyte("copper", "µmol/L", 500, ("cu", "铜"), 63.546),
    Analyte("iron", "µmol/L", 1000, ("fe", "serum_iron", "血清铁"), 55.845),
    Analyte("lactate", "mmol/L", 60, ("lac", "乳酸"), 90.08),
    Analyte("albumin", "g/L", 100, ("alb", "serum_albumin", "白蛋白")),
    Analyte("protein_total", "g/L", 200, ("prot", "tp", "total_protein", "protein", "总蛋白")),
    Analyte("globulin", "g/L", 150, ("glob", "球蛋白")),
    Analyte("haemoglobin", "g/L", 300, ("hemoglobin", "hb", "hgb", "血红蛋白")),
    Analyte("ferritin", "µg/L", 500_000, ("fer", "铁蛋白")),
    Analyte("crp", "mg/L", 1500, ("c_reactive_protein", "c反应蛋白")),
    Analyte("alt", "U/L", 50_000, ("sgpt", "gpt", "alat", "alanine_aminotransferase", "谷丙转氨酶", "丙氨酸氨基转移酶")),
    Analyte("ast", "U/L", 50_000, ("sgot", "got", "asat", "aspartate_aminotransferase", "谷草转氨酶", "天冬氨酸氨基转移酶")),
    Analyte("alp", "U/L", 50_000, ("alk_phos", "alk_phosphate", "alkp", "alkaline_phosphatase", "碱性磷酸酶")),
    Analyte("ggt", "U/L", 50_000, ("gamma_gt", "γ_gt", "gamma_glutamyl_transferase", "谷氨酰转移酶")),
    Analyte("ldh", "U/L", 100_000, ("lactate_dehydrogenase", "乳酸脱氢酶")),
    Analyte("cholinesterase", "kU/L", 50, ("che", "胆碱酯酶")),
    Analyte("afp", "µg/L", 10_000_000, ("alpha_fetoprotein", "甲胎蛋白"), grams_per_unit=1.21e-9),
    Analyte("platelets", "10^9/L", 5000, ("plt", "platelet", "platelet_count", "血小板")),
    Analyte("leukocytes", "10^9/L", 2000, ("wbc", "white_blood_cells", "白细胞")),
)  # fmt: skip
_BY_NAME = {name: analyte for analyte in ANALYTES for name in (analyte.name, *analyte.aliases)}


def analyte_of(name: str) -> Analyte | None:
    """By a plain name ('alk_phos'); None where it is none of ANALYTES, as INR and prothrombin time, which are never converted."""
    return _BY_NAME.get(name)


def read_unit(text: str) -> Unit | None:
    """A concentration from 'mg/dL', 'µmol/l', '[iU]/L', '10*9/L', 'K/uL' (UCUM or as people write); None for anything else."""
    written = _normal(text)
    if match := _AMOUNT.match(written):
        kind, size = _BASES[match[2]]
        litre = PER_LITRE.get(match[3])
        return None if litre is None else Unit(kind, PREFIXES[match[1]] * size * litre)
    if match := _COUNT.match(written):
        litre = PER_LITRE.get(match[3])
        times = 10.0 ** int(match[1]) if match[1] else 1e3 if match[2] else 1.0
        return None if litre is None else Unit("count", times * litre)
    return None


def factor(source: str, target: str, analyte: Analyte | None = None) -> float | None:
    """What a value in `source` is multiplied by to be in `target`; None where no factor is known.

    Between mass and amount of substance by the analyte's molar mass, between mass and international units by its standard.
    """
    if _normal(source) == _normal(target):
        return 1.0
    one, other = read_unit(source), read_unit(target)
    if one is None or other is None:
        return None
    if one.kind == other.kind:
        return _exact(one.size / other.size)
    if analyte is None:
        return None
    grams = {"mass": 1.0, "substance": analyte.molar_mass, "activity": analyte.grams_per_unit}
    grams_of_one, grams_of_other = grams.get(one.kind), grams.get(other.kind)
    if grams_of_one is None or grams_of_other is None:
        return None
    return _exact(one.size * grams_of_one / (other.size * grams_of_other))


def plausible(analyte: Analyte, unit: str) -> tuple[float, float] | None:
    """The lowest and highest value in `unit` that a patient can have; None where the unit is no known concentration of the analyte."""
    scale = factor(analyte.unit, unit, analyte)
    return None if scale is None else (0.0, analyte.high * scale)


def _exact(ratio: float) -> float:
    """To 12 digits: ng/mL is µg/L, not 1.0000000000000002 of it."""
    return float(f"{ratio:.12g}")


def _normal(text: str) -> str:
    """One spelling of each unit: lower case, u for micro, no blanks, UCUM's brackets and annotations away."""
    written = unicodedata.normalize("NFKC", text).replace("μ", "u").replace("µ", "u").replace("×", "x").lower()
    written = re.sub(r"\{[^}]*\}|[\s\[\]]", "", written)
    return {"mg%": "mg/dl", "g%": "g/dl", "1": ""}.get(written, written)
