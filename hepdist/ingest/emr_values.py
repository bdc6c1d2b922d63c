"""The features of an EMR table and their values: which columns become one, each patient's numbers, and what is static or changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hepdist.ingest.emr_columns import IDENTIFIERS, name_and_unit, plain
from hepdist.ingest.emr_dictionary import ColumnEntry, Dictionary
from hepdist.ingest.emr_features import MOST_IMPLAUSIBLE, Feature, declare, infer
from hepdist.ingest.emr_known import KnownColumns
from hepdist.ingest.emr_rows import KEYS, Roles, Row
from hepdist.ingest.emr_sequence import Visits, one_a_day
from hepdist.ingest.sample import Finding
from hepdist.shards.manifest import EMRColumn


@dataclass(frozen=True)
class Values:
    """What a table says of its patients, in numbers."""

    columns: tuple[EMRColumn, ...]
    """The static features."""
    rows: dict[str, dict[str, float | None]]
    sequence_columns: tuple[EMRColumn, ...]
    sequences: dict[str, Visits]


def features_of(
    table: str,
    names: list[str],
    roles: Roles,
    dictionary: Dictionary,
    groups: dict[str, list[Row]],
    left_out: dict[int, str],
    findings: list[Finding],
    known: KnownColumns | None = None,
) -> list[Feature]:
    """The columns that become features; a finding says of each other one why not. left_out: reasons known before, by column.

    known: the columns of the cohort that is added to; others are none.
    """
    taken = {roles.key, roles.label, roles.time, *roles.units.values()}
    features = []
    for index, header in enumerate(names):
        if index in taken:
            continue
        where, reason = f"{table}#{header}", left_out.get(index)
        if reason is None:
            # each text once a patient: what one patient says at every visit is no less rare
            texts = [t for group in groups.values() for t in dict.fromkeys(row.texts[index] for row in group) if t]
            if known is not None:
                found = known.feature(index, header, roles.entries.get(index, ColumnEntry()), texts, roles.units.get(index))
            else:
                found = _feature(index, header, texts, roles, dictionary)
            if isinstance(found, Feature):
                features.append(found if known is not None else _named(found, header, names, roles))
                if found.doubtful:
                    reason = (
                        f"column {index + 1}: more than {MOST_IMPLAUSIBLE:.0%} of its values are beyond what a patient can have"
                        f" in {found.column.unit}; all are kept, but check its unit"
                    )
                    findings.append(Finding(where, "ignored", "unit-in-doubt", reason))
                continue
            reason = f"is no feature: {found}"
        findings.append(Finding(where, "ignored", "not-a-feature", f"column {index + 1} {reason}"))
    return features


def values_of(
    table: str,
    features: list[Feature],
    groups: dict[str, list[Row]],
    visits_asked: bool,
    findings: list[Finding],
    known: KnownColumns | None = None,
) -> Values:
    """Static values of every patient and, where patients have several visits, sequences of what changes in any of them.

    visits_asked: a table of visits even where each patient has one. known: what is static and what a sequence in the cohort that is
    added to, in its order.
    """
    numbers = _numbers(table, features, groups, findings)
    average = np.array([feature.column.kind == "number" for feature in features], bool)
    days: dict[str, np.ndarray] = {}
    for patient, group in groups.items():
        dated = [row.day for row in group if row.day is not None]
        if dated:
            days[patient], numbers[patient], merged = one_a_day(dated, numbers[patient], average)
            for later, earlier in merged:
                row, first = group[later].number, group[earlier].number
                reason = (
                    f"row {row} is of the same patient and day as row {first}; their numbers are averaged, of the rest the last is kept"
                )
                findings.append(Finding(f"{table}#{row}", "ignored", "same-day", reason))
    longitudinal = visits_asked or any(len(d) > 1 for d in days.values())
    static = np.ones(len(features), bool)
    if known is not None:
        return _values_in(known, features, days, numbers)
    if longitudinal:
        for values in numbers.values():
            with np.errstate(invalid="ignore"):  # NaN where a patient has no value: neither static nor changing
                static &= ~(np.fmin.reduce(values) < np.fmax.reduce(values))
    columns = tuple(feature.column for feature in features)
    once = {patient: _first_known(values) for patient, values in numbers.items()}
    sequences = {p: Visits.of(d, numbers[p][:, ~static]) for p, d in days.items()} if longitudinal else {}
    return Values(
        _with_share([c for c, s in zip(columns, static, strict=True) if s], np.isnan([row[static] for row in once.values()])),
        {p: {c.name: _or_none(v) for c, v, s in zip(columns, row, static, strict=True) if s} for p, row in once.items()},
        _with_share([c for c, s in zip(columns, static, strict=True) if not s], np.concatenate([v.missing for v in sequences.values()]))
        if sequences
        else (),
        sequences,
    )


def _values_in(known: KnownColumns, features: list[Feature], days: dict[str, np.ndarray], numbers: dict[str, np.ndarray]) -> Values:
    """The values by the cohort's columns and in their order; what the table lacks is missing. numbers: float64[rows, features]."""
    place = {id(feature.column): f for f, feature in enumerate(features)}

    def ordered(columns: Sequence[EMRColumn], values: np.ndarray) -> np.ndarray:
        """[rows, features] to [rows, columns]"""
        padded = np.concatenate([values, np.full((len(values), 1), np.nan)], axis=1)
        return padded[:, [place.get(id(column), len(features)) for column in columns]]

    once = {patient: _first_known(ordered(known.emr, values)) for patient, values in numbers.items()}
    rows = {p: {c.name: _or_none(v) for c, v in zip(known.emr, values, strict=True)} for p, values in once.items()}
    sequences = {p: Visits.of(d, ordered(known.sequence, numbers[p])) for p, d in days.items()} if known.sequence else {}
    return Values(known.emr, rows, known.sequence, sequences)


def _feature(index: int, header: str, texts: Sequence[str], roles: Roles, dictionary: Dictionary) -> Feature | str:
    entry = roles.entries.get(index)
    if entry is not None:
        return declare(index, header, entry, texts, roles.units.get(index))
    if dictionary.others == "ignore":
        return "the dictionary doesn't declare it"
    if plain(header) in KEYS["patient"] or IDENTIFIERS.search(plain(header)):
        return "its header names an identifier or a date"
    return infer(index, header, texts)


def _named(feature: Feature, header: str, names: list[str], roles: Roles) -> Feature:
    """Under its whole header, where without the unit two columns would share a name: alt_u_l beside alt."""
    entry = roles.entries.get(feature.index)
    if entry is not None and entry.name is not None:
        return feature
    alike = sum(name_and_unit(other)[0] == feature.column.name for other in names) > 1
    return replace(feature, column=replace(feature.column, name=header)) if alike else feature


def _numbers(table: str, features: list[Feature], groups: dict[str, list[Row]], findings: list[Finding]) -> dict[str, np.ndarray]:
    """float64[rows, F] of each patient, NaN where missing; a finding for each cell that is lost or isn't what it seems."""
    numbers = {patient: np.full((len(group), len(features)), np.nan) for patient, group in groups.items()}
    for f, feature in enumerate(features):
        for patient, group in groups.items():
            for r, row in enumerate(group):
                text = row.texts[feature.index]
                if not text:
                    continue
                value, fault = feature.value(text, row.texts[feature.unit_index] if feature.unit_index is not None else "")
                if value is not None:
                    numbers[patient][r, f] = value
                if fault is not None:
                    where = f"{table}#{row.number}.{feature.index + 1}"
                    outcome = "quarantined" if fault.check == "out-of-range" else "ignored"
                    findings.append(Finding(where, outcome, fault.check, f"row {row.number}, column {feature.index + 1} {fault.reason}"))
    return numbers


def _first_known(values: np.ndarray) -> np.ndarray:
    """float64[t, F] to float64[F]: of each feature the earliest value, NaN where there is none."""
    return values[(~np.isnan(values)).argmax(0), np.arange(values.shape[1])]


def _with_share(columns: Sequence[EMRColumn], missing: np.ndarray) -> tuple[EMRColumn, ...]:
    """missing: [rows, F], 1 where missing."""
    shares = missing.mean(0) if columns else ()
    return tuple(replace(column, missing_share=float(share)) for column, share in zip(columns, shares, strict=True))


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
