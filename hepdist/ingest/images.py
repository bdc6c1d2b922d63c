"""Plain images (PNG, JPEG, BMP, TIFF) with masks, a label table, class folders or a label in the name; grey is what becomes of colour."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from hepdist.errors import IngestError
from hepdist.ingest.called import image_names
from hepdist.ingest.class_folders import SPLIT_FOLDERS, Folders, told_by_folders
from hepdist.ingest.files import Files, is_hidden
from hepdist.ingest.labels_table import find_table
from hepdist.ingest.pairs import pair
from hepdist.ingest.pictures import UnreadablePicture, class_indices, grey
from hepdist.ingest.sample import Finding, Sample
from hepdist.ingest.spec import IngestSpec
from hepdist.ingest.subjects import UNLISTED, Subject, subjects_of, unmatched

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


def is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not is_hidden(name)


@dataclass(frozen=True)
class Row:
    """One future sample."""

    image: str
    subject: Subject
    mask: str | None = None
    split: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        return (self.image, self.mask) if self.mask else (self.image,)


class ImageSource:
    """One sample an image, or one a patient that the label table lists it under. Without a patient column, folder or pattern each image is a patient.

    Raises IngestError where neither masks nor labels are to be had.
    """

    kind = "images"
    label_names: tuple[str, ...] = ()
    mask_classes: tuple[str, ...] = ()
    multilabel = False

    def __init__(self, files: Files, spec: IngestSpec, skip: frozenset[str] = frozenset()):
        """skip: names read by another door, such as the EMR table; they appear in no finding."""
        self._files = files
        pictures = [n for n in files.names if is_picture(n)]
        masks, images, self.findings = _pair(pictures, spec.mask_pattern)
        table = find_table(files, spec)
        used = set(pictures) | skip | ({table.name} if table else set())
        for name in (n for n in files.names if n not in used):
            hidden = is_hidden(name)
            why = ("hidden-file", "left by an operating system") if hidden else ("not-an-image", "is no image by its name")
            self.findings.append(Finding(name, "ignored", *why))
        aliases, patient = _names(images)
        folders = Folders()
        if not (masks or spec.label_pattern or spec.label or spec.event or spec.label_rules or (table and table.labelled)):
            folders = _by_folders(images, needed=spec.emr is None and not spec.allow_unlabelled)
        subjects, found = subjects_of(aliases, spec, table, lambda name: folders.patients.get(name) or patient(name), folders.classes)
        self.findings += found
        labelled = any(s.label is not None for listed in subjects.values() for s in listed)
        if spec.masks == "ignore" or (spec.masks == "auto" and labelled and len(masks) < len(images)):
            reason = (
                "not asked for"
                if spec.masks == "ignore"
                else f"only {len(masks)} of {len(images)} images have a mask, and all a label source"
            )
            self.findings += [Finding(name, "ignored", "mask-unused", reason) for name in masks.values()]
            masks = {}
        if not labelled and not masks and spec.emr is None and not spec.allow_unlabelled:
            raise IngestError(
                unmatched(table)
                or "nothing labels the images of the source; give masks (masks/NAME.png), class folders, labels_table=TABLE.csv"
                " or label_pattern=REGEX with one group"
            )
        splits = _official(images)
        for name in (n for n in images if not subjects[n]):
            self.findings += [Finding(n, "quarantined", *UNLISTED) for n in (name, masks.get(name)) if n]
        self.items = [Row(name, subject, masks.get(name), splits.get(name)) for name in images for subject in subjects[name]]

    def read(self, item: Row) -> Iterator[Sample | Finding]:
        culprit = item.image
        try:
            image = grey(self._files.read(item.image))
            culprit = item.mask or culprit
            mask = class_indices(self._files.read(item.mask)) if item.mask else None
            if mask is not None and mask.shape != image.shape:
                raise UnreadablePicture("geometry", f"its size is {mask.shape[1:]}, its image's {image.shape[1:]}")
        except (UnreadablePicture, OSError) as error:
            check = error.check if isinstance(error, UnreadablePicture) else "truncated"
            reason = str(error) if isinstance(error, UnreadablePicture) else "can't be read"
            yield Finding(culprit, "quarantined", check, reason)
            yield from (Finding(n, "quarantined", "unpaired", f"its partner is quarantined: {check}") for n in item.files if n != culprit)
            return
        yield Sample(
            key=item.subject.key, patient=item.subject.patient, image=image, image_unit="display 0..255" if image.dtype == "uint8" else "raw",
            mask=mask, label=item.subject.label, split=item.split, files=item.files, site=item.subject.site, date=item.subject.date,
        )  # fmt: skip


def _names(images: list[str]) -> tuple[dict[str, Iterable[str]], Callable[[str], str]]:
    """The names by which a table may call each image, and what tells patients apart without one."""
    stems = {PurePosixPath(n).stem for n in images}
    unique = len(stems) == len(images)  # a stem that two folders share is no identifier
    aliases: dict[str, Iterable[str]] = {n: image_names(n) for n in images}
    return aliases, lambda name: PurePosixPath(name).stem if unique else name


def _pair(pictures: list[str], pattern: str | None) -> tuple[dict[str, str], list[str], list[Finding]]:
    """Mask of each image that has one, all images, and findings about masks of no or several images."""
    found = pair(pictures, lambda name: PurePosixPath(name).stem, pattern)
    findings = [Finding(name, "quarantined", "unpaired", "mask without an image") for name in found.alone]
    ambiguous = {name for name, images in found.of_mask.items() if len(images) > 1} | set(found.rivals)
    reason = "mask of several images, or one of several masks of an image"
    findings += [Finding(name, "quarantined", "ambiguous", reason) for name in sorted(ambiguous)]
    return {images[0]: name for name, images in found.of_mask.items() if len(images) == 1}, found.images, findings


def _official(images: list[str]) -> dict[str, str]:
    """Split by image, where every image lies in a folder named for one."""
    found = {n: SPLIT_FOLDERS[f.lower()] for n in images for f in PurePosixPath(n).parts[:-1] if f.lower() in SPLIT_FOLDERS}
    return found if len(found) == len(images) and "train" in found.values() else {}


def _by_folders(images: list[str], needed: bool) -> Folders:
    """What folders say. needed: nothing else labels the images, so that folders which leave a doubt are an error."""
    try:
        return told_by_folders(images)
    except IngestError:
        if needed:
            raise
        return Folders()
