"""Which split each patient is in: official or kept where there is one, else dealt by a salted hash, by site or by date. Pure functions.

Nothing here depends on the order of the records; whoever is in a cohort already never moves when others are added.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hepdist.errors import IngestError
from hepdist.ingest.pseudonym import Pseudonyms
from hepdist.ingest.unite import Record, led, united
from hepdist.shards.manifest import SPLITS

EXACT_SITES = 10
"""So many of the largest sites are dealt by trying all ways (3^10 = 59,049); smaller ones fill what is lacking."""


@dataclass(frozen=True)
class Decision:
    """What became of every record and person."""

    leaders: dict[str, str]
    """Who stands for each person: one for all that share an image. Holds the persons of the records that stay."""
    splits: dict[str, str]
    """Split of each leader."""
    outside: dict[int, str]
    """Records (by index) that can't stay, as they would put one person in two splits, and the split that keeps the person."""
    rule: dict[str, Any]
    """How it was decided, for the manifest."""


def decide(
    records: Sequence[Record],
    ratio: Sequence[float],
    names: Pseudonyms,
    by: Literal["patient", "site", "date"] = "patient",
    near_identical: bool = True,
) -> Decision:
    """Every record's person and every person's split. ratio: shares of patients in train, val and test.

    Official splits are kept unless `by` asks for sites or dates; one without val takes it from train. Raises IngestError
    where sites or dates that were asked for are not there.
    """
    leaders = united(records, near_identical)
    people = led(records, leaders)
    official = by == "patient" and all(r.official or r.kept for r in people) and any(r.official for r in people)
    gone = outside(people, official)
    if gone:
        staying = [r for i, r in enumerate(records) if i not in gone]
        leaders = united(staying, near_identical)  # anew: some were one person only through an image that goes
        people = led(staying, leaders)
    merged = len(leaders) - len(set(leaders.values()))
    old = {r.person: r.kept for r in people if r.kept}
    rule: dict[str, Any] = {"patients_merged": merged, "near_identical": near_identical}
    if official:
        splits = {r.person: r.official for r in people} | old
        rule = {"kind": "official", **rule}
        if "val" not in splits.values():
            train = [r for r in people if splits[r.person] == "train"]
            found, stratified = by_patient(train, (*ratio[:2], 0), names, {})
            splits |= found
            rule |= {"val": "from train", "ratio": list(ratio), "stratified": stratified}
    elif by == "site":
        splits, sites = by_site(people, ratio, old)
        rule = {"kind": "site", "ratio": list(ratio), "sites": sites, **rule}
    elif by == "date":
        splits, undated = by_date(people, ratio, names, old)
        rule = {"kind": "date", "ratio": list(ratio), "undated": undated, **rule}
    else:
        splits, stratified = by_patient(people, ratio, names, old)
        rule = {"kind": "hash", "ratio": list(ratio), "stratified": stratified, **rule}
    return Decision(leaders, splits, gone, rule)


def outside(people: Sequence[Record], official: bool) -> dict[int, str]:
    """Records that share a person with rows of a more important split (test, then val), and that split.

    A model must not be scored on images that it saw: the training copy goes, so that val and test stay as published. Rows of
    the cohort that is added to always stay; a new image that makes one person of two of its splits goes.
    """
    kept, found = defaultdict(set), defaultdict(set)
    for record in people:
        if record.kept:
            kept[record.person].add(record.kept)
        elif official:
            found[record.person].add(record.official)
    gone = {}
    for i, record in enumerate(people):
        if record.kept:
            continue
        there = kept[record.person] or found[record.person]
        where = max(there, key=SPLITS.index, default="")
        if len(kept[record.person]) > 1 or (official and record.official != where):
            gone[i] = where
    return gone


def by_patient(people: Sequence[Record], ratio: Sequence[float], names: Pseudonyms, old: Mapping[str, str]) -> tuple[dict[str, str], bool]:
    """Split of each person, and whether classes were balanced over the splits. old: who is in a split already, and stays.

    Persons of one label form a stratum, those of several or none another. In each, persons in the order of a salted hash
    fill train, val and test by largest remainder; what rounding leaves over is carried to the next stratum, so that the
    totals are exact to one person.
    """
    labels: dict[str, set[str]] = defaultdict(set)
    for record in people:
        labels[record.person].update({record.label} - {""})
    strata: dict[str, list[str]] = defaultdict(list)
    for person, found in labels.items():
        strata[next(iter(found)) if len(found) == 1 else ""].append(person)
    carry = [0.0] * len(SPLITS)
    where: dict[str, str] = {}
    for stratum in sorted(strata, key=lambda s: (-len(strata[s]), s)):
        ordered = sorted(strata[stratum], key=lambda person: (names.of("split", person), person))
        dealt, carry = _dealt(ordered, ratio, old, carry)
        where |= dealt
    return where, len(strata) > 1


def by_date(people: Sequence[Record], ratio: Sequence[float], names: Pseudonyms, old: Mapping[str, str]) -> tuple[dict[str, str], int]:
    """Split of each person, the oldest in train and the newest in test by the date of their first study, and how many have none.

    Those without a date count as the oldest: a test on newer patients must not hold one that may be older.
    Raises IngestError where nobody has a date.
    """
    first: dict[str, int] = {}
    for record in people:
        if record.day is not None:
            first[record.person] = min(record.day, first.get(record.person, record.day))
    if not first:
        raise IngestError("no image of the source has a date to split by; name its column with date_key=COLUMN or leave split_by=patient")
    everyone = {record.person for record in people}
    ordered = sorted(everyone, key=lambda p: (first.get(p, 0), names.of("split", p), p))
    where, _ = _dealt(ordered, ratio, old, [0.0] * len(SPLITS))
    return where, len(everyone) - len(first)


def by_site(people: Sequence[Record], ratio: Sequence[float], old: Mapping[str, str]) -> tuple[dict[str, str], int]:
    """Split of each person, whole sites in one split and sizes as near to `ratio` as they allow, and the number of groups of sites.

    Sites that share a person count as one. Raises IngestError where a person has no site, or there are fewer groups than splits.
    """
    if any(not record.site for record in people):
        raise IngestError("some images name no site to split by; name its column with site_key=COLUMN or leave split_by=patient")
    # persons who share a site are one group, and so are the sites of one person: the same question as that of shared images
    group = united([Record(record.person, content=record.site) for record in people], near_identical=False)
    size = Counter(group.values())
    fixed: dict[str, str] = {}
    for person in sorted(old):
        fixed.setdefault(group[person], old[person])
        if fixed[group[person]] != old[person]:
            raise IngestError(
                "a site of the cohort is in two splits already, so nothing can be added by site; leave split_by as it was made"
            )
    wanted = [len(group) * part / sum(ratio) for part in ratio]
    for leader, split in fixed.items():
        wanted[SPLITS.index(split)] -= size[leader]
    free = sorted((leader for leader in size if leader not in fixed), key=lambda leader: (-size[leader], leader))
    needed = [s for s, part in enumerate(ratio) if part and SPLITS[s] not in fixed.values()]
    if len(free) < len(needed):
        raise IngestError(
            f"{len(size)} groups of sites that share no patient can't fill {sum(map(bool, ratio))} splits; leave split_by=patient"
        )
    chosen = _nearest([size[leader] for leader in free], wanted, [bool(part) for part in ratio], needed)
    of_group = fixed | {leader: SPLITS[s] for leader, s in zip(free, chosen, strict=True)}
    return {person: of_group[leader] for person, leader in group.items()}, len(size)


def largest_remainder(wanted: Sequence[float], total: int) -> list[int]:
    """Whole numbers nearest to `wanted` that sum to `total`; none below 0."""
    counts = [max(0, math.floor(w + 1e-9)) for w in wanted]
    order = sorted(range(len(wanted)), key=lambda i: counts[i] - wanted[i])
    while sum(counts) < total:
        for i in order[: total - sum(counts)]:
            counts[i] += 1
    while sum(counts) > total:  # a negative part was floored at 0
        i = max((i for i in range(len(counts)) if counts[i]), key=lambda i: counts[i] - wanted[i])
        counts[i] -= 1
    return counts


def _dealt(
    ordered: Sequence[str], ratio: Sequence[float], old: Mapping[str, str], carry: Sequence[float]
) -> tuple[dict[str, str], list[float]]:
    """Split of each person: those of `old` where they are, the rest in order to train, val and test; and what rounding left over."""
    there = Counter(old[person] for person in ordered if person in old)
    new = [person for person in ordered if person not in old]
    wanted = [len(ordered) * part / sum(ratio) + c - there[split] for part, c, split in zip(ratio, carry, SPLITS, strict=True)]
    counts = largest_remainder(wanted, len(new))
    filled = (split for split, count in zip(SPLITS, counts, strict=True) for _ in range(count))
    where = {person: old[person] for person in ordered if person in old} | dict(zip(new, filled, strict=True))
    return where, [w - c for w, c in zip(wanted, counts, strict=True)]


def _nearest(sizes: Sequence[int], wanted: Sequence[float], allowed: Sequence[bool], needed: Sequence[int]) -> list[int]:
    """Index of the split of each group (largest first), so that the sums have the least squared distance from `wanted`.

    needed: splits that must get a group.
    """
    splits = [s for s, may in enumerate(allowed) if may]
    ways = np.array(list(itertools.product(splits, repeat=min(len(sizes), EXACT_SITES))), np.int8)
    head = np.array(sizes[: ways.shape[1]])
    sums = np.stack([(ways == s) @ head for s in range(len(SPLITS))], axis=1)
    cost = ((sums - np.array(wanted)) ** 2).sum(axis=1)
    filled = np.logical_and.reduce([(ways == s).any(axis=1) for s in needed]) if needed else np.ones(len(ways), bool)
    best = int(np.argmin(np.where(filled, cost, np.inf)))
    chosen, lacking = ways[best].tolist(), (np.array(wanted) - sums[best])
    for size in sizes[len(head) :]:
        s = max(splits, key=lambda s: lacking[s])
        chosen.append(s)
        lacking[s] -= size
    return chosen
