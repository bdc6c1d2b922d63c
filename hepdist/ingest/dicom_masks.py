"""Which masks lie on which images: DICOM SEG and RT structure sets by the series that they name, mask slices by place and folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np

from hepdist.errors import IngestError
from hepdist.ingest.dicom_header import Header
from hepdist.ingest.dicom_items import ImageItem, Mask, VolumeItem
from hepdist.ingest.dicom_mask_series import folder_name
from hepdist.ingest.dicom_refused import Refused
from hepdist.ingest.dicom_regions import whole_steps
from hepdist.ingest.dicom_series import Stack, stack
from hepdist.ingest.dicom_structures import class_of
from hepdist.ingest.sample import Finding

Items = list[ImageItem | VolumeItem]
MOST_CLASSES = 256
UNNAMED = "nothing in it has a name that is a class; name the classes with classes=background,..."


@dataclass(frozen=True)
class _Candidate:
    """A mask whose classes are names still, and the items that it lies on."""

    mask: Mask
    names: tuple[tuple[int, str], ...]
    targets: tuple[int, ...]


def attach(
    items: Items, drawn: Iterable[Header], series: Iterable[list[Header]], declared: tuple[str, ...], pattern: str | None
) -> tuple[tuple[str, ...], list[Finding]]:
    """Give the items their masks, in place; returns the class names, background first (none without masks), and what fits nowhere."""
    candidates: list[_Candidate] = []
    findings: list[Finding] = []
    by_series: dict[tuple[str, str], list[int]] = defaultdict(list)
    below: dict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        by_series[item.header.study, item.header.series].append(index)
        for folder in _folders(item.header):
            below[folder].append(index)
    for header in sorted(drawn, key=lambda h: h.sop_instance):
        try:
            candidates.append(_drawn(header, items, by_series, declared))
        except Refused as refused:
            findings.append(_finding(header, refused))
    for members in sorted(series, key=lambda m: min(h.sop_instance for h in m)):
        try:
            candidates.append(_slices(members, items, below, declared, pattern))
        except Refused as refused:
            findings += [_finding(header, refused) for header in members]
    if not candidates:
        return (), findings
    classes = declared or ("background", *sorted({name for c in candidates for _, name in c.names}))
    if len(classes) > MOST_CLASSES:
        raise IngestError(f"the masks have {len(classes)} classes, more than the {MOST_CLASSES} that a mask holds; name some with classes=")
    for candidate in candidates:
        mask = replace(candidate.mask, wanted=tuple((number, classes.index(name)) for number, name in candidate.names))
        for index in candidate.targets:
            items[index] = replace(items[index], masks=(*items[index].masks, mask))
    return classes, findings


def _drawn(header: Header, items: Items, by_series: dict[tuple[str, str], list[int]], declared: tuple[str, ...]) -> _Candidate:
    what = "structure set" if header.modality == "RTSTRUCT" else "segmentation"
    targets = [index for uid, _ in header.references for index in by_series.get((header.study, uid), ())]
    if not header.references:
        targets = [
            n
            for (study, _), indices in by_series.items()
            if study == header.study
            for n in indices
            if _one_frame_of_reference(items[n].header, header, known=True)
        ]
    # of several series that it names, those in its own frame of reference; where it names one, that one
    targets = [n for n in targets if _one_frame_of_reference(items[n].header, header)] or targets
    instances = {instance for _, named in header.references for instance in named}
    targets = [n for n in targets if isinstance(items[n], VolumeItem) or not instances or items[n].header.sop_instance in instances]
    if not targets:
        raise Refused("unpaired", f"a {what} of a series that is not among those read")
    if what == "structure set" and not all(isinstance(items[n], VolumeItem) for n in targets):
        raise Refused("unsupported", "a structure set of single images, which have no volume")
    if any(isinstance(items[n], ImageItem) and items[n].header.frames > 1 for n in targets):
        raise Refused("unsupported", f"a {what} of a multi-frame object that is no volume")
    named = [(number, class_of(names, declared)) for number, names in header.segments]
    found = tuple((number, name) for number, name in named if name is not None)
    if not found:
        raise Refused("class", UNNAMED)
    return _Candidate(
        Mask("structures" if what == "structure set" else "segmentation", (header.file,), ()), found, tuple(dict.fromkeys(targets))
    )


def _slices(members: list[Header], items: Items, below: dict[str, list[int]], declared: tuple[str, ...], pattern: str | None) -> _Candidate:
    header = members[0]
    own = stack([plane for h in members for plane in h.planes])
    targets: list[int] = []
    for folder in _folders(header):  # the images nearest to the mask in the tree of folders are its own, where they fit
        volumes = [n for n in below.get(folder, ()) if isinstance(items[n], VolumeItem)]
        targets = [n for n in volumes if _may_be_of(header, items[n].header) and _fits(own, items[n], resample=pattern is not None)]
        if targets:
            break
    else:
        raise Refused("unpaired", "a series of binary slices on the grid of no image series")
    if len({(items[n].header.patient, items[n].header.study) for n in targets}) > 1:
        raise Refused("unpaired", "a series of binary slices that fits images of several studies; keep each study's masks in its folder")
    name = class_of((folder_name(header, pattern),), declared)
    if name is None:
        raise Refused("class", "a mask folder whose name is no class and no anatomical term; name the classes with classes=background,...")
    return _Candidate(Mask("slices", tuple(h.file for h in members), (), own), ((0, name),), tuple(targets))


def _may_be_of(mask: Header, image: Header) -> bool:
    """Nothing that both headers say speaks against it. A patient that is a study's UID is one whose PatientID is empty."""
    one_patient = mask.patient in (image.patient, mask.study) or image.patient == image.study
    one_day = None in (mask.facts.date, image.facts.date) or mask.facts.date == image.facts.date
    return one_patient and one_day and _one_frame_of_reference(mask, image)


def _one_frame_of_reference(a: Header, b: Header, known: bool = False) -> bool:
    if not a.frame_of_reference or not b.frame_of_reference:
        return not known
    return a.frame_of_reference == b.frame_of_reference


def _fits(mask: Stack, item: ImageItem | VolumeItem, resample: bool) -> bool:
    """Whether a mask lies on the image's very voxels; resample: or its centre inside the image, on a grid of its own."""
    assert isinstance(item, VolumeItem)
    to_image = np.linalg.inv(item.stack.affine) @ mask.affine
    last = np.array(mask.shape) - 1
    limit = np.array(item.stack.shape) - 1
    if resample:
        centre = (to_image @ [*(last / 2), 1])[:3]
        return bool((centre >= -0.5).all() and (centre <= limit + 0.5).all())
    ends = np.array([(to_image @ [*corner, 1])[:3] for corner in ((0, 0, 0), last)])
    return whole_steps(mask.affine, mask.shape, item.stack) is not None and bool((ends > -0.5).all() and (ends < limit + 0.5).all())


def _folders(header: Header) -> list[str]:
    """The folder of a file and those above it, up to the source's own."""
    return [str(folder) for folder in PurePosixPath(header.file).parents]


def _finding(header: Header, refused: Refused) -> Finding:
    return Finding(header.file, "quarantined", refused.check, refused.reason, header.study, header.series)
