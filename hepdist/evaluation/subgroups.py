"""Which group each case of a cohort belongs to, by the columns that a recipe names: age band, sex, site, manufacturer and others."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from hepdist.errors import RecipeError
from hepdist.place import place_of
from hepdist.shards.manifest import SPLITS, EMRColumn, Manifest
from hepdist.shards.read import SplitReader

AUTO = ("age", "sex", "site", "manufacturer")
"""Looked for where the recipe says auto."""
AGES = (18.0, 40.0, 65.0)
"""Borders of age bands, years: children, and thirds of an adult life that differ in what they fall ill with."""
FEW_VALUES = 5
"""Numbers of at most so many different values (1.5 and 3 tesla) are groups as they are; others are cut into thirds."""
UNKNOWN = "not known"
IN_HEADERS = {
    "age": "age_years", "sex": "sex", "manufacturer": "manufacturer", "model": "model", "modality": "modality", "body_part": "body_part",
    "kvp": "kvp", "slice_thickness_mm": "slice_thickness_mm", "field_strength_t": "field_strength_t",
}  # fmt: skip
"""Columns of headers.parquet by the name that a recipe gives them."""

Groups = dict[str, dict[str, str]]
"""By column: the group of each sample_id."""


def groups_of(cohort: str | Path, manifest: Manifest, wanted: str | Iterable[str]) -> Groups:
    """The groups of every case of the cohort, by each wanted column that it has; an EMR column comes before a header of the same name.

    wanted: names, or 'auto'. Raises RecipeError where the cohort lacks a column that was named.
    """
    found: Groups = {}
    sources = _sources(cohort, manifest)
    for name in AUTO if wanted == "auto" else wanted:
        if name in sources:
            groups = _named(name, sources[name], manifest)
            if any(group != UNKNOWN for group in groups.values()):
                found[name] = groups
        elif wanted != "auto":
            there = ", ".join(sources) or "none"
            raise RecipeError(f"recipe key 'evaluation.subgroups' names '{name}', which cohort '{manifest.name}' lacks; it has: {there}")
    return found


def band(values: pd.Series, name: str, unit: str = "") -> pd.Series:
    """Numbers as the names of bands: ages in years by AGES, others by value or by thirds; what is not there as UNKNOWN."""
    if name == "age" and unit in ("", "years"):
        low, middle, high = AGES
        names = [f"under {low:g}", f"{low:g} to {middle - 1:g}", f"{middle:g} to {high - 1:g}", f"{high:g} and over"]
        edges = list(AGES)
    else:
        known = values.dropna()
        after = f" {unit}" if unit else ""
        if known.nunique() <= FEW_VALUES:
            return values.map(lambda value: UNKNOWN if pd.isna(value) else f"{value:g}{after}")
        edges = [float(f"{edge:.3g}") for edge in np.quantile(known, [1 / 3, 2 / 3])]
        names = [f"below {edges[0]:g}{after}", f"{edges[0]:g} to {edges[1]:g}{after}", f"{edges[1]:g}{after} and over"]
    place = np.searchsorted(edges, values.to_numpy(float), side="right")
    return pd.Series([UNKNOWN if pd.isna(value) else names[k] for value, k in zip(values, place, strict=True)], index=values.index)


def _sources(cohort: str | Path, manifest: Manifest) -> dict[str, Any]:
    """By name, what a column can be read from: an EMRColumn's position, or a Series by sample_id."""
    place = place_of(cohort)
    found: dict[str, Any] = {}
    if manifest.emr:
        values = _emr(cohort, manifest)
        found = {column.name: values[column.name] for column in manifest.emr}
    if place.exists("headers.parquet"):
        headers = _headers(cohort, manifest)
        found = {name: headers[column] for name, column in IN_HEADERS.items() if column in headers} | found
    if place.exists("people.parquet"):
        with place.open_input("people.parquet") as file:
            sites = (
                pq.read_table(file, columns=["sample_id", "site"]).to_pandas().drop_duplicates("sample_id").set_index("sample_id")["site"]
            )
        if (sites != "").any():
            found = {"site": sites.replace("", None)} | found
    return found


def _named(name: str, values: pd.Series, manifest: Manifest) -> dict[str, str]:
    column = next((column for column in manifest.emr if column.name == name), EMRColumn(name, "number"))
    if pd.api.types.is_numeric_dtype(values):
        values = band(values, name, column.unit)
    return {str(key): str(value) if isinstance(value, str) and value else UNKNOWN for key, value in values.items()}


def _emr(cohort: str | Path, manifest: Manifest) -> pd.DataFrame:
    """The EMR columns by sample_id: numbers, or the names of categories; the first brick's where a case has several."""
    parts = []
    for split in SPLITS:
        if not manifest.rows(split):
            continue
        reader = SplitReader(cohort, manifest, split)
        rows = manifest.cases(split)[:-1]
        arrays = reader.arrays(rows, ("emr", "emr_missing"))
        names = reader.strings(("sample_id",))["sample_id"].take(rows).to_pylist()
        values = np.where(arrays["emr_missing"] > 0, np.nan, arrays["emr"].astype(np.float64))
        parts.append(pd.DataFrame(values, index=names, columns=[column.name for column in manifest.emr]))
    table = pd.concat(parts)
    for column in manifest.emr:
        if column.categories:
            words = dict(enumerate(column.categories))
            table[column.name] = (
                table[column.name].map(lambda value, words=words: None if pd.isna(value) else words[int(value)]).astype(object)
            )
    return table


def _headers(cohort: str | Path, manifest: Manifest) -> pd.DataFrame:
    """The header facts by sample_id: those that all series of the case's study agree on."""
    with place_of(cohort).open_input("headers.parquet") as file:
        headers = pq.read_table(file).to_pandas()
    agreed = headers.groupby("study").agg(lambda values: values.dropna().iloc[0] if values.dropna().nunique() == 1 else None)
    studies = []
    for split in SPLITS:
        if manifest.rows(split):
            table = SplitReader(cohort, manifest, split).strings(("sample_id", "study")).to_pandas()
            studies.append(table.drop_duplicates("sample_id").set_index("sample_id")["study"])
    study = pd.concat(studies)
    facts = agreed.reindex(study.to_numpy()).set_axis(study.index)
    return facts.astype({name: float for name in facts if name in ("age_years", "kvp", "slice_thickness_mm", "field_strength_t")})
