"""What one request sent as cases that the model can read: opened, checked and decoded as ingest does it, or refused with its reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from hepdist.errors import IngestError
from hepdist.inference.case import Case
from hepdist.inference.predictor import Predictor
from hepdist.inference.reading import Reading
from hepdist.ingest.dicom_items import ImageItem, VolumeItem
from hepdist.ingest.pseudonym import Pseudonyms
from hepdist.ingest.sample import Finding, Sample
from hepdist.serve.limits import Limits, Problem
from hepdist.serve.upload import Intake
from hepdist.serve.values import Record, case_values

FORMS = {"dicom": "DICOM", "nifti": "NIfTI", "images": "picture"}
WHOLE_STUDY = "send every file of one study, unchanged; GET /v1/model says what the model reads"


@dataclass
class Read:
    """One case, and where in the request it came from."""

    case: Case
    """As the model is shown it."""
    original: Case
    """As it lies in its files."""
    item: Any = None
    """The reading's own, for objects that refer to its DICOM files."""
    frame: int = 0
    """Of a multi-frame file."""


@dataclass
class Study:
    """A request's cases; `folder` must be there for as long as DICOM objects are made of it."""

    form: str
    """DICOM, NIfTI, picture, or EMR."""
    found: list[Read]
    left_out: list[dict[str, Any]] = field(default_factory=list)
    """Files that no case holds, and why."""
    reading: Reading | None = None
    skipped: int = 0
    """Members of archives that are no images."""


def read_record(record: Record, predictor: Predictor) -> Study:
    """EMR values without an image. Raises Problem."""
    emr, visits = case_values(record, predictor.signature)
    if visits is None and all(value is None for value in emr.values()):
        raise Problem(422, "the EMR holds no value to predict from", "give values or visits; GET /v1/model names the columns")
    case = Case(Sample(key="emr", patient="emr"), emr, visits)
    _refuse(predictor, case)
    return Study("EMR", [Read(case, case)])


def read_study(
    uploads: Sequence[IO[bytes]], record: Record | None, folder: Path, predictor: Predictor, limits: Limits, options: Sequence[str]
) -> Study:
    """uploads: the files of the request; folder: empty, of this request alone; options: of ingest, on how sources are laid out. Raises Problem."""
    emr, visits = case_values(record, predictor.signature) if record is not None else ({}, None)
    intake = Intake(folder, limits)
    intake.take(uploads)
    reading = _open(folder, predictor, options)
    for item in reading.items:
        intake.count(_claimed(item))
    study = Study(FORMS.get(reading.source.kind, reading.source.kind), [], reading=reading, skipped=intake.skipped)
    findings = list(reading.findings)
    for item in reading.items:
        frame = 0
        for found in reading.read(item):
            if isinstance(found, Finding):
                findings.append(found)
                continue
            original = replace(found, emr=emr, visits=visits)
            case = predictor.upright(original)
            refusal = predictor.refusal(case)
            if refusal is None:
                if len(study.found) == limits.results:
                    raise Problem(413, f"the study holds more than {limits.results} images or volumes to predict", "send fewer at once")
                study.found.append(Read(case, original, item, frame))
            else:
                findings += [Finding(name, "quarantined", *refusal) for name in case.sample.files]
            frame += 1
    study.left_out = [told(finding) for finding in findings if finding.outcome != "ingested"]
    if not study.found:
        reason = next((f.reason for f in findings if f.outcome == "quarantined"), "no file of it is an image that the model reads")
        raise Problem(422, f"nothing of the study can be predicted: {reason}", WHOLE_STUDY, left_out=study.left_out)
    if len({read.case.sample.patient for read in study.found}) > 1 and record is not None:
        raise Problem(422, "the images are of several patients, and the EMR is of one", "send one patient at a time")
    return study


def told(finding: Finding) -> dict[str, Any]:
    """A finding without the name of a file: its number in the request."""
    return {"file": told_number(finding.file), "check": finding.check, "reason": finding.reason}


def told_number(name: str) -> int | None:
    """Of a file by the name that the intake gave it."""
    number = name.partition(".")[0]
    return int(number) if number.isdigit() else None


def _open(folder: Path, predictor: Predictor, options: Sequence[str]) -> Reading:
    try:
        reading = Reading(str(folder), predictor.signature, options, Pseudonyms(b"no name of a request is ever told"))
    except IngestError:  # its words are for who wrote the options of an ingest
        wanted = predictor.signature.origin.get("options", {}).get("modality")
        of = f" of modality {wanted}" if wanted else ""
        raise Problem(422, f"the upload is no study{of} that can be read", WHOLE_STUDY) from None
    if reading.source.kind not in FORMS:
        raise Problem(415, "the upload holds no images", "send EMR values in the field 'emr'")
    return reading


def _claimed(item: Any) -> int:
    """Voxels of a DICOM item by its header; those of other files were counted when they came."""
    if isinstance(item, VolumeItem):
        depth, rows, columns = item.stack.shape
        return depth * rows * columns
    if isinstance(item, ImageItem) and item.header.planes:
        rows, columns = item.header.planes[0].size
        return rows * columns * max(item.frames, 1)
    return 0


def _refuse(predictor: Predictor, case: Case) -> None:
    refusal = predictor.refusal(case)
    if refusal is not None:
        raise Problem(422, f"the case can't be predicted: {refusal[1]}", "send the image too, as multipart/form-data")
