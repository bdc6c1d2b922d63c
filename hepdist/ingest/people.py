"""COHORT/people.parquet: what must be known of a cohort's rows when others are added; under pseudonyms, and likenesses sealed by the salt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from hepdist.ingest.pseudonym import Pseudonyms
from hepdist.ingest.stage import Staged
from hepdist.ingest.unite import Record, record_of

PEOPLE = "people.parquet"
PLAIN = ("sample_id", "patient", "person", "split", "label", "content", "site")


@dataclass(frozen=True)
class Member:
    """One image of the cohort, or one row without an image."""

    sample_id: str
    patient: str
    """Pseudonym of the patient that the source names."""
    person: str
    """That of the shards: one for all patients who share an image."""
    split: str
    label: str
    """As hepdist.ingest.unite.Record has it; for strata."""
    content: str
    """Salted hash of the voxels as they were read; empty where they say nothing of who it is."""
    likeness: bytes
    """See hepdist.ingest.likeness; empty where it has none."""
    site: str
    """Pseudonym; empty unless the cohort is split by site."""

    def record(self) -> Record:
        return Record(self.person, self.content, self.likeness, self.label, "", self.site, None, self.split)


def member_of(sample: Staged, names: Pseudonyms, sites: bool) -> Member:
    """sample: with its person and split. sites: keep the site, since the cohort is split by it."""
    record = record_of(sample)
    site = record.site if sites else ""
    return Member(
        sample.sample_id, sample.patient, sample.person, sample.split, record.label, salted_content(sample, names), record.likeness, site
    )


def salted_content(sample: Staged, names: Pseudonyms) -> str:
    """Nobody who holds an image can look for its hash without the salt."""
    return names.of("content", sample.content) if sample.content else ""


def write_people(path: Path, members: Sequence[Member], names: Pseudonyms) -> None:
    """Ordered by sample_id. The same members and salt give the same bytes."""
    ordered = sorted(members, key=lambda member: member.sample_id)
    seal = _cipher(names)
    likenesses = [seal.encrypt(m.likeness, [m.sample_id.encode()]) if m.likeness else b"" for m in ordered]
    columns = {name: pa.array([getattr(member, name) for member in ordered], pa.string()) for name in PLAIN}
    pq.write_table(pa.table({**columns, "likeness": pa.array(likenesses, pa.binary())}), path)


def read_people(path: Path, names: Pseudonyms) -> list[Member]:
    """names: under the salt that the cohort was made with."""
    seal = _cipher(names)
    rows = pq.read_table(path).to_pylist()
    return [
        Member(**{**row, "likeness": seal.decrypt(row["likeness"], [row["sample_id"].encode()]) if row["likeness"] else b""})
        for row in rows
    ]


def _cipher(names: Pseudonyms) -> AESSIV:
    """AES-SIV (RFC 5297), which needs no nonce: an ingest of the same must give the same bytes, and a nonce that repeats would betray both."""
    return AESSIV(names.key("likeness"))
