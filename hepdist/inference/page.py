"""OUT/index.html: what a model says of every case, with pictures, in one file that needs nothing else to be shown."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader

from hepdist.inference.identity import Identity
from hepdist.inference.overlays import DOUBT
from hepdist.inspect.picture import COLOURS
from hepdist.place import Place

PAGE = "index.html"
SHOWN = {
    "mask": "mask",
    "entropy_map": "entropy map",
    "seg": "DICOM SEG",
    "sr": "DICOM SR",
    "restored": "restored image",
    "derived": "DICOM image",
}
"""Columns that name a file, and what it is."""
MEASURES = {"probability_": "", "volume_ml_": " ml", "area_mm2_": " mm²"}
"""Columns of a class by how they begin, and their unit."""
DIFFERENCES = {"volume_cv_": "{} volume varies by", "area_cv_": "{} area varies by", "pairwise_dice_": "{} Dice of two passes"}
"""The same of what tells how far passes differ, and what it is called."""
DOUBTS = {"uncertainty": "uncertainty", "entropy_nats": "entropy, nats", "mutual_information_nats": "mutual information, nats"}
"""Columns that tell it of a whole case."""


@dataclass(frozen=True)
class Shown:
    name: str
    said: list[tuple[str, str]]
    """Labels and values."""
    files: list[tuple[str, str]]
    """What it is, and its path from the page."""
    picture: str
    """data: URI or path; empty without one."""
    note: str


def write_page(place: Place, table: pd.DataFrame, counts: dict[str, int], identity: Identity, embed: int) -> str:
    """Write the page and return its path or URI. embed: pictures that stand in the page itself, of the first cases."""
    rows: list[dict[str, Any]] = [dict(zip(map(str, table), values, strict=True)) for values in table.itertuples(index=False)]
    cases = [_shown(place, row, index < embed) for index, row in enumerate(rows)]
    legend = list(zip(identity.classes[1:], COLOURS, strict=False)) if identity.kind == "segmentation" else []
    facts = [("model", identity.name), *identity.parameters.items(), ("made by", identity.version), ("cases", f"{len(table):,}")]
    if identity.calibration:
        facts.append(("probabilities", f"scaled by the {identity.calibration} that evaluation fitted on validation"))
    environment = Environment(loader=PackageLoader("hepdist", "inference"), autoescape=True)
    html = environment.get_template("page.html").render(
        title=f"Predictions by {identity.name}", facts=facts, counts=[item for item in counts.items() if item[1]], cases=cases, legend=legend,
        doubt=DOUBT if "entropy_map" in table else "", summary=_summary(table, identity), version=identity.version,
    )  # fmt: skip
    place.write(PAGE, html.encode())
    return f"{place}/{PAGE}"


def _shown(place: Place, row: dict[str, Any], embedded: bool) -> Shown:
    said = [line for key, value in row.items() if (line := _line(key, value)) is not None]
    picture = row.get("overlay")
    source = ""
    if isinstance(picture, str):
        source = f"data:image/png;base64,{base64.b64encode(place.read(picture)).decode()}" if embedded else picture
    files = [(what, row[key]) for key, what in SHOWN.items() if isinstance(row.get(key), str)]
    return Shown(row["sample_id"], said, files, source, row.get("note") or "")


def _line(key: str, value: Any) -> tuple[str, str] | None:
    """Label and value of one column; None where the page says it elsewhere or there is nothing to say."""
    if key == "label" and isinstance(value, str):
        return key, value
    if not isinstance(value, float) or math.isnan(value):
        return None
    if key in DOUBTS:
        return DOUBTS[key], f"{value:.3f}"
    for prefix, unit in MEASURES.items():
        if key.startswith(prefix):
            return key.removeprefix(prefix), f"{value:.4g}{unit}" if unit else f"{value:.3f}"
    for prefix, words in DIFFERENCES.items():
        if key.startswith(prefix):
            return words.format(key.removeprefix(prefix)), f"{100 * value:.3g} %" if "_cv_" in prefix else f"{value:.3f}"
    return None


def _summary(table: pd.DataFrame, identity: Identity) -> list[tuple[str, str]]:
    """What the cases come to together."""
    if not len(table):
        return []
    if "label" in table:
        return [(f"called {name or 'none'}", f"{count:,}") for name, count in table["label"].value_counts().items()]
    sizes = [column for column in map(str, table) if column.startswith(("volume_ml_", "area_mm2_"))]
    found = []
    for column in sizes:
        values = table[column].dropna()
        if len(values):
            unit = "ml" if column.startswith("volume_ml_") else "mm²"
            name = column.removeprefix("volume_ml_").removeprefix("area_mm2_")
            found.append((name, f"median {values.median():.4g} {unit}, {values.min():.4g} to {values.max():.4g}"))
    return found
