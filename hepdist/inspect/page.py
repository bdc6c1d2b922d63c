"""The page COHORT/inspect.html: the tables of `hepdist inspect` and sample images of each class and split, in one file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader

from hepdist.inspect.facts import Facts
from hepdist.inspect.picture import COLOURS, data_uri, draw
from hepdist.inspect.sections import sections
from hepdist.place import Place, place_of
from hepdist.shards.manifest import Manifest
from hepdist.shards.read import SplitReader

PAGE = "inspect.html"
SAMPLES = 6
"""Pictures of each class in each split."""


@dataclass(frozen=True)
class Picture:
    source: str
    """data: URI of a PNG."""
    caption: str


@dataclass(frozen=True)
class Gallery:
    title: str
    pictures: tuple[Picture, ...]


def write_page(cohort: str | Path | Place, facts: Facts) -> str:
    """Write the page and return its path or URI; needs nothing but itself to be shown. Damaged cohorts get their tables alone."""
    place, manifest = place_of(cohort), facts.manifest
    galleries = _galleries(place, manifest) if "image" in manifest.fields and not facts.damaged else []
    legend = list(zip(manifest.fields["mask"].classes[1:], COLOURS, strict=False)) if "mask" in manifest.fields else []
    environment = Environment(loader=PackageLoader("hepdist", "inspect"), autoescape=True)
    html = environment.get_template("page.html").render(
        title=manifest.name, sections=sections(facts), galleries=galleries, legend=legend, created_by=manifest.created_by
    )
    place.write(PAGE, html.encode())
    return f"{place}/{PAGE}"


def _galleries(cohort: Place, manifest: Manifest) -> list[Gallery]:
    found = []
    for split in dict.fromkeys(shard.split for shard in manifest.shards):
        reader = SplitReader(cohort, manifest, split)
        for name, rows in _by_class(reader, manifest).items():
            if len(rows):
                count = f"{len(rows):,} {'volumes' if manifest.in_bricks else 'rows'}"
                title = f"{split}: {name} ({count})" if name else f"{split} ({count})"
                found.append(Gallery(title, _pictures(reader, manifest, rows[:SAMPLES])))
    return found


def _by_class(reader: SplitReader, manifest: Manifest) -> dict[str, np.ndarray]:
    """Row numbers by class name; all under '' where rows have no class. A multi-label row stands under each of its classes.

    Of a volume in bricks the one in the middle.
    """
    cases = manifest.cases(reader.split)
    rows = (cases[:-1] + cases[1:]) // 2
    if not manifest.label_names:
        return {"": rows}
    labels = reader.arrays(rows, ["label"])["label"]
    if manifest.multilabel:
        return {name: rows[labels[:, k] > 0] for k, name in enumerate(manifest.label_names)}
    return {name: rows[labels == k] for k, name in enumerate(manifest.label_names)} | {"unlabelled": rows[labels < 0]}


def _pictures(reader: SplitReader, manifest: Manifest, rows: np.ndarray) -> tuple[Picture, ...]:
    columns = [name for name in ("image", "mask", "spacing") if name in manifest.fields]
    arrays = reader.arrays(rows, columns)
    pictures = []
    for i in range(len(rows)):
        one = {name: values[i] for name, values in arrays.items()}
        picture, place = draw(one["image"], one.get("mask"), one.get("spacing"), manifest.fields["image"].unit)
        pictures.append(Picture(data_uri(picture), place))
    return tuple(pictures)
