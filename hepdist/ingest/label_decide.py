"""From what codes and texts say of the findings to one label, with the evidence for it; nothing of a text goes beyond here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hepdist.ingest.label_cues import Polarity

Source = Literal["icd10", "icd9", "text"]


@dataclass(frozen=True)
class Evidence:
    """One thing that a row says; all of it is the rules file's own words or a number, so that it can be kept with the cohort."""

    class_name: str
    rule: str
    """The finding's id (text), the declared set that holds the code, such as 'B18.0-B18.1' (ICD-10), or the mapping and that set,
    such as '571.42>K75.4' (ICD-9)."""
    source: Source
    polarity: Polarity
    column: str
    place: int
    """Which sentence of the text, or which code of the cell, counted from 1."""


@dataclass(frozen=True)
class Claim:
    """Evidence, and the finding that it is about."""

    finding: str
    evidence: Evidence


@dataclass(frozen=True)
class Decision:
    """The label of one row, and why."""

    label: str | None
    """A class, or None: nothing said, not settled, or only of the past or of relatives."""
    evidence: tuple[Evidence, ...]
    """In the order of columns and places; of several alike the first."""
    ambiguous: bool
    """The row speaks of a class but doesn't settle it: sources or sentences disagree, or say it with doubt only."""
    problems: tuple[str, ...] = ()
    """For the audit: 'not-a-code' (a code column holds something else), 'text-too-long' (a text wasn't read, so there is no label)."""


@dataclass(frozen=True)
class Findings:
    """How findings stand to each other and to classes."""

    class_of: Mapping[str, str]
    covers: Mapping[str, frozenset[str]]
    """All more specific findings below each, at any depth."""
    precedence: Sequence[str]
    default: str | None
    default_denied: frozenset[str]
    default_coded: bool


def settle(claims: Sequence[Claim], findings: Findings, *, coded: bool) -> tuple[str | None, bool]:
    """(label, ambiguous) from all claims about one row; coded: the row holds a code, declared or not.

    Affirmed and denied (itself, or something that covers it) is a contradiction. Of several affirmed classes the first by precedence
    is the label, unless one isn't ranked or a merely possible one would outrank it. Without any, the default class where its
    condition holds and nothing is in doubt.
    """
    said: dict[Polarity, set[str]] = {"affirmed": set(), "negated": set(), "uncertain": set(), "historical": set(), "family": set()}
    for claim in claims:
        said[claim.evidence.polarity].add(claim.finding)
    affirmed = said["affirmed"]
    denied = said["negated"].union(*(findings.covers[f] for f in said["negated"]))
    if affirmed & denied:
        return None, True
    possible = {f for f in said["uncertain"] - affirmed if not findings.covers[f] & affirmed}
    classes = {findings.class_of[f] for f in affirmed}
    if classes:
        return _first(classes, {findings.class_of[f] for f in possible}, findings.precedence)
    if possible:
        return None, True
    if said["negated"] & findings.default_denied or (coded and findings.default_coded and not said["historical"]):
        return findings.default, False
    return None, False


def _first(classes: set[str], possible: set[str], precedence: Sequence[str]) -> tuple[str | None, bool]:
    """The class that outranks all other affirmed and all possible ones; one without a rank can't be compared."""
    every = classes | possible
    if len(every) == 1:
        return next(iter(every)), False
    if not every <= set(precedence):
        return None, True
    first = min(every, key=precedence.index)
    return (first, False) if first in classes else (None, True)
