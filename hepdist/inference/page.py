"""OUT/index.html: what a model says of every case, with pictures, in one file that needs nothing else to be shown."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader

from hepdist.inference.identity import Identity
from hepdist.inspect.picture import COLOURS
from hepdist.place import Place

PAGE = "index.html"
SHOWN = {"mask": "mask", "seg": "DICOM SEG", "sr": "DICOM SR", "restored": "restored image", "derived": "DICOM image"}


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
        summary=_summary(table, identity), version=identity.version,
    )  # fmt: skip
    place.write(PAGE, html.encode())
    return f"{place}/{PAGE}"


def _shown(place: Place, row: dict[str, Any], embedded: bool) -> Shown:
    said = []
    for key, value in row.items():
        prefix = next((p for p in ("probability_", "volume_ml_", "area_mm2_") if key.startswith(p)), None)
        if prefix and isinstance(value, float) and not math.isnan(value):
            unit = {"probability_": "", "volume_ml_": " ml", "area_mm2_": " mm²"}[prefix]
            said.append((key[len(prefix) :], f"{value:.3f}" if not unit else f"{value:.4g}{unit}"))
        elif key in ("label", "uncertainty") and value == value:
            said.append((key, f"{value:.3f}" if isinstance(value, float) else str(value)))
    picture = row.get("overlay")
    source = ""
    if isinstance(picture, str):
        source = f"data:image/png;base64,{base64.b64encode(place.read(picture)).decode()}" if embedded else picture
    files = [(what, row[key]) for key, what in SHOWN.items() if isinstance(row.get(key), str)]
    return Shown(row["sample_id"], said, files, source, row.get("note") or "")


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
