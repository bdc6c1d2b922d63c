"""A predicted mask as a DICOM Segmentation on the frames of the series that it was found in (PS3.3 A.51)."""

from __future__ import annotations

import highdicom as hd
import numpy as np
from highdicom.color import CIELabColor
from pydicom.sr.codedict import codes

import hepdist
from hepdist.inference.codes import segment_codes
from hepdist.inference.dicom_source import SourceImages
from hepdist.inference.identity import Identity
from hepdist.inspect.picture import colour_of

SERIES_NUMBER = 9000


def segmentation(source: SourceImages, mask: np.ndarray, identity: Identity, uids: dict[str, str], name: str) -> hd.seg.Segmentation:
    """mask: uint8[D, H, W] or [H, W], class indices with something of at least one class; uids: 'series', 'instance' and 'segment 1' ...;
    name: the case's pseudonym, for tracking its segments.
    """
    algorithm = hd.AlgorithmIdentificationSequence(
        name=identity.name[:64], family=codes.cid7162.ArtificialIntelligence, version=identity.version, source="hepdist",
        parameters=identity.parameters,
    )  # fmt: skip
    descriptions = []
    for number, label in enumerate(identity.classes[1:], 1):
        category, kind = segment_codes(label)
        descriptions.append(
            hd.seg.SegmentDescription(
                segment_number=number,
                segment_label=label[:64],
                segmented_property_category=category,
                segmented_property_type=kind,
                algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
                algorithm_identification=algorithm,
                tracking_uid=uids[f"segment {number}"],
                tracking_id=f"{name}/{label}"[:64],
                display_color=CIELabColor.from_rgb(*colour_of(number)),
            )
        )
    return hd.seg.Segmentation(
        source_images=source.datasets,
        pixel_array=source.laid(mask),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        series_instance_uid=uids["series"],
        series_number=SERIES_NUMBER,
        sop_instance_uid=uids["instance"],
        instance_number=1,
        manufacturer="hepdist",
        manufacturer_model_name=identity.name[:64],
        software_versions=hepdist.__version__,
        device_serial_number=identity.sha256,
        content_label="PREDICTION",
        content_description="Predicted; research use only",
        series_description=f"Segmentation by {identity.name}"[:64],
    )
