"""The cohort that is added to, opened: all that was kept of it, checked before anything new is read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hepdist.errors import IngestError
from hepdist.ingest.audit import AUDIT, Row, read_audit
from hepdist.ingest.clinical import LABELS, Evidence, read_evidence
from hepdist.ingest.frozen import Frozen, thaw
from hepdist.ingest.headers import HEADERS, read_headers
from hepdist.ingest.people import PEOPLE, Member, read_people
from hepdist.ingest.pseudonym import Pseudonyms
from hepdist.place import Place
from hepdist.shards.manifest import MANIFEST, Manifest, sha256_of


@dataclass(frozen=True)
class Onto:
    folder: Path
    manifest: Manifest
    frozen: Frozen
    members: tuple[Member, ...]
    audit: tuple[Row, ...]
    headers: tuple[Mapping[str, str | float], ...]
    evidence: tuple[Evidence, ...]

    def link_shards(self, part: Path) -> None:
        """Its shards in another folder, as they are: one file under two names where the file system can, else a copy.

        Raises IngestError where one is not of the size that the manifest says.
        """
        for shard in self.manifest.shards:
            old, new = self.folder / shard.path, part / shard.path
            if not old.is_file() or old.stat().st_size != shard.bytes:
                raise IngestError(f"cohort '{self.manifest.name}': {shard.path} is missing or damaged; hepdist inspect says more")
            new.unlink(missing_ok=True)
            try:
                os.link(old, new)
            except OSError:
                shutil.copyfile(old, new)


def open_cohort(target: Place, names: Pseudonyms) -> Onto:
    """Raises IngestError where there is no cohort, or one that nothing can be added to."""
    folder = target.folder
    if folder is None:
        raise IngestError(
            f"cohort '{target}' is in an object store, where append=true can't reach; copy it here, add to it, and copy it back"
        )
    if not (folder / MANIFEST).is_file():
        raise IngestError(f"there is no cohort at '{target}' to add to; leave append=true out to make one")
    manifest = Manifest.load(target)
    frozen = thaw(manifest, names)
    people = folder / PEOPLE
    if not people.is_file() or sha256_of(people) != manifest.frozen["people"]:
        raise IngestError(
            f"cohort '{target}': {PEOPLE} is not what the manifest says, so nothing can be added; ingest all its sources anew"
        )
    try:
        audit = read_audit(folder / AUDIT)
    except (OSError, KeyError):
        raise IngestError(
            f"cohort '{target}': {AUDIT} is missing or lacks a column, so nobody knows which files are there; put the whole one back"
        ) from None
    headers = read_headers(folder / HEADERS) if (folder / HEADERS).is_file() else []
    evidence = read_evidence(folder / LABELS) if (folder / LABELS).is_file() else []
    return Onto(folder, manifest, frozen, tuple(read_people(people, names)), tuple(audit), tuple(headers), tuple(evidence))
