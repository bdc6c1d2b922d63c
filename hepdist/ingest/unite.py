"""Which persons are one: those who share an identical or a near-identical image count as one patient from here on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hepdist.ingest.likeness import near_pairs
from hepdist.ingest.stage import Staged


@dataclass(frozen=True)
class Record:
    """What the split may know of one image: pseudonyms and fingerprints, no raw key."""

    person: str
    """Pseudonym of the patient."""
    content: str = ""
    """Hash of the image's voxels; empty where it says nothing of who it is (an image of one value)."""
    likeness: bytes = b""
    """See hepdist.ingest.likeness.likeness_of; empty where it has none."""
    label: str = ""
    """Class, or the vector of a multi-label source in any fixed form; empty: unlabelled."""
    official: str = ""
    """Split that the source itself gives."""
    site: str = ""
    """Pseudonym of the institution or scanner."""
    day: int | None = None
    """Of the study, as datetime.date.toordinal counts."""
    kept: str = ""
    """Split of this row in the cohort that is being added to; empty for a new row. Such rows never move."""


def record_of(sample: Staged) -> Record:
    label = str(sample.labels) if sample.labels is not None else "" if sample.label is None else str(sample.label)
    return Record(sample.person, sample.content, bytes.fromhex(sample.likeness), label, sample.split, sample.site, sample.day)


def united(records: Sequence[Record], near_identical: bool = True) -> dict[str, str]:
    """Leader of every person: the same one for all who share an image, directly or through others; the first by name.

    near_identical: also where images are the same picture encoded, resized or brightened anew.
    """
    leader: dict[str, str] = {record.person: record.person for record in records}

    def find(person: str) -> str:
        while leader[person] != person:
            leader[person] = leader[leader[person]]
            person = leader[person]
        return person

    def join(one: str, other: str) -> None:
        one, other = find(one), find(other)
        leader[max(one, other)] = min(one, other)

    first: dict[str, str] = {}
    for record in records:
        if record.content:
            join(record.person, first.setdefault(record.content, record.person))
    if near_identical:
        alike = [record for record in records if record.likeness]
        for i, j in near_pairs([record.likeness for record in alike]):
            join(alike[i].person, alike[j].person)
    return {person: find(person) for person in leader}


def straddling(records: Sequence[Record], near_identical: bool = True, by_site: bool = False) -> set[int]:
    """Indices of the new records that can't be added, since with them one person would be in two splits of the cohort.

    Records are taken in their order, each with the person and the images that it shares with those taken before; rows of the cohort
    come first. So one image that shows two patients goes, and the others of both stay. by_site: a site must be in one split too.
    """
    leader: dict[str, str] = {}
    split: dict[str, str] = {}

    def find(thing: str) -> str:
        leader.setdefault(thing, thing)
        while leader[thing] != thing:
            leader[thing] = leader[leader[thing]]
            thing = leader[thing]
        return thing

    alike: dict[int, list[str]] = {i: [] for i in range(len(records))}
    pairs = [i for i, record in enumerate(records) if near_identical and record.likeness]
    for i, j in near_pairs([records[i].likeness for i in pairs]):
        pair = f"pair {pairs[i]} {pairs[j]}"
        alike[pairs[i]].append(pair)
        alike[pairs[j]].append(pair)
    gone = set()
    for i in sorted(alike, key=lambda i: not records[i].kept):
        record = records[i]
        shared = [f"person {record.person}", *([f"content {record.content}"] if record.content else []), *alike[i]]
        shared += [f"site {record.site}"] if by_site and record.site else []
        roots = {find(thing) for thing in shared}
        splits = {split[root] for root in roots if root in split} | ({record.kept} - {""})
        if len(splits) > 1:
            gone |= set() if record.kept else {i}
            continue
        first = min(roots)
        for root in roots:
            leader[root] = first
        if splits:
            split[first] = splits.pop()
    return gone


def led(records: Sequence[Record], leaders: dict[str, str]) -> list[Record]:
    """The records with each person's leader in its place."""
    return [replace(record, person=leaders[record.person]) for record in records]
