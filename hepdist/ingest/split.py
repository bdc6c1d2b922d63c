"""Which split each patient is in: official where there is one, else shares of a salted, stratified order; identical images unite patients."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from hepdist.ingest.pseudonym import Pseudonyms
from hepdist.ingest.stage import Staged
from hepdist.shards.manifest import SPLITS


def unite_identical(samples: Sequence[Staged]) -> int:
    """Give patients that share an identical image one `person`; returns how many patients were merged into another."""
    leader: dict[str, str] = {}

    def find(person: str) -> str:
        while leader.setdefault(person, person) != person:
            leader[person] = leader[leader[person]]
            person = leader[person]
        return person

    first: dict[str, str] = {}
    for sample in samples:
        person = find(sample.person)
        if sample.content:
            other = find(first.setdefault(sample.content, person))
            leader[max(person, other)] = min(person, other)
    before = {sample.person for sample in samples}
    for sample in samples:
        sample.person = find(sample.person)
    return len(before) - len({sample.person for sample in samples})


def outside_their_split(samples: Sequence[Staged]) -> list[tuple[Staged, str]]:
    """Rows of an official split that share a person with a row of a more important one (test, then val), and that one's name.

    A model must not be scored on images that it saw: the training copy goes, so that val and test stay as published.
    """
    splits: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        splits[sample.person].add(sample.split)
    kept = {person: max(found, key=SPLITS.index) for person, found in splits.items() if len(found) > 1}
    return [(s, kept[s.person]) for s in samples if s.person in kept and s.split != kept[s.person]]


def assign(samples: Sequence[Staged], ratio: tuple[float, ...], names: Pseudonyms) -> bool:
    """Set `split` of every sample by patient; returns whether classes were balanced over the splits.

    Patients of one label form a stratum, those of several or none another. In each, patients in the order of a salted
    hash fill train, val and test by largest remainder; what rounding leaves over is carried to the next stratum, so
    that the totals are exact to one patient.
    """
    labels: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        found = labels[sample.person]
        if sample.labels is not None:
            found.add(str(sample.labels))
        elif sample.label is not None:
            found.add(str(sample.label))
    strata: dict[str, list[str]] = defaultdict(list)
    for person, found in labels.items():
        strata[next(iter(found)) if len(found) == 1 else ""].append(person)
    share = [part / sum(ratio) for part in ratio]
    carry = [0.0] * len(SPLITS)
    where: dict[str, str] = {}
    for stratum in sorted(strata, key=lambda s: (-len(strata[s]), s)):
        people = sorted(strata[stratum], key=lambda person: (names.of("split", person), person))
        wanted = [len(people) * s + c for s, c in zip(share, carry, strict=True)]
        counts = largest_remainder(wanted, len(people))
        carry = [w - c for w, c in zip(wanted, counts, strict=True)]
        filled = (split for split, count in zip(SPLITS, counts, strict=True) for _ in range(count))
        where.update(zip(people, filled, strict=True))
    for sample in samples:
        sample.split = where[sample.person]
    return len(strata) > 1


def largest_remainder(wanted: Sequence[float], total: int) -> list[int]:
    """Whole numbers nearest to `wanted` that sum to `total`; none below 0."""
    counts = [max(0, math.floor(w + 1e-9)) for w in wanted]
    order = sorted(range(len(wanted)), key=lambda i: counts[i] - wanted[i])
    while sum(counts) < total:
        for i in order[: total - sum(counts)]:
            counts[i] += 1
    while sum(counts) > total:  # a negative carry was floored at 0
        i = max((i for i in range(len(counts)) if counts[i]), key=lambda i: counts[i] - wanted[i])
        counts[i] -= 1
    return counts
