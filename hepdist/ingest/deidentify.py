"""A DICOM header cleaned by PS3.15 Annex E's Basic Application Level Confidentiality Profile; what may leave of it is decided in headers.py.

The table of the profile (E.1-1) and its dummy values are those of dicom-anonymizer. That library cleans the top level only, draws new
UIDs at random and sets all dates to the year 1, so the walk, the UIDs and the dates are done here, stricter than the table where they
differ: what the table doesn't speak of stays only where it can't hold free text.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from functools import cache

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID_dictionary

from hepdist.ingest.dicom_refused import quiet
from hepdist.ingest.pseudonym import Pseudonyms

EDITION = "dicomfields_2026c"
"""Of DICOM PS3.15, as dicom-anonymizer names it."""
BYTES = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
TEXTS = frozenset({"AE", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
KEPT_TEXTS = frozenset({"Manufacturer", "ManufacturerModelName", "CodeValue", "CodingSchemeDesignator"})
"""Of TEXTS, those that stay; headers.py compares them with closed lists before anything is written."""
OLDEST = 90
"""Years; all older patients count as this old (HIPAA 164.514(b)(2)(i)(C))."""
PROFILE = (
    ("113100", "Basic Application Confidentiality Profile"),
    ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    ("113108", "Retain Patient Characteristics Option"),
)
"""Codes of PS3.16 CID 7050. Of the patient's characteristics only sex and capped age are retained."""


def deidentify(dataset: Dataset, names: Pseudonyms) -> Dataset:
    """A cleaned copy of a header, without pixels; `dataset` isn't changed. Never raises for what it holds: what can't be read goes.

    PatientID and PatientName become the patient's pseudonym. UIDs are replaced alike in all files, dates go back by the patient's
    `shift_days`, times of day go, as do private and byte elements, overlays, curves, and free text, on every level; what the profile
    replaces instead of removing holds its dummy, 'ANONYMIZED'.
    """
    patient = patient_key(dataset)
    pseudonym, days = names.of("patient", patient), names.shift_days(patient)
    with quiet():
        age, sex = age_in_years(dataset), str(dataset.get("PatientSex") or "").strip().upper()
        cleaned = _cleaned(dataset, names, days)
        cleaned.PatientID = cleaned.PatientName = pseudonym
        cleaned.PatientBirthDate = ""
        cleaned.PatientSex = sex if sex in ("F", "M", "O") else ""
        if age is not None:
            cleaned.PatientAge = f"{int(age):03d}Y" if age >= 2 else f"{int(age * 12):03d}M"
        cleaned.PatientIdentityRemoved = "YES"
        cleaned.LongitudinalTemporalInformationModified = "MODIFIED"
        cleaned.DeidentificationMethod = "hepdist: PS3.15 E.1, salted UIDs, dates shifted"
        cleaned.add(_method())
        meta = getattr(dataset, "file_meta", None)
        if meta is not None:
            cleaned.file_meta = FileMetaDataset()
            for keyword in ("MediaStorageSOPClassUID", "TransferSyntaxUID"):
                if meta.get(keyword) in UID_dictionary:
                    setattr(cleaned.file_meta, keyword, meta[keyword].value)
            if "SOPInstanceUID" in cleaned:
                cleaned.file_meta.MediaStorageSOPInstanceUID = cleaned.SOPInstanceUID
    return cleaned


def patient_key(dataset: Dataset) -> str:
    """PatientID; where it is empty the study's UID, so that such a study counts as a patient of its own."""
    return text_of(dataset, "PatientID") or text_of(dataset, "StudyInstanceUID")


def age_in_years(dataset: Dataset) -> float | None:
    """At the study, 90 at most: whole years from 2 on, whole months below; from PatientAge, else from the birth date; None: neither."""
    written = re.fullmatch(r"(\d{1,3})([DWMY])", text_of(dataset, "PatientAge"))
    if written:
        months = int(int(written[1]) * {"D": 12 / 365.25, "W": 12 * 7 / 365.25, "M": 1, "Y": 12}[written[2]])
    else:
        born, studied = read_date(text_of(dataset, "PatientBirthDate")), read_date(text_of(dataset, "StudyDate"))
        if born is None or studied is None or born > studied:
            return None
        months = 12 * (studied.year - born.year) + studied.month - born.month - (studied.day < born.day)
    return float(min(OLDEST, months // 12)) if months >= 24 else months / 12


def read_date(text: str) -> datetime.date | None:
    """The date of a DA or DT value, also of the old form 2019.03.31; None where it is none."""
    found = re.match(r"(\d{4})\.?(\d{2})\.?(\d{2})", text.strip())
    try:
        return datetime.date(*map(int, found.groups())) if found else None
    except ValueError:
        return None


def _cleaned(dataset: Dataset, names: Pseudonyms, days: int) -> Dataset:
    cleaned = Dataset()
    for tag in list(dataset.keys()):
        if tag.is_private or tag.group >> 8 in (0x50, 0x60) or tag.group == 0x7FE0:  # curves, overlays, pixels
            continue
        try:
            element = dataset[tag]
            kept = _element(element, names, days)
        except Exception:  # a value that can't be parsed can't be cleaned either; the message may quote it
            continue
        if kept is not None:
            cleaned.add(kept)
    return cleaned


def _element(element: DataElement, names: Pseudonyms, days: int) -> DataElement | None:
    """The element as it may stay; None where it may not."""
    vr, action = element.VR, _profile().get((element.tag.group, element.tag.element))
    if vr == "SQ":
        return None if action else DataElement(element.tag, vr, Sequence(_cleaned(item, names, days) for item in element.value))
    if vr in BYTES or vr == "TM":
        return None
    if vr == "UI":
        return _replaced(element, lambda uid: uid if uid in UID_dictionary else names.uid(uid))
    if vr in ("DA", "DT"):
        return _replaced(element, lambda text: _shifted(text, days))
    if action is None:
        return element if vr not in TEXTS or element.keyword in KEPT_TEXTS else None
    scratch = Dataset()
    scratch.add(DataElement(element.tag, vr, element.value))
    action(scratch, (element.tag.group, element.tag.element))
    return scratch.get(element.tag)


def _replaced(element: DataElement, by: Callable[[str], str]) -> DataElement | None:
    values = [element.value] if isinstance(element.value, str) else list(element.value or ())
    found = [by(str(value)) for value in values]
    return DataElement(element.tag, element.VR, found) if all(found) else None


def _shifted(text: str, days: int) -> str:
    date = read_date(text)
    return (date - datetime.timedelta(days)).strftime("%Y%m%d") if date is not None and date.year > 1000 else ""


@cache
def _method() -> DataElement:
    """The De-identification Method Code Sequence, the same of all: it costs as much to build as the rest."""
    items = []
    for value, meaning in PROFILE:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
        items.append(item)
    return DataElement("DeidentificationMethodCodeSequence", "SQ", Sequence(items))


def text_of(dataset: Dataset, keyword: str) -> str:
    """The value of an element as text; empty where there is none."""
    try:
        return str(dataset.get(keyword) or "").strip()
    except Exception:  # a value that can't be parsed says nothing
        return ""


@cache
def _profile() -> dict[tuple[int, ...], Callable[[Dataset, tuple[int, ...]], None]]:
    """What the profile does to each tag that it names."""
    from dicomanonymizer.simpledicomanonymizer import initialize_actions  # its tables take a second to read

    return dict(initialize_actions(EDITION))
