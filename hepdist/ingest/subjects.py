"""Whose an image is and of which class, as far as its name or a label table says; knows nothing of pixels."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from hepdist.ingest.labels_table import LabelTable
from hepdist.ingest.sample import Finding
from hepdist.ingest.spec import IngestSpec

UNLISTED = (
    "unknown-patient",
    "no row of the table that names patients is of it, so that its own is not known; patient_pattern=REGEX may tell",
)


@dataclass(frozen=True)
class Subject:
    key: str
    """Unique to the image and, where it is said to be of several patients, to each."""
    patient: str
    label: str | None = None
    site: str = ""
    date: datetime.date | None = None


def subjects_of(
    images: Mapping[str, Iterable[str]],
    spec: IngestSpec,
    table: LabelTable | None,
    patient: Callable[[str], str],
    folders: Mapping[str, str],
) -> tuple[dict[str, list[Subject]], list[Finding]]:
    """Subjects of each image, and findings about the table.

    images: the names by which a table may call each image. patient: what tells patients apart where neither the table nor
    `patient_pattern` does. folders: class by image, where the folders say it. An image has no subject where the table names
    patients, but not its own; unless it is an EMR table and images are only to be predicted, when nothing trains on it.
    """

    def by_pattern(pattern: str | None, image: str) -> str | None:
        found = re.search(pattern, image) if pattern else None
        return found.group(1) if found else None

    def who(image: str) -> str:
        return by_pattern(spec.patient_pattern, image) or patient(image)

    if table is None:
        return {i: [Subject(i, who(i), by_pattern(spec.label_pattern, i) or folders.get(i))] for i in images}, []
    matched, findings = table.match(images)
    by_emr = table.owners is not None or not table.labelled
    found = {}
    for image in images:
        beside = None if table.labelled else by_pattern(spec.label_pattern, image) or folders.get(image)
        alone = not table.patients or (by_emr and spec.allow_unlabelled) or by_pattern(spec.patient_pattern, image)
        entries = [e for e in matched.get(image, []) if e.patient or alone]
        found[image] = [
            Subject(
                f"{image}#{e.patient}" if e.patient else image,
                e.patient or who(image),
                beside if e.label is None else e.label,
                e.site,
                e.date,
            )
            for e in entries
        ]
        if not entries and alone:
            found[image] = [Subject(image, who(image), beside)]
    return found, findings


def unmatched(table: LabelTable | None) -> str:
    """What to say where nothing labels any image although a table is there that should; empty where there is none."""
    if table is None or not table.labelled:
        return ""
    return (
        "no row of the label table both names an image of the source and says its class; name its columns with file_key=COLUMN, of file"
        " names or of paths below the source, and label=COLUMN"
    )
