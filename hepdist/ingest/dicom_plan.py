"""What a folder of DICOM files holds, decided from headers alone: the images and volumes to read, and the files that are neither."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Literal

from hepdist.errors import IngestError
from hepdist.ingest.dicom_header import Header, read_header
from hepdist.ingest.dicom_items import ImageItem, VolumeItem
from hepdist.ingest.dicom_mask_series import mask_series
from hepdist.ingest.dicom_masks import attach
from hepdist.ingest.dicom_series import arrange
from hepdist.ingest.files import Files
from hepdist.ingest.sample import Finding

PROJECTIONS = ("CR", "DX", "DR", "RG")
"""Radiographs by any detector: one modality to whoever asks for one of them."""
VOLUMES = ("CT", "MR", "PT")
"""Modalities whose series are volumes; every other one holds single images."""
DRAWN = ("SEG", "RTSTRUCT")
Each = Callable[[Callable[[str], Header | Finding], Sequence[str]], Iterable[Header | Finding]]
"""Like `map`: the function of each name, in order; may spread the calls over processes, since the function pickles where the files do."""


@dataclass(frozen=True)
class Wanted:
    """What to look for; see DicomSource."""

    modality: str | None = None
    least_slices: int = 2
    allow_burned_in: bool = False
    frames: Literal["refuse", "first", "all"] = "refuse"
    classes: tuple[str, ...] = ()
    mask_folders: str | None = None


@dataclass
class Plan:
    """All of a source: each file is in an item or in a finding, or in both where one of its frames is left out."""

    modality: str = ""
    items: list[ImageItem | VolumeItem] = field(default_factory=list)
    """In the order of their keys, which does not depend on file names."""
    findings: list[Finding] = field(default_factory=list)
    mask_classes: tuple[str, ...] = ()
    """'background' and the structures' names, as declared or sorted; empty without masks."""


def plan(files: Files, wanted: Wanted, skip: frozenset[str] = frozenset(), each: Each = map) -> Plan:
    """One pass over the headers. `modality` None keeps the one that most studies have. Raises IngestError where the one asked for isn't there."""
    result = Plan()
    headers: list[Header] = []
    pool: dict[Any, Any] = {}
    for read in each(partial(read_header, files), [name for name in files.names if name not in skip]):
        if isinstance(read, Header):
            headers.append(_pooled(read, pool))
        else:
            result.findings.append(read)
    drawn = [h for h in headers if h.modality in DRAWN]
    series = mask_series(files, [h for h in headers if h.modality not in DRAWN], wanted.mask_folders)
    masks = {h.file for members in series for h in members}
    images = [h for h in headers if h.modality not in DRAWN and h.file not in masks]

    result.modality = _chosen([h for h in images if wanted.allow_burned_in or not h.burned_in] or images, wanted.modality)
    kept, elsewhere = [], set()
    for header in images:
        if family(header.modality) != result.modality:
            elsewhere.add((header.study, header.series))
            result.findings.append(_finding(header, "ignored", "modality", f"modality {_code(header)}; this cohort is {result.modality}"))
        elif header.burned_in and not wanted.allow_burned_in:
            result.findings.append(_finding(header, "quarantined", "burned-in", header.burned_in))
        else:
            kept.append(header)
    unique = list(_unique(files, kept, result.findings))
    if result.modality in VOLUMES:
        _plan_volumes(unique, wanted.least_slices, result)
    else:
        _plan_images(unique, wanted.frames, result)
    result.items.sort(key=lambda item: item.key)

    here = []
    for header in drawn:
        named = {(header.study, uid) for uid, _ in header.references}
        if named and named <= elsewhere:
            reason = f"a segmentation of another modality; this cohort is {result.modality}"
            result.findings.append(_finding(header, "ignored", "modality", reason))
        else:
            here.append(header)
    alone = [members for group in series if (members := list(_unique(files, group, result.findings)))]
    result.mask_classes, unpaired = attach(result.items, _unique(files, here, result.findings), alone, wanted.classes, wanted.mask_folders)
    result.findings += unpaired
    return result


def family(modality: str) -> str:
    return "CR" if modality in PROJECTIONS else modality


def _pooled(header: Header, pool: dict[Any, Any]) -> Header:
    """The same header with texts and tuples that others have too held once: what 200,000 headers from other processes cost is copies."""
    planes = tuple(replace(p, **_shared(p, ("orientation", "spacing", "image_type", "phase", "size"), pool)) for p in header.planes)
    names = tuple(f.name for f in fields(header) if f.name not in ("file", "sop_instance", "planes"))
    return replace(header, planes=planes, **_shared(header, names, pool))


def _shared(owner: Any, names: tuple[str, ...], pool: dict[Any, Any]) -> dict[str, Any]:
    return {name: pool.setdefault((name, value := getattr(owner, name)), value) for name in names}


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


def _plan_images(headers: list[Header], frames: Literal["refuse", "first", "all"], result: Plan) -> None:
    for header in headers:
        if header.frames > 1 and frames == "refuse":
            reason = (
                f"{header.frames} frames of modality {_code(header)}; read the first or each as an image with frames=first or frames=all"
            )
            result.findings.append(_finding(header, "quarantined", "multi-frame", reason))
        else:
            result.items.append(ImageItem(header, header.frames if frames == "all" else 1))


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


def _finding(header: Header, outcome: str, check: str, reason: str) -> Finding:
    return Finding(header.file, outcome, check, reason, header.study, header.series)


def _code(header: Header) -> str:
    """The modality, where it looks like DICOM's defined terms: nothing else is quoted from a header."""
    return header.modality if header.modality.isalpha() and len(header.modality) <= 5 else "unknown"
