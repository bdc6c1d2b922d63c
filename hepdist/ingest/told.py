"""How classes and columns are called in a cohort: as their owner declared them or in ordinary words, else by their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hepdist.ingest.emr_dictionary import load_dictionary
from hepdist.ingest.label_rules import load_rules
from hepdist.ingest.spec import IngestSpec
from hepdist.ingest.vocabulary import is_ordinary, safe_names
from hepdist.shards.manifest import EMRColumn


def declared_names(spec: IngestSpec) -> frozenset[str]:
    """All names that the owner of the data wrote into options, the data dictionary or the label rules."""
    names = {*spec.label_names, *spec.classes, *spec.emr_columns, *spec.emr_header}
    if spec.label_rules is not None:
        names |= set(load_rules(spec.label_rules).class_names)
    if spec.emr_dictionary is not None:
        dictionary = load_dictionary(spec.emr_dictionary)
        names |= {*dictionary.header, *dictionary.columns}
        for entry in dictionary.columns.values():
            names |= {entry.name or "", *entry.categories, *entry.categories.values()}
    return frozenset(names - {""})


def told(columns: Sequence[EMRColumn], missing_shares: Sequence[float], declared: frozenset[str]) -> tuple[EMRColumn, ...]:
    """EMR columns for the manifest: a name or category that could be a person's becomes 'column 3' or 'category 2'."""
    names = safe_names([column.name for column in columns], "column", declared)
    return tuple(
        replace(
            column,
            name=name,
            unit=column.unit if is_ordinary(column.unit) or "/" in column.unit else "",
            categories=safe_names(column.categories, "category", declared),
            missing_share=share,
        )
        for column, name, share in zip(columns, names, missing_shares, strict=True)
    )
