"""Which DICOM objects a case gets, and these: a Segmentation of its mask, a Structured Report of what was found, its restored picture."""

from __future__ import annotations

from collections.abc import Callable

from pydicom.dataset import Dataset

from hepdist.inference.case import Case
from hepdist.inference.codes import ML, MM2
from hepdist.inference.conclusions import calls, sizes
from hepdist.inference.dicom_image import restored
from hepdist.inference.dicom_seg import segmentation
from hepdist.inference.dicom_source import SourceImages
from hepdist.inference.dicom_sr import Group, probability_groups, report, volume_groups
from hepdist.inference.identity import Identity
from hepdist.inference.predictor import Answer

Uids = Callable[[str], dict[str, str]]
"""Of one object, 'seg', 'sr' or 'image': its series, instance and device, and 'segment 1' and 'class 1' onwards of what it tracks."""


def objects(
    source: SourceImages, case: Case, answer: Answer, identity: Identity, uids: Uids, name: str, *, multilabel: bool
) -> dict[str, Dataset]:
    """'seg' where the mask holds anything, 'sr', and 'derived' of a restored picture.

    source: the images that the case was read from; case: as they lie; name: its pseudonym. The same UIDs make an object replace the one before
    it in an archive.
    """
    made: dict[str, Dataset] = {}
    groups: list[Group] = []
    if answer.mask is not None:
        if answer.mask.any():
            made["seg"] = segmentation(source, answer.mask, identity, uids("seg"), name)
        unit = ML if answer.mask.ndim == 3 else MM2
        groups = volume_groups(source, made.get("seg"), sizes(case, answer).tolist(), unit, identity, uids("seg"), name)
    if answer.probability is not None:
        called = calls(answer.probability, identity, multilabel=multilabel)
        groups = probability_groups(source, answer.probability.tolist(), called, identity, name, uids("sr"))
    if groups:
        made["sr"] = report(source, made.get("seg"), groups, identity, uids("sr"))
    if answer.image is not None and answer.image.ndim == 3:
        made["derived"] = restored(source, answer.image, case, identity, uids("image"))
    return made
