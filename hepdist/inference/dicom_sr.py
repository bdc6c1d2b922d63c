"""What a model says of a case as a DICOM Structured Report: volumes of the segments of a SEG, or probabilities of classes (TID 1500)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import highdicom as hd
import numpy as np
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from hepdist.inference.codes import ML, ONE, finding_code, segment_codes
from hepdist.inference.dicom_source import SourceImages
from hepdist.inference.identity import Identity
from hepdist.ingest.dicom_header import functional_group

SERIES_NUMBER = 9001
Group = (
    hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations
    | hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations
    | hd.sr.MeasurementsAndQualitativeEvaluations
)


def volume_groups(
    source: SourceImages, seg: Dataset | None, sizes: Sequence[float], unit: Code, identity: Identity, uids: dict[str, str], name: str
) -> list[Group]:
    """A group for each segment with its size; sizes: ml of a volume, mm2 of a picture, NaN where the source says no spacing.

    A class of which nothing was found has size 0 and no segment to refer to.
    """
    groups: list[Group] = []
    for number, (label, size) in enumerate(zip(identity.classes[1:], sizes, strict=True), 1):
        category, kind = segment_codes(label)
        measured = [] if np.isnan(size) else [hd.sr.Measurement(codes.SCT.Volume if unit == ML else codes.SCT.Area, float(size), unit)]
        common: dict[str, Any] = {
            "tracking_identifier": hd.sr.TrackingIdentifier(uids[f"segment {number}"], f"{name}/{label}"[:64]),
            "finding_category": CodedConcept.from_code(category),
            "finding_type": CodedConcept.from_code(kind),
            "algorithm_id": _algorithm(identity),
            "measurements": measured or None,
        }
        frames = _frames_of(seg, number) if seg is not None else []
        if seg is None or not frames:
            groups.append(hd.sr.MeasurementsAndQualitativeEvaluations(**common))
        elif unit == ML:
            images = [hd.sr.SourceImageForSegmentation(d.SOPClassUID, d.SOPInstanceUID) for d in source.datasets]
            segment = hd.sr.ReferencedSegment(seg.SOPClassUID, seg.SOPInstanceUID, number, source_images=images)
            groups.append(hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=segment, **common))
        else:
            image = hd.sr.SourceImageForSegmentation(source.first.SOPClassUID, source.first.SOPInstanceUID)
            region = hd.sr.ReferencedSegmentationFrame(seg.SOPClassUID, seg.SOPInstanceUID, frames[0], number, image)
            del (
                region[0].ReferencedSOPSequence[0].ReferencedSegmentNumber
            )  # a frame is of one segment: the two exclude each other (PS3.3 C.18.4)
            groups.append(hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(referenced_segment=region, **common))
    return groups


def probability_groups(
    source: SourceImages, probability: Sequence[float], called: Sequence[bool], identity: Identity, name: str, uids: dict[str, str]
) -> list[Group]:
    """A group for each class: its probability, and whether the model's threshold calls it present."""
    images = [hd.sr.SourceImageForMeasurementGroup(d.SOPClassUID, d.SOPInstanceUID) for d in source.datasets]
    groups: list[Group] = []
    for number, (label, value, present) in enumerate(zip(identity.classes, probability, called, strict=True), 1):
        finding = CodedConcept.from_code(finding_code(label))
        verdict = hd.sr.QualitativeEvaluation(
            CodedConcept.from_code(codes.DCM.PresenceOfProperty), CodedConcept.from_code(codes.SCT.Present if present else codes.SCT.Absent)
        )
        groups.append(
            hd.sr.MeasurementsAndQualitativeEvaluations(
                tracking_identifier=hd.sr.TrackingIdentifier(uids[f"class {number}"], f"{name}/{label}"[:64]),
                finding_type=finding,
                algorithm_id=_algorithm(identity),
                measurements=[hd.sr.Measurement(codes.DCM.Probability, float(value), ONE)],
                qualitative_evaluations=[verdict],
                source_images=images,
            )
        )
    return groups


def report(
    source: SourceImages, seg: Dataset | None, groups: Sequence[Group], identity: Identity, uids: dict[str, str]
) -> hd.sr.ComprehensiveSR:
    """The document; uids: 'series', 'instance' and 'device'."""
    device = hd.sr.ObserverContext(
        observer_type=codes.cid270.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=uids["device"], name=identity.version, manufacturer_name="hepdist", model_name=identity.name, serial_number=identity.sha256
        ),
    )
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=device),
        procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=groups,
        title=codes.cid7021.ImagingMeasurementReport,
    )
    return hd.sr.ComprehensiveSR(
        evidence=[*source.datasets, *([seg] if seg is not None else [])],
        content=content[0],
        series_instance_uid=uids["series"],
        series_number=SERIES_NUMBER,
        sop_instance_uid=uids["instance"],
        instance_number=1,
        manufacturer="hepdist",
        is_complete=True,
        is_verified=False,
        manufacturer_model_name=identity.name[:64],
        software_versions=identity.version,
        device_serial_number=identity.sha256,
        series_description=f"Measurements by {identity.name}"[:64],
    )


def _algorithm(identity: Identity) -> hd.sr.AlgorithmIdentification:
    parameters = [f"{key}: {value}" for key, value in identity.parameters.items()]
    return hd.sr.AlgorithmIdentification(name=identity.name, version=identity.version, parameters=parameters)


def _frames_of(seg: Dataset, number: int) -> list[int]:
    """Frame numbers, from 1, of one segment; where all frames are of one, that is said once for all."""
    frames = range(int(seg.NumberOfFrames))
    named = ((frame + 1, functional_group(seg, frame, "SegmentIdentificationSequence")) for frame in frames)
    return [frame for frame, group in named if group is not None and group.ReferencedSegmentNumber == number]
