"""What a DICOM header says of where and when a study was made, for splitting by site or date; raw, so it never leaves ingest."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from pydicom.dataset import Dataset

from hepdist.ingest.deidentify import read_date

TAGS = ("StudyDate", "InstitutionName", "StationName", "DeviceSerialNumber")


@dataclass(frozen=True, slots=True)
class Facts:
    """Of one file."""

    site: str
    """Institution, else station, else serial number of the device."""
    date: datetime.date | None


def read_facts(dataset: Dataset) -> Facts:
    """Never raises: what can't be read is not known."""
    site = next((text for k in ("InstitutionName", "StationName", "DeviceSerialNumber") if (text := str(dataset.get(k) or "").strip())), "")
    return Facts(site, read_date(str(dataset.get("StudyDate") or "")))
