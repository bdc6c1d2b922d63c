"""What the folders of images say: of which class each image is and, where patients have folders of their own, whose."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from hepdist.errors import IngestError

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
FEWEST_PATIENTS = 10
"""Folders beside those of the classes that count as patients; fewer could be hospitals, views or kinds of a class."""
NESTED = 0.95
"""Share of folders with a place in one class alone from which they are a part of it: a patient has one diagnosis."""


@dataclass(frozen=True)
class Folders:
    """By image. Empty where folders say nothing."""

    classes: Mapping[str, str] = field(default_factory=dict)
    patients: Mapping[str, str] = field(default_factory=dict)


def told_by_folders(images: Sequence[str]) -> Folders:
    """CLASS/image, CLASS/PATIENT/image and PATIENT/CLASS/image, with folders for splits anywhere and folders that all share.

    Raises IngestError where several levels of folders differ and none of these is meant for sure.
    """
    paths = {name: [f for f in PurePosixPath(name).parts[:-1] if f.lower() not in SPLIT_FOLDERS] for name in images}
    depth = min(map(len, paths.values()), default=0)
    varying = [level for level in range(depth) if len({path[level] for path in paths.values()}) > 1]
    if not varying:
        return Folders()
    outer = varying[0]
    if len(varying) == 1:
        deeper = {name: path[outer + 1] for name, path in paths.items() if len(path) > max(depth, outer + 1)}
        return Folders({name: path[outer] for name, path in paths.items()}, deeper)
    count = {level: len({path[level] for path in paths.values()}) for level in varying}
    inner = varying[1]
    places = defaultdict(set)
    for path in paths.values():
        places[path[inner]].add(path[outer])
    alone = sum(len(found) == 1 for found in places.values()) >= NESTED * len(places)
    if alone and FEWEST_PATIENTS <= count[inner] > count[outer]:
        return Folders({name: path[outer] for name, path in paths.items()}, {name: path[inner] for name, path in paths.items()})
    last = varying[-1]
    if not alone and count[last] == min(count.values()) < count[outer]:
        patients = {name: path[outer] for name, path in paths.items()} if count[outer] >= FEWEST_PATIENTS else {}
        return Folders({name: path[last] for name, path in paths.items()}, patients)
    raise IngestError(
        "the images lie in folders of several levels, any of which could be the class; say which with label_pattern='^([^/]+)/' for the"
        " outermost or '([^/]+)/[^/]+$' for the innermost, and patient_pattern= where a folder is a patient"
    )
