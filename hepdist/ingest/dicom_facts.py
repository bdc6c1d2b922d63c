"""What a DICOM header says of person and scanner besides pixels: only numbers, codes and words of closed lists, which may leave ingest."""

from __future__ import annotations

import datetime
import math
import re
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset

TAGS = (
    "PatientAge", "PatientBirthDate", "PatientSex", "StudyDate", "InstitutionName", "StationName", "DeviceSerialNumber",
    "Manufacturer", "KVP", "SliceThickness", "MagneticFieldStrength",
)  # fmt: skip
OLDEST = 90
"""Years; ages above are told as this one: so few people reach them that an age names one (45 CFR 164.514(b)(2)(i)(C))."""
DAYS_PER_YEAR = 365.2425
AGE_UNITS = {"D": 1 / DAYS_PER_YEAR, "W": 7 / DAYS_PER_YEAR, "M": 1 / 12, "Y": 1.0}
VENDORS = (
    "Agfa", "Canon", "Carestream", "Esaote", "Fujifilm", "GE", "Hitachi", "Hologic", "Kodak", "Konica", "Lodox", "Mindray", "Neusoft",
    "Philips", "Planmed", "Samsung", "Shimadzu", "Siemens", "Swissray", "Toshiba", "Trixell", "United Imaging", "Varian", "Vatech", "Wandong",
)  # fmt: skip
"""Makers of scanners. Manufacturer is free text, so one of these words is told and nothing else; model names have no closed list
and are left out."""
RANGES = {"kvp": ("KVP", 10, 500), "slice_thickness": ("SliceThickness", 0.01, 200), "field_strength": ("MagneticFieldStrength", 0.01, 25)}
"""Attribute: keyword, least and largest value believed (kV, mm, tesla); some scanners write gauss, which is no tesla."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Of one file. `site` and `date` are raw and are used for splitting only."""

    site: str
    """Institution, else station, else serial number of the device."""
    date: datetime.date | None
    attributes: tuple[tuple[str, str | float], ...]
    """age (whole years), sex (M, F, O), manufacturer, kvp (kV), slice_thickness (mm), field_strength (T), where known."""


def read_facts(dataset: Dataset) -> Facts:
    """Never raises: what can't be read is not known."""
    date = _date(dataset.get("StudyDate"))
    values: dict[str, str | float | None] = {
        "age": _age(str(dataset.get("PatientAge") or ""), _date(dataset.get("PatientBirthDate")), date),
        "sex": _sex(str(dataset.get("PatientSex") or "")),
        "manufacturer": _vendor(str(dataset.get("Manufacturer") or "")),
    }
    values |= {name: _within(dataset.get(keyword), least, most) for name, (keyword, least, most) in RANGES.items()}
    site = next((text for k in ("InstitutionName", "StationName", "DeviceSerialNumber") if (text := str(dataset.get(k) or "").strip())), "")
    return Facts(site, date, tuple((name, value) for name, value in values.items() if value is not None))


def _age(text: str, born: datetime.date | None, seen: datetime.date | None) -> float | None:
    match = re.fullmatch(r"\s*(\d{1,3})([DWMY])\s*", text.upper())
    if match:
        years = int(match[1]) * AGE_UNITS[match[2]]
    elif born and seen and born != seen:  # equal dates are what some anonymisers write, not a birth
        years = (seen.year - born.year) - ((seen.month, seen.day) < (born.month, born.day))
    else:
        return None
    return float(min(OLDEST, math.floor(years))) if 0 <= years <= 130 else None


def _sex(text: str) -> str | None:
    return text.strip().upper() if text.strip().upper() in ("M", "F", "O") else None


def _vendor(text: str) -> str | None:
    return next((vendor for vendor in VENDORS if re.search(rf"\b{vendor}\b", text, re.IGNORECASE)), None)


def _within(value: Any, least: float, most: float) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if least <= number <= most else None


def _date(value: Any) -> datetime.date | None:
    text = re.sub(r"\D", "", str(value or ""))  # ACR-NEMA wrote 1993.05.27
    try:
        return datetime.date(int(text[:4]), int(text[4:6]), int(text[6:8])) if len(text) == 8 else None
    except ValueError:
        return None
