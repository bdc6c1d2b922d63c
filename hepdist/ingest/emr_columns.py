"""What one column of an EMR table is, from its header and its texts: a number with a unit, a category, or nothing that may become a feature."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from hepdist.shards.manifest import EMRColumn

MISSING = frozenset({"", "?", "-", "--", ".", "na", "n/a", "#n/a", "nan", "null", "<na>", "nat"})
"""How tables write that there is no value, whatever the case."""
MOST_CATEGORIES = 20
MOSTLY_NUMBERS = 0.95
"""Share of readable numbers from which a column is one: a few typing errors become missing values, not a text column."""

NEGATIVES = frozenset(
    {"no", "n", "0", "false", "negative", "neg", "normal", "healthy", "control", "absent", "benign", "-", "(-)", "阴性", "无", "否", "正常"}
)
POSITIVES = frozenset(
    {"yes", "y", "1", "true", "positive", "pos", "abnormal", "present", "malignant", "+", "(+)", "阳性", "有", "是", "异常"}
)
PLUSES = frozenset({"+", "++", "+++", "++++", "±", "+-", "+/-"})
"""Results of a test beside which '-' is one too, and no missing value."""
COMMON_WORDS = NEGATIVES | POSITIVES | {"m", "f", "male", "female", "low", "high", "unknown"}
IDENTIFIERS = re.compile(
    r"(^|_)(id|ids|uid|mrn|ssn|nhs|name|names|surname|forename|initials|address|street|city|zip|zipcode|postcode|postal|plz|residence|domicile"
    r"|phone|mobile|tel|telephone|email|mail|fax|url|accession|birthday|birthdate|dateofbirth|dob|geburtsdatum|date|datetime|timestamp"
    r"|insurance|passport|rownames|filename|file|path|physician|doctor|nurse|radiologist|technician|operator)(_|$)"
    r"|(^|_)(hospital|admission|patient|card|account|record|visit|case|encounter|bed|room|study|exam|specimen)_(no|number|nr)(_|$)"
    r"|(day|month|year|place)_of_birth|birth_(day|month|year|place)|^(birth|index|row|unnamed.*)$|social_security"
    r"|姓名|身份证|电话|手机|联系|地址|住址|籍贯|邮编|住院号|病历号|病案号|门诊号|就诊号|登记号|检查号|检验号|标本号|条码|卡号|床号|医保|社保"
    r"|出生([年月日地]|$)|日期|(^|院|诊|查|验|样|告|记|病|术|亡|请|核|录|建|新)时间$|医师|医生|护士"
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
    r"|^\d{1,2}[-/ .][A-Za-z]{3,9}[-/ .]\d{2,4}$|^\d{4}年\d{1,2}月(\d{1,2}日)?.*$"
)
_COMPACT_DATE = re.compile(r"^(19|20)\d{2}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(\.0+)?$")
_LONG = re.compile(r"^\d{7,}(\.0+)?$")
_WHOLE = re.compile(r"^\d+\.0$")
MOSTLY_DIFFERENT = 0.9
"""Share of different values from which long whole numbers are taken for identifiers."""


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


def are_whole(texts: Iterable[str]) -> bool:
    """Whether identifiers were written as 17.0, as by programs that take a column with gaps for real numbers: they mean 17."""
    present = [text for text in texts if text]
    return bool(present) and all(_WHOLE.match(text) for text in present)


def signed(texts: Iterable[str]) -> bool:
    """Whether a column holds '+', so that its '-' is negative."""
    return any(text.strip() in PLUSES for text in texts)


def is_missing(text: str, declared: frozenset[str] = frozenset(), signed: bool = False) -> bool:
    """declared: the table's own codes; 999 covers 999.0 too. signed: of a column whose '-' is negative."""
    if (text.lower() in MISSING and not (signed and text == "-")) or text in declared:
        return True
    value = number(text) if declared else None
    return value is not None and any(number(code) == value for code in declared)


def says_nothing(label: str, unlabelled: tuple[str, ...]) -> bool:
    """Whether a label means 'not known', whatever its case: tables write TODO, todo and Todo."""
    return label.strip().casefold() in {text.casefold() for text in ("", *unlabelled)}


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
    if sum(bool(_COMPACT_DATE.match(t)) for t in texts) >= MOSTLY_NUMBERS * len(texts):
        return "it holds dates"
    long = sum(bool(_LONG.match(t)) for t in texts) >= MOSTLY_NUMBERS * len(texts)
    if long and not unit and len(set(texts)) >= MOSTLY_DIFFERENT * len(texts):
        return "it holds long whole numbers, nearly all different, as identifiers do; a dictionary may declare it a number"
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
