"""COHORT/headers.parquet: the few acquisition facts of each ingested series that may leave; every text in it comes from a list below."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydicom.dataset import Dataset

from hepdist.ingest.deidentify import age_in_years, deidentify, patient_key, read_date, text_of
from hepdist.ingest.dicom_refused import quiet
from hepdist.ingest.pseudonym import Pseudonyms
from hepdist.ingest.vocabulary import code_meaning

HEADERS = "headers.parquet"
TAGS = [
    "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID", "PatientSex", "PatientAge", "PatientBirthDate", "StudyDate",
    "Modality", "BodyPartExamined", "AnatomicRegionSequence", "Manufacturer", "ManufacturerModelName", "KVP", "SliceThickness",
    "MagneticFieldStrength",
]  # fmt: skip
"""What `header_row` asks of a data set, for a reader that reads no more than it must."""
COLUMNS = {
    "series": pa.string(), "study": pa.string(), "patient": pa.string(), "modality": pa.string(), "body_part": pa.string(),
    "manufacturer": pa.string(), "model": pa.string(), "sex": pa.string(), "study_date": pa.string(), "age_years": pa.float32(),
    "kvp": pa.float32(), "slice_thickness_mm": pa.float32(), "field_strength_t": pa.float32(),
}  # fmt: skip

_MODALITIES = """
CR CT DX DR IO IVUS MG MR NM OCT OP OT PT PX RF RG RTDOSE RTSTRUCT SC SEG SM US XA XC
"""
_BODY_PARTS = """
ABDOMEN ABDOMENPELVIS ADRENAL ANKLE AORTA ARM BLADDER BRAIN BREAST CALCANEUS CAROTID CHEST CHESTABDOMEN CHESTABDPELVIS CLAVICLE
COCCYX COLON CSPINE CTSPINE ELBOW ESOPHAGUS EXTREMITY EYE FACE FEMUR FINGER FOOT FOREARM GALLBLADDER HAND HEAD HEADNECK HEART
HIP HUMERUS JAW KIDNEY KNEE LEG LIVER LSPINE LSSPINE LUNG MANDIBLE MAXILLA NECK NECKCHEST ORBIT PANCREAS PELVIS PROSTATE RECTUM
RIB SCAPULA SHOULDER SINUS SKULL SPINE SPLEEN SSPINE STERNUM STOMACH TESTIS THIGH THORAX THYMUS THYROID TLSPINE TOE TRUNK TSPINE
UTERUS WHOLEBODY WRIST ZYGOMA
"""
MODALITIES = frozenset(_MODALITIES.split())
BODY_PARTS = frozenset(_BODY_PARTS.split())
"""Defined terms of Body Part Examined (PS3.16 Annex L)."""
MANUFACTURERS = {
    "siemens": "Siemens", "varian": "Varian", "ge": "GE", "general electric": "GE", "philips": "Philips", "marconi": "Marconi",
    "picker": "Picker", "toshiba": "Toshiba", "canon": "Canon", "hitachi": "Hitachi", "fuji": "Fujifilm", "fujifilm": "Fujifilm",
    "agfa": "Agfa", "kodak": "Carestream", "carestream": "Carestream", "konica": "Konica Minolta", "hologic": "Hologic",
    "lorad": "Hologic", "samsung": "Samsung", "shimadzu": "Shimadzu", "uih": "United Imaging", "united imaging": "United Imaging",
    "neusoft": "Neusoft", "mindray": "Mindray", "wandong": "Wandong", "anke": "Anke", "elekta": "Elekta", "esaote": "Esaote",
    "swissray": "Swissray", "planmed": "Planmed", "sedecal": "Sedecal", "drgem": "DRGEM", "vieworks": "Vieworks", "bruker": "Bruker",
    "accuray": "Accuray", "supersonic": "SuperSonic", "rayence": "Rayence", "acuson": "Siemens", "elscint": "Elscint", "imatron": "GE",
}  # fmt: skip
"""By the words a manufacturer's name starts with."""
MODELS = (
    "Achieva", "Aera", "Altea", "Ambient", "Ambition", "Amira", "Aquilion", "Artist", "Artis", "Avanto", "Biograph", "BrightSpeed",
    "Brilliance", "Centricity", "Cima", "CT750", "Definition", "Definium", "Digital Diagnost", "Discovery", "Drive", "Echelon",
    "Edge", "Emotion", "Espree", "Essenta", "Flash", "Force", "Gemini", "Go.Top", "Go.Up", "Harmony", "iCT", "Incisive", "Ingenia",
    "Ingenuity", "Intera", "IQon", "LightSpeed", "Lumina", "Magnetom", "Mx8000", "Naeotom", "Optima", "Perspective", "Prisma",
    "Prodiva", "Revolution", "Scenaria", "Sensation", "Signa", "Skyra", "Sola", "Somatom", "Spectra", "Symphony", "Titan", "Trio",
    "uCT", "uMI", "uMR", "Vantage", "Verio", "Vida", "Vereos", "Volume Zoom", "Ysio",
)  # fmt: skip
"""Product families; a model is written as those of them that its name holds."""


def excerpt(dataset: Dataset) -> Dataset:
    """The elements of TAGS alone, each read by the character set of the data set; one that can't be read is left out."""
    found = Dataset()
    for keyword in TAGS:
        try:
            if keyword in dataset:
                found.add(dataset[keyword])
        except Exception:  # a damaged value: not known
            continue
    return found


def header_row(dataset: Dataset, names: Pseudonyms) -> dict[str, str | float]:
    """The row of one series, from any one of its files' headers (TAGS): '' and NaN where it says nothing that may leave.

    series, study, patient: pseudonyms, as in the audit and the shards. study_date: ISO, shifted with all dates of the patient.
    age_years: at most 90, whole from 2 on. sex: F, M, O. The rest comes from the data set that `deidentify` cleaned. Never raises.
    """
    with quiet():
        cleaned = deidentify(dataset, names)
        date = read_date(text_of(cleaned, "StudyDate"))
        return {
            "series": _pseudonym(dataset, "SeriesInstanceUID", "series", names),
            "study": _pseudonym(dataset, "StudyInstanceUID", "study", names),
            "patient": names.of("patient", patient_key(dataset)),
            "modality": _one_of(MODALITIES, text_of(cleaned, "Modality")),
            "body_part": _body_part(cleaned),
            "manufacturer": _manufacturer(text_of(cleaned, "Manufacturer")),
            "model": _model(text_of(cleaned, "ManufacturerModelName")),
            "sex": text_of(cleaned, "PatientSex"),
            "study_date": date.isoformat() if date is not None else "",
            "age_years": _or_nan(age_in_years(dataset)),
            "kvp": _number(cleaned, "KVP", 1, 500),
            "slice_thickness_mm": _number(cleaned, "SliceThickness", 0, 500),
            "field_strength_t": _number(cleaned, "MagneticFieldStrength", 0, 30),
        }


def write_headers(path: Path, rows: Sequence[Mapping[str, str | float]]) -> None:
    """One row a series, ordered by pseudonym, whatever the order in which they were read; a series read twice counts once."""
    unique = {(str(row["study"]), str(row["series"])): row for row in rows}
    ordered = [unique[key] for key in sorted(unique)]
    columns = {name: pa.array([_null(row[name]) for row in ordered], kind) for name, kind in COLUMNS.items()}
    pq.write_table(pa.table(columns), path)


def read_headers(path: Path) -> list[dict[str, str | float]]:
    """The rows of a cohort's headers.parquet; None where a number is missing."""
    rows: list[dict[str, str | float]] = pq.read_table(path).to_pylist()
    return rows


def _pseudonym(dataset: Dataset, keyword: str, kind: str, names: Pseudonyms) -> str:
    raw = text_of(dataset, keyword)
    return names.of(kind, raw) if raw else ""


def _body_part(cleaned: Dataset) -> str:
    """In small letters: the defined term, else what the code of the anatomic region stands for."""
    term = _one_of(BODY_PARTS, text_of(cleaned, "BodyPartExamined").upper())
    regions = cleaned.get("AnatomicRegionSequence")
    if not term and regions:
        return code_meaning(text_of(regions[0], "CodingSchemeDesignator"), text_of(regions[0], "CodeValue")).lower()
    return term.lower()


def _manufacturer(text: str) -> str:
    words = re.sub(r"[\W_]+", " ", text.lower()).strip()
    return next((name for start, name in MANUFACTURERS.items() if f"{words} ".startswith(f"{start} ")), "other" if words else "")


def _model(text: str) -> str:
    plain = re.sub(r"[\W_]+", "", text.lower())
    found = [name for name in MODELS if re.sub(r"[\W_]+", "", name.lower()) in plain]
    longest = [name for name in found if not any(name != other and name.lower() in other.lower() for other in found)]  # Artis in Artist
    return " ".join(longest) if found else "other" if plain else ""


def _one_of(terms: frozenset[str], text: str) -> str:
    return text if text in terms else ""


def _number(cleaned: Dataset, keyword: str, above: float, most: float) -> float:
    try:
        value = float(cleaned.get(keyword))
    except (TypeError, ValueError):
        return math.nan
    return round(value, 3) if above < value <= most else math.nan


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _null(value: str | float) -> str | float | None:
    return None if value != value else value
