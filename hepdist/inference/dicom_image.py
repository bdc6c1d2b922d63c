"""A restored picture as a DICOM object beside its source: a secondary capture of the same study, with the patient's identity."""

from __future__ import annotations

from typing import Any, cast

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset

import hepdist
from hepdist.inference.case import Case
from hepdist.inference.dicom_source import SourceImages
from hepdist.inference.identity import Identity
from hepdist.inference.onto_files import displayed

SERIES_NUMBER = 9002


def restored(source: SourceImages, image: np.ndarray, case: Case, identity: Identity, uids: dict[str, str]) -> Dataset:
    """image: float32[1, H, W] in the unit of the case, which is one for display."""
    pixels = displayed(image, case.sample.image_unit)
    made = hd.sc.SCImage.from_ref_dataset(
        ref_dataset=source.first,
        pixel_array=pixels,
        photometric_interpretation="MONOCHROME2",
        bits_allocated=pixels.dtype.itemsize * 8,
        coordinate_system="PATIENT",
        series_instance_uid=uids["series"],
        series_number=SERIES_NUMBER,
        sop_instance_uid=uids["instance"],
        instance_number=1,
        manufacturer="hepdist",
        pixel_spacing=cast(Any, case.sample.spacing),
        patient_orientation=tuple(source.first.get("PatientOrientation") or ("L", "F")),
        transfer_syntax_uid="1.2.840.10008.1.2.1",
    )
    reference = Dataset()
    reference.ReferencedSOPClassUID = source.first.SOPClassUID
    reference.ReferencedSOPInstanceUID = source.first.SOPInstanceUID
    made.SourceImageSequence = [reference]
    made.ImageType = ["DERIVED", "SECONDARY"]
    made.DerivationDescription = f"Restored by {identity.name}, {identity.version}, model sha256 {identity.sha256}"
    made.SeriesDescription = f"Restored by {identity.name}"[:64]
    made.SoftwareVersions = hepdist.__version__
    return made
