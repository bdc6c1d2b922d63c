"""NIfTI volumes with masks beside them, a label table, or both: Medical Segmentation Decathlon, nnU-Net, or any folder of pairs.

Antonelli et al., Nature Communications 13, 4128, 2022; Isensee et al., Nature Methods 18, 203, 2021. What has no partner, or
can't be believed, goes to the audit.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from hepdist.errors import IngestError
from hepdist.ingest.dataset_json import Description, parse_description
from hepdist.ingest.files import Files, is_hidden
from hepdist.ingest.labels_table import find_table
from hepdist.ingest.nifti import UnreadableVolume, Volume, read_nifti
from hepdist.ingest.pairs import pair, scope
from hepdist.ingest.sample import Finding, Sample
from hepdist.ingest.spec import IngestSpec
from hepdist.ingest.subjects import UNLISTED, Subject, subjects_of, unmatched

SUFFIX = re.compile(r"\.(nii|img|hdr)(\.gz)?$", re.IGNORECASE)
HEADER = re.compile(r"\.hdr(\.gz)?$", re.IGNORECASE)
VOXELS = re.compile(r"\.img(\.gz)?$", re.IGNORECASE)
NIFTI = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
BESIDE = (".csv", ".tsv", ".json", ".txt", ".md", ".xlsx", ".parquet", ".pdf")
CHANNEL = re.compile(r"_(\d{4})$")
UNLABELLED = "imagesTs"
"""The folder of a challenge's test images, whose labels nobody outside has."""


def is_volume(name: str) -> bool:
    return bool(SUFFIX.search(name)) and not is_hidden(name)


def has_volumes(names: list[str]) -> bool:
    """Whether most files that are no tables or texts are NIfTI by their names: a stray one in a DICOM folder changes nothing."""
    pairs = {VOXELS.sub("", n) for n in names} & {HEADER.sub("", n) for n in names if HEADER.search(n)}
    volumes = sum(is_volume(n) and (bool(NIFTI.search(n)) or SUFFIX.sub("", n) in pairs) for n in names)
    return volumes > sum(not n.lower().endswith(BESIDE) for n in names) / 2


def stem(name: str) -> str:
    return SUFFIX.sub("", PurePosixPath(name).name)


@dataclass(frozen=True)
class Case:
    """One future sample. A volume is its one file, or the .img and the .hdr."""

    subject: Subject
    images: tuple[tuple[str, ...], ...]
    """A volume a channel, or one that holds them all."""
    mask: tuple[str, ...] | None

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(name for volume in (*self.images, self.mask or ()) for name in volume)


class VolumeSource:
    """One sample a case: image [C, D, H, W] and, where masks are used, its mask. Without a table or pattern each case is a patient.

    Raises IngestError where neither masks nor labels are to be had.
    """

    kind = "nifti"
    label_names: tuple[str, ...] = ()
    multilabel = False

    def __init__(self, files: Files, spec: IngestSpec, skip: frozenset[str] = frozenset()):
        """skip: names read by another door, such as the EMR table; they appear in no finding."""
        self._files = files
        self.findings: list[Finding] = []
        table = find_table(files, spec)
        others = [n for n in files.names if n not in skip and not (table and n == table.name)]
        self._tests_too = spec.allow_unlabelled
        self._description = self._described(others)
        self.mask_classes = spec.classes or self._description.classes
        self._headers = {HEADER.sub("", n): n for n in others if is_volume(n) and HEADER.search(n)}
        cases, masks = self._cases([n for n in others if self._is_candidate(n)], spec)
        aliases = {key: [a for v in images for a in _aliases(v)] + [key] for key, images in cases.items()}
        subjects, found = subjects_of(aliases, spec, table, lambda key: key, {})
        self.findings += found
        labelled = any(s.label is not None for listed in subjects.values() for s in listed)
        masks = self._used(masks, cases, labelled, spec)
        unlabelled = spec.emr is not None or spec.allow_unlabelled
        if not labelled and not masks and not self.findings and not unlabelled:
            raise IngestError(
                unmatched(table)
                or "nothing labels the volumes of the source; give masks (labelsTr/CASE.nii.gz or CASE_seg.nii.gz), labels_table=TABLE.csv"
                " or label_pattern=REGEX with one group"
            )
        needs_mask = spec.masks == "require" or (not labelled and not unlabelled)
        self.items: list[Case] = []
        for key, images in cases.items():
            volumes, mask = tuple(map(self._volume, images)), self._volume(masks[key]) if key in masks else None
            files_of = [name for volume in (*volumes, mask or ()) for name in volume]
            if needs_mask and mask is None:
                self.findings += [Finding(name, "quarantined", "unpaired", "image without a label") for name in files_of]
            elif not subjects[key]:
                self.findings += [Finding(name, "quarantined", *UNLISTED) for name in files_of]
            self.items += [Case(s, volumes, mask) for s in subjects[key] if mask is not None or not needs_mask]

    def read(self, item: Case) -> Iterator[Sample | Finding]:
        volumes: list[Volume] = []
        for files in (*item.images, *([item.mask] if item.mask else [])):
            try:
                volumes.append(read_nifti(*map(self._files.read, files)))
            except UnreadableVolume as error:
                return (yield from self._refuse(files, error.check, str(error), item))
            except OSError:
                return (yield from self._refuse(files, "truncated", "can't be read", item))
        first = volumes[0]
        for files, volume in zip((*item.images, *([item.mask] if item.mask else []))[1:], volumes[1:], strict=True):
            if volume.voxels.shape[1:] != first.voxels.shape[1:]:
                reason = f"its shape is {volume.voxels.shape[1:]}, its image's {first.voxels.shape[1:]}"
                return (yield from self._refuse(files, "geometry", reason, item))
            if not np.allclose(volume.affine, first.affine, rtol=1e-4, atol=1e-3):
                return (yield from self._refuse(files, "geometry", "its affine differs from its image's", item))
        mask = None
        if item.mask is not None:
            try:
                mask = class_indices(volumes.pop().voxels, self._description)
            except ValueError as error:
                return (yield from self._refuse(item.mask, "label-unknown", str(error), item))
        image = first.voxels if len(volumes) == 1 else np.concatenate([v.voxels for v in volumes])
        yield Sample(
            key=item.subject.key, patient=item.subject.patient, image=image, mask=mask, label=item.subject.label,
            image_unit="HU" if self._description.channels[:1] == ("CT",) else "raw", spacing=first.spacing, affine=first.affine,
            files=item.files, site=item.subject.site, date=item.subject.date,
        )  # fmt: skip

    def _refuse(self, culprit: tuple[str, ...], check: str, reason: str, case: Case) -> Iterator[Finding]:
        """The file at fault with its reason; its partners because of it."""
        for name in case.files:
            if name in culprit:
                yield Finding(name, "quarantined", check, reason)
            else:
                yield Finding(name, "quarantined", "unpaired", f"its partner is quarantined: {check}")

    def _described(self, names: list[str]) -> Description:
        """What the dataset.json nearest to the root says; nothing without one, or with a damaged one."""
        there = sorted((n for n in names if PurePosixPath(n).name == "dataset.json" and not is_hidden(n)), key=lambda n: (n.count("/"), n))
        self._json = there[0] if there else None
        if self._json is None:
            return Description()
        try:
            found = parse_description(self._files.read(self._json))
        except (ValueError, OSError) as error:
            reason = str(error) if isinstance(error, ValueError) else "can't be read"
            self.findings.append(Finding(self._json, "quarantined", "description", reason))
            return Description()
        self.findings.append(Finding(self._json, "ingested"))
        return found

    def _is_candidate(self, name: str) -> bool:
        """Whether a file is a volume to be paired; says of every other what becomes of it."""
        if name == self._json:
            return False
        if is_hidden(name):
            self.findings.append(Finding(name, "ignored", "hidden-file", "left by an operating system"))
        elif not is_volume(name):
            self.findings.append(Finding(name, "ignored", "not-an-image", "is not a NIfTI file by its name"))
        elif UNLABELLED in PurePosixPath(name).parts[:-1] and not self._tests_too:
            self.findings.append(Finding(name, "ignored", "unlabelled", "an image of the official test set, without a label"))
        elif VOXELS.search(name) and VOXELS.sub("", name) not in self._headers:
            self.findings.append(Finding(name, "quarantined", "unpaired", "an .img without its .hdr"))
        elif HEADER.search(name):  # travels with its .img
            if not self._headers_img(name):
                self.findings.append(Finding(name, "quarantined", "unpaired", "an .hdr without its .img"))
        else:
            return True
        return False

    def _headers_img(self, header: str) -> bool:
        base = HEADER.sub("", header)
        return any(f"{base}{end}" in self._files.names for end in (".img", ".img.gz", ".IMG"))

    def _volume(self, name: str) -> tuple[str, ...]:
        return (name, self._headers[VOXELS.sub("", name)]) if VOXELS.search(name) else (name,)

    def _cases(self, names: list[str], spec: IngestSpec) -> tuple[dict[str, list[str]], dict[str, str]]:
        """Images and mask by case; findings about masks of none, and cases that have other channels than most."""
        found = pair(names, stem, spec.mask_pattern)
        self.findings += [Finding(n, "quarantined", "unpaired", "label without an image") for n in found.alone]
        self.findings += [Finding(n, "quarantined", "ambiguous", "a second label for the same image") for n in found.rivals]
        groups = [(images, mask) for mask, images in found.of_mask.items()]
        paired = {image for images, _ in groups for image in images}
        groups += [(images, "") for images in self._unmasked([n for n in found.images if n not in paired])]
        forms = Counter(_form(images) for images, mask in groups if mask)
        usual = max(forms, key=lambda form: (forms[form], form), default=())
        cases: dict[str, list[str]] = {}
        masks: dict[str, str] = {}
        for images, mask in sorted(groups):
            key = f"{scope(images[0])}/{_base(images)}".strip("/")
            if len({stem(n) for n in images}) < len(images) or key in cases:
                self.findings += [Finding(n, "quarantined", "ambiguous", "several images have this name") for n in (*images, mask) if n]
            elif mask and len(images) > 1 and _form(images) != usual:
                reason = f"the case has {len(images)} images for one label, most have {max(1, len(usual))}, or others by name"
                self.findings += [Finding(n, "quarantined", "ambiguous", reason) for n in (*images, mask)]
            else:
                cases[key] = images
                masks |= {key: mask} if mask else {}
        return cases, masks

    def _unmasked(self, images: list[str]) -> list[list[str]]:
        """The images of each case without a mask: one, or as many as dataset.json says, CASE_0000 and so on."""
        if len(self._description.channels) < 2:
            return [[image] for image in images]
        cases: dict[str, list[str]] = defaultdict(list)
        for image in images:
            cases[f"{scope(image)}/{CHANNEL.sub('', stem(image))}"].append(image)
        return list(cases.values())

    def _used(self, masks: dict[str, str], cases: dict[str, list[str]], labelled: bool, spec: IngestSpec) -> dict[str, str]:
        """The masks, or none where they are not asked for, or where some images have none and all have a label."""
        if spec.masks == "ignore" or (spec.masks == "auto" and labelled and len(masks) < len(cases)):
            reason = "not asked for" if spec.masks == "ignore" else f"only {len(masks)} of {len(cases)} images have a mask"
            self.findings += [Finding(n, "ignored", "mask-unused", reason) for mask in masks.values() for n in self._volume(mask)]
            return {}
        return masks


def class_indices(voxels: np.ndarray, description: Description) -> np.ndarray:
    """uint8[1, D, H, W] of a mask's voxels; raises ValueError with a sentence where a voxel is no class."""
    if len(voxels) != 1:
        raise ValueError(f"the label has {len(voxels)} channels; class indices have one")
    values = np.unique(voxels)
    if not np.isfinite(values).all() or (values != np.round(values)).any() or values[0] < 0 or values[-1] > 255:
        raise ValueError("the label holds values that are not whole numbers from 0 to 255")
    if description.ignore in values:
        raise ValueError(f"the label holds the value {description.ignore}, which dataset.json says to ignore: voxels of no known class")
    if not description.values:
        return voxels.astype(np.uint8)
    foreign = sorted({int(v) for v in values} - description.values.keys())
    if foreign:
        raise ValueError(f"the label holds the value {foreign[0]}, which is none of the declared classes {sorted(description.values)}")
    table = np.zeros(256, np.uint8)
    table[list(description.values)] = list(description.values.values())
    return table[voxels.astype(np.uint8)]


def _aliases(name: str) -> tuple[str, ...]:
    """The names by which a table may call a volume."""
    return name, SUFFIX.sub("", name)


def _base(images: list[str]) -> str:
    """The case's name: its image's, or what its channels' names share."""
    stems = [stem(n) for n in images]
    if len(stems) == 1:
        return stems[0]
    length = next((i for i, letters in enumerate(zip(*stems, strict=False)) if len(set(letters)) > 1), min(map(len, stems)))
    return re.sub(r"[_.-][^_.-]*$", "", stems[0][:length]) if length else ""


def _form(images: list[str]) -> tuple[str, ...]:
    """What tells a case's channels apart, such as ('0000', '0001') or ('flair', 't1')."""
    base = _base(images)
    return tuple(sorted(stem(n)[len(base) :] for n in images)) if len(images) > 1 else ("",)
