"""What a segmentation or structure set says that it holds, how that may be called, and of which images; voxels and contours are read elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pydicom.dataset import Dataset

from hepdist.ingest.vocabulary import code_meaning, is_anatomical


def segmented(dataset: Dataset) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The series that a segmentation names as its own, each with its SOP instances."""
    return _referenced(dataset.get("ReferencedSeriesSequence") or (), "ReferencedInstanceSequence")


def drawn_on(dataset: Dataset) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The series whose images a structure set's contours were drawn on."""
    frames = dataset.get("ReferencedFrameOfReferenceSequence") or ()
    studies = [study for frame in frames for study in frame.get("RTReferencedStudySequence") or ()]
    series = [item for study in studies for item in study.get("RTReferencedSeriesSequence") or ()]
    return _referenced(series, "ContourImageSequence")


def segments(dataset: Dataset) -> tuple[tuple[int, tuple[str, ...]], ...]:
    """Segments of a segmentation: the coded property type ('Liver') first."""
    found = []
    for segment in dataset.get("SegmentSequence") or ():
        kind = segment.get("SegmentedPropertyTypeCodeSequence")
        texts = (_meaning(kind[0]), str(kind[0].get("CodeMeaning") or "")) if kind else ()
        number = int(segment.SegmentNumber)
        found.append((number, _names(*texts, str(segment.get("SegmentLabel") or ""), f"segment {number}")))
    return tuple(found)


def regions(dataset: Dataset) -> tuple[tuple[int, tuple[str, ...]], ...]:
    """Regions of interest of a structure set; the names are free text, the interpreted type (ORGAN, GTV) a defined term."""
    observed = {int(o.get("ReferencedROINumber", -1)): o for o in dataset.get("RTROIObservationsSequence") or ()}
    found = []
    for region in dataset.get("StructureSetROISequence") or ():
        number = int(region.ROINumber)
        about = observed.get(number, Dataset())
        code = about.get("RTROIIdentificationCodeSequence")
        names = (
            _meaning(code[0]) if code else "",
            str(region.get("ROIName") or ""),
            str(about.get("RTROIInterpretedType") or "").upper(),
        )
        found.append((number, _names(*names)))
    return tuple(found)


def class_of(names: Iterable[str], declared: tuple[str, ...]) -> str | None:
    """The class that a structure with these names, best first, belongs to; None: it may not be told, or wasn't asked for.

    With declared classes (background first) the one that is equal but for case, blanks and signs; else the first name of anatomical terms.
    """
    if declared:
        by_letters = {_letters(name): name for name in declared[1:]}
        return next((by_letters[_letters(name)] for name in names if _letters(name) in by_letters), None)
    return next((name for name in names if is_anatomical(name)), None)


def _meaning(code: Dataset) -> str:
    """What the standard calls a coded item, which the file's own Code Meaning need not."""
    return code_meaning(str(code.get("CodingSchemeDesignator") or ""), str(code.get("CodeValue") or ""))


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()


def _referenced(series: Iterable[Dataset], instances: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple(
        (
            str(item.get("SeriesInstanceUID") or ""),
            tuple(str(instance.get("ReferencedSOPInstanceUID") or "") for instance in item.get(instances) or ()),
        )
        for item in series
    )


def _names(*texts: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))
