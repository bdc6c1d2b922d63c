"""What one column of an EMR table is, from its header and its texts: a number with a unit, a category, or nothing that may become a feature."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from hepdist.shards.manifest import EMRColumn

MISSING = frozenset({"", "?", "-", "--", ".", "na", "n/a", "#n/a", "nan", "null", "<na>", "nat"})
"""How tables write that there is no value, whatever the case."""
MOST_CATEGORIES = 20
MOSTLY_NUMBERS = 0.95
"""Share of readable numbers from which a column is one: a few typing errors become missing values, not a text column."""

NEGATIVES = frozenset({"no", "n", "0", "false", "negative", "neg", "normal", "healthy", "control", "absent", "benign"})
POSITIVES = frozenset({"yes", "y", "1", "true", "positive", "pos", "abnormal", "present", "malignant"})
COMMON_WORDS = NEGATIVES | POSITIVES | {"m", "f", "male", "female", "low", "high", "unknown"}
IDENTIFIERS = re.compile(
    r"(^|_)(id|ids|uid|mrn|ssn|nhs|name|names|surname|forename|initials|address|street|city|zip|zipcode|postcode|phone|mobile|email|mail"
    r"|fax|url|accession|birth|birthday|dob|date|datetime|timestamp|insurance|passport|rownames|index|row|filename|file|path)(_|$)|^unnamed|姓名|身份证|电话|手机|地址|住址|住院号|病历号|门诊号|就诊号|登记号|医保|社保|出生|日期"
    r"|(^|_)(tel|telephone|cell|birthdate|postal|plz)(_|$)|(^|_)(hospital|admission|patient|card|account|record)_(no|number|nr)(_|$)"
)
"""Header words of columns that identify a person, a day or a row; a number under them would pass for a measurement."""
UNITS = {
    "u_l": "U/L", "iu_l": "IU/L", "u_ml": "U/mL", "ku_l": "kU/L", "mg_dl": "mg/dL", "mg_l": "mg/L", "g_dl": "g/dL", "g_l": "g/L",
    "umol_l": "µmol/L", "mmol_l": "mmol/L", "ng_ml": "ng/mL", "years": "years", "months": "months", "days": "days", "kg": "kg",
    "cm": "cm", "mmhg": "mmHg", "celsius": "°C", "percent": "%",
}  # fmt: skip
_BRACKETS = re.compile(r"^(.*?\S)\s*(?:\[((?:[^\[\]]|\[[^\[\]]*\])+)\]|\(([^()]+)\))$")
_LIMIT = re.compile(r"^(?:[<>]=?|[≤≥])\s*(\S+)$")
_DATE = re.compile(
    r"^\d{4}([-/.])\d{1,2}\1\d{1,2}([T ]\d{1,2}:\d{2}.*)?$|^\d{1,2}([-/.])\d{1,2}\3(\d{4}|\d{2})$|^[A-Za-z]{3,9} \d{1,2}, \d{4}$"
)


def plain(header: str) -> str:
    """A header for comparison: lower case, words joined by underscores ('patientID' and 'Patient ID' are 'patient_id')."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", header.strip())
    return re.sub(r"[\W_]+", "_", spaced).strip("_").lower()


def name_and_unit(header: str) -> tuple[str, str]:
    """'bilirubin [mg/dL]', 'bilirubin (mg/dL)' and 'bilirubin_mg_dl' give ('bilirubin', 'mg/dL'); no unit gives ''."""
    header = header.strip()
    if match := _BRACKETS.match(header):
        return match[1], (match[2] or match[3]).strip()  # UCUM's own brackets inside: [mm[Hg]]
    lower = header.lower()
    suffix = next((s for s in sorted(UNITS, key=len, reverse=True) if lower.endswith(f"_{s}")), None)
    return (header, "") if suffix is None else (header[: -len(suffix) - 1], UNITS[suffix])


def is_missing(text: str, declared: frozenset[str] = frozenset()) -> bool:
    """declared: the table's own codes; 999 covers 999.0 too."""
    if text.lower() in MISSING or text in declared:
        return True
    value = number(text) if declared else None
    return value is not None and any(number(code) == value for code in declared)


def number(text: str) -> float | None:
    """The finite number that a text is, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def reading(text: str) -> tuple[float | None, bool]:
    """The number that a text is or gives as a limit, and whether it is a limit: '<0.5' and '≥ 100' give (0.5, True) and (100.0, True)."""
    beyond = _LIMIT.match(text)
    return (number(beyond[1]), True) if beyond else (number(text), False)


def in_order(values: Sequence[str]) -> tuple[str, ...]:
    """Each once: numbers by value, else negatives ('no', 'normal', '0') first and the rest by letter."""
    distinct = set(values)
    as_numbers = {v: number(v) for v in distinct}
    if all(n is not None for n in as_numbers.values()):
        return tuple(sorted(distinct, key=lambda v: (as_numbers[v] or 0.0, v)))
    return tuple(sorted(distinct, key=lambda v: (v.lower() not in NEGATIVES, v.lower(), v)))


def shared(texts: Sequence[str]) -> list[str]:
    """The texts that occur more than once or are common words; any other could identify the one who has it."""
    return [t for t, n in Counter(texts).items() if n > 1 or t.lower() in COMMON_WORDS]


def describe(header: str, texts: Sequence[str]) -> EMRColumn | str:
    """The feature that a column is, or the reason why it is none. texts: the values that are there, each once a patient.

    A category is a text that repeats: more than 20 different values, or different ones in most rows, are free text. A value that
    one row alone holds becomes missing unless it is a common word: it could identify a person and nothing can be learnt from it.
    """
    if IDENTIFIERS.search(plain(header)):
        return "its header names an identifier or a date"
    if not texts:
        return "it holds no values"
    name, unit = name_and_unit(header)
    numbers = sum(reading(t)[0] is not None for t in texts)
    if numbers >= MOSTLY_NUMBERS * len(texts):
        return EMRColumn(name, "number", unit)
    if sum(bool(_DATE.match(t)) for t in texts) > len(texts) / 2:
        return "it holds dates"
    if len(set(texts)) > max(3, min(MOST_CATEGORIES, len(texts) / 2)):
        return "it holds free text"
    kept = shared(texts)
    if len(kept) < 2:
        return "it holds one value only" if kept else "it holds free text"
    return EMRColumn(name, "category", unit, in_order(kept))
