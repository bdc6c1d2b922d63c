"""One DICOM file's header, read without its pixels: what it is, whose it is and where its frames lie; nothing is grouped or decoded here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pydicom
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from hepdist.errors import HepdistError
from hepdist.ingest import dicom_facts
from hepdist.ingest.dicom_codestream import LARGEST, is_deflated, refuse_bomb
from hepdist.ingest.dicom_facts import Facts, read_facts
from hepdist.ingest.dicom_refused import Refused, quiet
from hepdist.ingest.dicom_structures import drawn_on, regions, segmented, segments
from hepdist.ingest.files import Files, is_hidden
from hepdist.ingest.sample import Finding

PHASES = ("AcquisitionNumber", "TemporalPositionIdentifier", "EchoNumbers", "EchoTime", "DiffusionBValue", "TriggerTime")
"""What tells apart slices at the same position, where a series holds several volumes: phases, echoes, diffusion weights."""

TAGS = [
    "ImageType", "SOPClassUID", "SOPInstanceUID", "Modality", "ConversionType", "PatientID", "SliceThickness", "StudyInstanceUID",
    "SeriesInstanceUID", "FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "NumberOfFrames", "Rows", "Columns",
    "PixelSpacing", "BitsAllocated", "BurnedInAnnotation", "ReferencedSeriesSequence", "SegmentSequence", "ReferencedFrameOfReferenceSequence",
    "StructureSetROISequence", "RTROIObservationsSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    *PHASES, *dicom_facts.TAGS,
]  # fmt: skip

_TAGS = [Tag(keyword) for keyword in TAGS]  # once: to look up fifty names is a tenth of reading a header

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
RT_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
DICOMDIR = "1.2.840.10008.1.3.10"
LEADING_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")
"""First bytes of a file without preamble: group 0002 or 0008, in either byte order."""
EMPTY = "empty", "the file is empty or can't be read"
FARTHEST = 1e5
"""mm; a place farther off is a damaged number."""


@dataclass(frozen=True, slots=True)
class Plane:
    """Where one frame lies in the patient, and what tells it from other frames at the same place."""

    file: str
    frame: int
    """Index in the file; 0 in a single-frame file."""
    sop_instance: str
    size: tuple[int, int]
    """Rows, columns."""
    position: tuple[float, float, float] | None
    """Centre of the first pixel, mm, LPS."""
    orientation: tuple[float, ...] | None
    """Direction cosines of a row (increasing column), then of a column (increasing row)."""
    spacing: tuple[float, float] | None
    """mm between rows, between columns."""
    thickness: float | None
    image_type: tuple[str, ...]
    phase: tuple[str, ...]
    """Values of PHASES, as text."""


@dataclass(frozen=True, slots=True)
class Header:
    """What planning needs to know of one file. Raw keys: nothing of this is ever written."""

    file: str
    sop_class: str
    sop_instance: str
    series: str
    study: str
    patient: str
    """PatientID; where it is empty the study's UID, so that such a study counts as a patient of its own."""
    modality: str
    image_type: tuple[str, ...]
    frames: int
    bits: int
    """Allocated for each sample."""
    frame_of_reference: str
    planes: tuple[Plane, ...]
    """One a frame where the file says where its frames lie; else one without position. None of a segmentation."""
    burned_in: str
    """Why the pixels may show text about the patient; empty where nothing says so."""
    references: tuple[tuple[str, tuple[str, ...]], ...]
    """Series that a segmentation or structure set is drawn on, each with the SOP instances that it names."""
    segments: tuple[tuple[int, tuple[str, ...]], ...]
    """Number of each segment or region, and what it is called, best name first: DICOM's term for its code, its label, its type."""
    facts: Facts


def read_header(files: Files, name: str) -> Header | Finding:
    """The header of one file, or the audit row that says why it is no DICOM image. Never raises for what a file holds."""
    if is_hidden(name):
        return Finding(name, "ignored", "hidden-file", "hidden file of an operating system")
    try:
        with quiet(), files.open(name) as stream:
            start = stream.read(1024)
            if not start:
                raise Refused(*EMPTY)
            if start[128:132] != b"DICM" and start[:2] not in LEADING_GROUPS:
                raise Refused("not-dicom", "no DICOM file: neither preamble nor a leading group 0002 or 0008")
            if is_deflated(start):
                refuse_bomb(files.read(name), LARGEST)
            stream.seek(0)
            dataset = pydicom.dcmread(cast(Any, stream), force=True, stop_before_pixels=True, specific_tags=cast(Any, _TAGS))
            ended = not stream.read(1) and _syntax(dataset) != DeflatedExplicitVRLittleEndian  # which is read to its end in any case
            return _header(name, dataset, ended)
    except Refused as refused:
        outcome = "ignored" if refused.check in ("dicomdir", "no-image") else "quarantined"
        return Finding(name, outcome, refused.check, refused.reason)
    except OSError:
        return Finding(name, "quarantined", *EMPTY)
    except HepdistError:  # a store that can't be reached
        raise
    except Exception:  # a damaged file can make the parser raise anything; its message may quote the file
        return Finding(name, "quarantined", "damaged-header", "the DICOM header can't be parsed")


def functional_group(dataset: Dataset, frame: int, sequence: str) -> Dataset | None:
    """The item of one functional group for one frame of an enhanced object: its own, else the shared one."""
    groups: list[Dataset] = []
    if dataset.get("PerFrameFunctionalGroupsSequence"):
        groups.append(dataset.PerFrameFunctionalGroupsSequence[frame])
    if dataset.get("SharedFunctionalGroupsSequence"):
        groups.append(dataset.SharedFunctionalGroupsSequence[0])
    return next((group[sequence].value[0] for group in groups if group.get(sequence)), None)


def _header(name: str, dataset: Dataset, ended: bool) -> Header:
    sop_class = UID(str(dataset.get("SOPClassUID") or ""))
    if dataset.get("SOPClassUID") is None and str(dataset.file_meta.get("MediaStorageSOPClassUID", "")) == DICOMDIR:
        raise Refused("dicomdir", "a DICOMDIR, which lists files and holds no image")
    drawn = sop_class == RT_STRUCTURE_SET
    if ended and not drawn:
        _refuse_without_pixels(dataset, sop_class)
    if not drawn and (not dataset.get("Rows") or not dataset.get("Columns")):
        raise Refused("no-pixels", "the header has no rows or columns")
    study, series, instance = (str(dataset.get(k) or "") for k in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"))
    missing = [k for k, v in (("Study", study), ("Series", series), ("SOP", instance)) if not v]
    if missing:
        raise Refused("no-identity", f"the header has no {missing[0]} Instance UID")
    modality = "RTSTRUCT" if drawn else str(dataset.get("Modality") or "OT").strip().upper()
    image_type = _texts(dataset.get("ImageType"))
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames < 1:
        raise Refused("damaged-header", "the number of frames is below one")
    return Header(
        file=name,
        sop_class=str(sop_class),
        sop_instance=instance,
        series=series,
        study=study,
        patient=str(dataset.get("PatientID") or "").strip() or study,
        modality=modality,
        image_type=image_type,
        frames=frames,
        bits=int(dataset.get("BitsAllocated") or 0),
        frame_of_reference=str(dataset.get("FrameOfReferenceUID") or ""),
        planes=() if modality in ("SEG", "RTSTRUCT") else _planes(name, dataset, frames, image_type),
        burned_in=_burned_in(dataset, str(sop_class), image_type),
        references=drawn_on(dataset) if drawn else segmented(dataset),
        segments=regions(dataset) if drawn else segments(dataset),
        facts=read_facts(dataset),
    )


def _refuse_without_pixels(dataset: Dataset, sop_class: UID) -> None:
    """For a file that ended where pixel data should begin. Raises Refused in any case."""
    known_without = sop_class.is_private is False and sop_class.name != str(sop_class) and "Image" not in sop_class.name
    if known_without and "Segmentation" not in sop_class.name:
        raise Refused("no-image", f"a DICOM object without an image ({sop_class.name})")
    if not dataset.get("Rows"):
        raise Refused("truncated", "the file ends inside its header")
    raise Refused("no-pixels", "the file ends where its pixel data should begin")


def _planes(name: str, dataset: Dataset, frames: int, image_type: tuple[str, ...]) -> tuple[Plane, ...]:
    if dataset.get("PerFrameFunctionalGroupsSequence"):
        return _frame_planes(name, dataset, frames)
    return (_plane(name, dataset, image_type),)


def _plane(name: str, dataset: Dataset, image_type: tuple[str, ...]) -> Plane:
    return Plane(
        file=name,
        frame=0,
        sop_instance=str(dataset.SOPInstanceUID),
        size=(int(dataset.Rows), int(dataset.Columns)),
        position=cast(Any, _numbers(dataset.get("ImagePositionPatient"), 3)),
        orientation=_numbers(dataset.get("ImageOrientationPatient"), 6),
        spacing=cast(Any, _numbers(dataset.get("PixelSpacing"), 2)),
        thickness=_number(dataset.get("SliceThickness")),
        image_type=image_type,
        phase=tuple(str(dataset.get(keyword) or "") for keyword in PHASES),
    )


def _frame_planes(name: str, dataset: Dataset, frames: int) -> tuple[Plane, ...]:
    """The frames of an enhanced object: PS3.3 C.7.6.16, multi-frame functional groups."""
    planes = []
    for frame in range(min(frames, len(dataset.PerFrameFunctionalGroupsSequence))):

        def group(sequence: str, frame: int = frame) -> Dataset:
            return functional_group(dataset, frame, sequence) or Dataset()

        content, measures = group("FrameContentSequence"), group("PixelMeasuresSequence")
        kind = group("CTImageFrameTypeSequence") or group("MRImageFrameTypeSequence") or group("PETFrameTypeSequence")
        phase = (
            *(content.get(k) for k in ("FrameAcquisitionNumber", "TemporalPositionIndex", "StackID")),
            group("MREchoSequence").get("EffectiveEchoTime"),
            group("MRDiffusionSequence").get("DiffusionBValue"),
            group("CardiacSynchronizationSequence").get("NominalCardiacTriggerDelayTime"),
        )
        planes.append(
            Plane(
                file=name,
                frame=frame,
                sop_instance=str(dataset.SOPInstanceUID),
                size=(int(dataset.Rows), int(dataset.Columns)),
                position=cast(Any, _numbers(group("PlanePositionSequence").get("ImagePositionPatient"), 3)),
                orientation=_numbers(group("PlaneOrientationSequence").get("ImageOrientationPatient"), 6),
                spacing=cast(Any, _numbers(measures.get("PixelSpacing"), 2)),
                thickness=_number(measures.get("SliceThickness")),
                image_type=_texts(kind.get("FrameType") or dataset.get("ImageType")),
                phase=tuple(str(value or "") for value in phase),
            )
        )
    return tuple(planes)


def _burned_in(dataset: Dataset, sop_class: str, image_type: tuple[str, ...]) -> str:
    if str(dataset.get("BurnedInAnnotation") or "").strip().upper() == "YES":
        return "the header says that annotation is burned in"
    if sop_class == SECONDARY_CAPTURE or sop_class.startswith(SECONDARY_CAPTURE + "."):
        return "a secondary capture, which may show the patient's name"
    if any("SCREEN" in value for value in image_type):
        return "a screen shot, which may show the patient's name"
    return ""


def _syntax(dataset: Dataset) -> str:
    return str(dataset.file_meta.get("TransferSyntaxUID", ""))


def _texts(value: Any) -> tuple[str, ...]:
    if value is None or value == "":
        return ()
    return (str(value).upper(),) if isinstance(value, str) else tuple(str(v).upper() for v in value)


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    if value is None or isinstance(value, (str, float, int)) or len(value) != count:
        return None
    numbers = tuple(float(v) for v in value)
    return numbers if all(abs(n) < FARTHEST for n in numbers) else None  # which no NaN is


def _number(value: Any) -> float | None:
    number = None if value in (None, "") else float(value)
    return number if number is not None and 0 < number < FARTHEST else None
