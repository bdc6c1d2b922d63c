"""Plain images (PNG, JPEG, BMP, TIFF) with masks, a label table, class folders or a label in the name; grey is what becomes of colour."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from hepdist.errors import IngestError
from hepdist.ingest.files import Files, is_hidden
from hepdist.ingest.labels_table import LabelTable, find_table
from hepdist.ingest.pictures import UnreadablePicture, class_indices, grey
from hepdist.ingest.sample import Finding, Sample
from hepdist.ingest.spec import IngestSpec

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
MASK_FOLDER = re.compile(r"(mask|segmentation|annotation|label)s?(tr)?$", re.IGNORECASE)
MASK_SUFFIX = re.compile(r"[_-](mask|seg|segmentation|label)$", re.IGNORECASE)
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not is_hidden(name)


@dataclass(frozen=True)
class Row:
    """One future sample."""

    image: str
    key: str
    patient: str
    label: str | None
    mask: str | None = None
    split: str | None = None


class ImageSource:
    """One sample an image, or one a row of the label table. Without a patient column or pattern each image is a patient.

    Raises IngestError where neither masks nor labels are to be had.
    """

    kind = "images"
    label_names: tuple[str, ...] = ()
    mask_classes: tuple[str, ...] = ()
    multilabel = False

    def __init__(self, files: Files, spec: IngestSpec, skip: frozenset[str] = frozenset()):
        """skip: names read by another door, such as the EMR table; they appear in no finding."""
        self._files, self._spec = files, spec
        pictures = [n for n in files.names if is_picture(n)]
        self._masks, images, self.findings = _pair(pictures)
        splits = _official(images)
        self._table: LabelTable | None = find_table(files, spec)
        used = set(pictures) | skip | ({self._table.name} if self._table else set())
        for name in (n for n in files.names if n not in used):
            hidden = is_hidden(name)
            why = ("hidden-file", "left by an operating system") if hidden else ("not-an-image", "is no image by its name")
            self.findings.append(Finding(name, "ignored", *why))
        rows = self._plan(images)
        labelled = any(row.label is not None for row in rows)
        if spec.masks == "ignore" or (spec.masks == "auto" and labelled and len(self._masks) < len(images)):
            reason = (
                "not asked for"
                if spec.masks == "ignore"
                else f"only {len(self._masks)} of {len(images)} images have a mask, and all a label source"
            )
            self.findings += [Finding(name, "ignored", "mask-unused", reason) for name in self._masks.values()]
            self._masks = {}
        if not labelled and not self._masks and spec.emr is None:
            raise IngestError(
                "nothing labels the images of the source; give masks (masks/NAME.png), class folders, labels_table=TABLE.csv"
                " or label_pattern=REGEX with one group"
            )
        self.items = [replace(row, mask=self._masks.get(row.image), split=splits.get(row.image)) for row in rows]

    def read(self, item: Row) -> Iterator[Sample | Finding]:
        files = (item.image, item.mask) if item.mask else (item.image,)
        culprit = item.image
        try:
            image = grey(self._files.read(item.image))
            culprit = item.mask or culprit
            mask = class_indices(self._files.read(item.mask)) if item.mask else None
        except (UnreadablePicture, OSError) as error:
            check = error.check if isinstance(error, UnreadablePicture) else "truncated"
            reason = str(error) if isinstance(error, UnreadablePicture) else "can't be read"
            yield Finding(culprit, "quarantined", check, reason)
            yield from (Finding(n, "quarantined", "unpaired", f"its partner is quarantined: {check}") for n in files if n != culprit)
            return
        unit = "display 0..255" if image.dtype == "uint8" else "raw"
        yield Sample(
            key=item.key, patient=item.patient, image=image, image_unit=unit, mask=mask, label=item.label, split=item.split, files=files,
        )  # fmt: skip

    def _plan(self, images: list[str]) -> list[Row]:
        stems = {PurePosixPath(n).stem for n in images}
        unique = len(stems) == len(images)  # a stem that two folders share is no identifier

        def patient(name: str) -> str:
            found = re.search(self._spec.patient_pattern, name) if self._spec.patient_pattern else None
            return found.group(1) if found else PurePosixPath(name).stem if unique else name

        if self._table is not None:
            matched, self_findings = self._table.match(images)
            self.findings += self_findings
            rows = []
            for name in images:
                for entry in matched.get(name, []):
                    rows.append(
                        Row(name, f"{name}#{entry.patient}" if entry.patient else name, entry.patient or patient(name), entry.label)
                    )
                if name not in matched:
                    rows.append(Row(name, name, patient(name), None))
            return rows
        folders = _class_folders(images) if not self._masks and not self._spec.label_pattern else {}
        return [Row(name, name, patient(name), self._by_pattern(name) or folders.get(name)) for name in images]

    def _by_pattern(self, name: str) -> str | None:
        found = re.search(self._spec.label_pattern, name) if self._spec.label_pattern else None
        return found.group(1) if found else None


def _pair(pictures: list[str]) -> tuple[dict[str, str], list[str], list[Finding]]:
    """Mask of each image that has one, all images, and findings about masks of no or several images."""
    stems = {PurePosixPath(n).stem for n in pictures}
    masks = [n for n in pictures if _is_mask(PurePosixPath(n), stems)]
    images = sorted(set(pictures) - set(masks))
    if not images:  # a folder of masks' names alone holds images
        return {}, masks, []
    by_stem: dict[str, list[str]] = defaultdict(list)
    for name in images:
        by_stem[PurePosixPath(name).stem].append(name)
    pairs: dict[str, str] = {}
    findings = []
    for name in masks:
        path = PurePosixPath(name)
        candidates = by_stem.get(path.stem) or by_stem.get(MASK_SUFFIX.sub("", path.stem), [])
        if len(candidates) > 1:  # a/images/x.png and a/masks/x.png belong together
            candidates = [c for c in candidates if PurePosixPath(c).parent.parent == path.parent.parent] or candidates
        if not candidates:
            findings.append(Finding(name, "quarantined", "unpaired", "mask without an image"))
        elif len(candidates) > 1 or candidates[0] in pairs:
            findings.append(Finding(name, "quarantined", "ambiguous", "mask of several images, or one of several masks of an image"))
        else:
            pairs[candidates[0]] = name
    return pairs, images, findings


def _is_mask(path: PurePosixPath, stems: set[str]) -> bool:
    if any(MASK_FOLDER.search(folder) for folder in path.parts[:-1]):
        return True
    return bool(MASK_SUFFIX.search(path.stem)) and MASK_SUFFIX.sub("", path.stem) in stems


def _official(images: list[str]) -> dict[str, str]:
    """Split by image, where every image lies in a folder named for one."""
    found = {n: SPLIT_FOLDERS[f.lower()] for n in images for f in PurePosixPath(n).parts[:-1] if f.lower() in SPLIT_FOLDERS}
    return found if len(found) == len(images) and "train" in found.values() else {}


def _class_folders(images: list[str]) -> dict[str, str]:
    """Name of the folder each image is in, where they are several: the usual way to lay out classes."""
    folders = {name: PurePosixPath(name).parent.name for name in images}
    classes = set(folders.values()) - {f for f in folders.values() if f.lower() in SPLIT_FOLDERS}
    return folders if len(classes) > 1 and classes == set(folders.values()) and "" not in classes else {}
