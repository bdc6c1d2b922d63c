"""What a folder of DICOM files holds, decided from headers alone: the images and volumes to read, and the files that are neither."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from hepdist.errors import IngestError
from hepdist.ingest.dicom_header import Header, read_header
from hepdist.ingest.dicom_series import Stack, arrange
from hepdist.ingest.files import Files
from hepdist.ingest.sample import Finding

PROJECTIONS = ("CR", "DX", "DR", "RG")
"""Radiographs by any detector: one modality to whoever asks for one of them."""
VOLUMES = ("CT", "MR", "PT")
"""Modalities whose series are volumes; every other one holds single images."""


@dataclass(frozen=True)
class ImageItem:
    """One projection image, one file."""

    header: Header

    @property
    def key(self) -> str:
        return self.header.sop_instance

    @property
    def files(self) -> tuple[str, ...]:
        return (self.header.file,)


@dataclass(frozen=True)
class VolumeItem:
    """One volume of one series, with the segmentations of that series."""

    key: str
    """SeriesInstanceUID; '#1', '#2' follow it for the second, third largest volume of a series."""
    header: Header
    """Of one of its files, for the keys that all share."""
    stack: Stack
    segmentations: tuple[Header, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(p.file for p in self.stack.planes))


@dataclass
class Plan:
    """All of a source: each file is in an item or in a finding, or in both where one of its frames is left out."""

    modality: str = ""
    items: list[ImageItem | VolumeItem] = field(default_factory=list)
    """In the order of their keys, which does not depend on file names."""
    findings: list[Finding] = field(default_factory=list)
    mask_classes: tuple[str, ...] = ()
    """'background' and the segments' names, sorted; empty without segmentations."""


def plan(files: Files, modality: str | None, least_slices: int, allow_burned_in: bool, skip: frozenset[str] = frozenset()) -> Plan:
    """One pass over the headers. `modality` None keeps the one that most studies have. Raises IngestError where the one asked for isn't there."""
    result = Plan()
    headers: list[Header] = []
    for name in files.names:
        if name not in skip:
            read = read_header(files, name)
            (headers if isinstance(read, Header) else result.findings).append(read)  # type: ignore[arg-type]
    images = [h for h in headers if h.modality != "SEG"]
    segmentations = [h for h in headers if h.modality == "SEG"]
    result.modality = _chosen([h for h in images if allow_burned_in or not h.burned_in] or images, modality)
    kept, elsewhere = [], set()
    for header in images:
        if family(header.modality) != result.modality:
            elsewhere.add((header.study, header.series))
            result.findings.append(_finding(header, "ignored", "modality", f"modality {_code(header)}; this cohort is {result.modality}"))
        elif header.burned_in and not allow_burned_in:
            result.findings.append(_finding(header, "quarantined", "burned-in", header.burned_in))
        else:
            kept.append(header)
    unique = list(_unique(files, kept, result.findings))
    if result.modality in VOLUMES:
        _plan_volumes(unique, least_slices, result)
    else:
        _plan_images(unique, result)
    for header in segmentations:
        if (header.study, header.references) in elsewhere:
            result.findings.append(
                _finding(header, "ignored", "modality", f"a segmentation of another modality; this cohort is {result.modality}")
            )
    here = [h for h in segmentations if (h.study, h.references) not in elsewhere]
    _attach_segmentations(_unique(files, here, result.findings), result)
    result.items.sort(key=lambda item: item.key)
    return result


def family(modality: str) -> str:
    return "CR" if modality in PROJECTIONS else modality


def _chosen(images: list[Header], asked: str | None) -> str:
    studies: dict[str, set[str]] = defaultdict(set)
    for header in images:
        studies[family(header.modality)].add(header.study)
    if asked is not None:
        if images and family(asked.upper()) not in studies:
            there = ", ".join(sorted(m for m in studies if m.isalnum() and len(m) <= 4))
            raise IngestError(f"ingest key 'modality' is '{asked}', which no DICOM image of the source has; it has {there}")
        return family(asked.upper())
    counts = Counter(family(h.modality) for h in images)
    return min(studies, key=lambda m: (-len(studies[m]), -counts[m], m), default="")


def _unique(files: Files, headers: Iterable[Header], findings: list[Finding]) -> Iterator[Header]:
    """Each SOP instance once: identical copies count once, differing ones not at all, since nobody can say which is right."""
    copies: dict[str, list[Header]] = defaultdict(list)
    for header in headers:
        copies[header.sop_instance].append(header)
    for same in copies.values():
        if len(same) > 1 and len({files.sha256(h.file) for h in same}) > 1:
            for header in same:
                findings.append(
                    _finding(header, "quarantined", "duplicate", f"{len(same)} files of different content share this SOP Instance UID")
                )
            continue
        yield same[0]
        for header in same[1:]:
            findings.append(_finding(header, "ignored", "duplicate", "a copy of another file"))


def _plan_images(headers: list[Header], result: Plan) -> None:
    for header in headers:
        if header.frames > 1:
            reason = f"{header.frames} frames of modality {_code(header)}; only single images and CT, MR or PT volumes are read"
            result.findings.append(_finding(header, "quarantined", "unsupported", reason))
        else:
            result.items.append(ImageItem(header))


def _plan_volumes(headers: list[Header], least_slices: int, result: Plan) -> None:
    series: dict[tuple[str, str], list[Header]] = defaultdict(list)
    for header in headers:
        if header.frames > 1 and len(header.planes) != header.frames:
            reason = f"{header.frames} frames, of which {len(header.planes)} say where they lie"
            result.findings.append(_finding(header, "quarantined", "geometry", reason))
        else:
            series[header.study, header.series].append(header)
    for (_, uid), members in series.items():
        if len({h.patient for h in members}) > 1:
            for header in members:
                result.findings.append(_finding(header, "quarantined", "identity", "files of one series name different patients"))
            continue
        of_file = {h.file: h for h in members}
        stacks, rejected = arrange([plane for h in members for plane in h.planes], least_slices)
        for number, stack in enumerate(stacks):
            header = of_file[stack.planes[0].file]
            result.items.append(VolumeItem(f"{uid}#{number}" if number else uid, header, stack))
        for group in rejected:
            for name in dict.fromkeys(p.file for p in group.planes):
                result.findings.append(_finding(of_file[name], group.outcome, group.check, group.reason))


def _attach_segmentations(segmentations: Iterable[Header], result: Plan) -> None:
    volumes: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, item in enumerate(result.items):
        volumes[item.header.study, item.header.series].append(index)
    names: set[str] = set()
    for header in sorted(segmentations, key=lambda h: h.sop_instance):
        targets = volumes.get((header.study, header.references), [])
        if not targets:
            result.findings.append(_finding(header, "quarantined", "unpaired", "a segmentation of a series that is not among those read"))
            continue
        if isinstance(result.items[targets[0]], ImageItem):
            result.findings.append(_finding(header, "quarantined", "unsupported", "a segmentation of single images, which have no volume"))
            continue
        names |= {name for _, name in header.segments}
        for index in targets:
            item = result.items[index]
            assert isinstance(item, VolumeItem)
            result.items[index] = VolumeItem(item.key, item.header, item.stack, (*item.segmentations, header))
    if names:
        result.mask_classes = ("background", *sorted(names))


def _finding(header: Header, outcome: str, check: str, reason: str) -> Finding:
    return Finding(header.file, outcome, check, reason, header.study, header.series)


def _code(header: Header) -> str:
    """The modality, where it looks like DICOM's defined terms: nothing else is quoted from a header."""
    return header.modality if header.modality.isalpha() and len(header.modality) <= 5 else "unknown"
