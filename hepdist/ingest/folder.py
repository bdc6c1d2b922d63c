"""The folder that a cohort is made in: COHORT.part until all is written, taken up again where an ingest of the same was killed."""

from __future__ import annotations

import shutil
from pathlib import Path

import hepdist
from hepdist.errors import IngestError
from hepdist.ingest.files import Files
from hepdist.ingest.pseudonym import Pseudonyms
from hepdist.ingest.spec import IngestSpec
from hepdist.shards.manifest import MANIFEST, SCHEMA_VERSION

SIGNATURE = "signature"


def refuse_existing(target: Path, overwrite: bool) -> None:
    """Raises IngestError where `target` holds anything that may not be replaced."""
    if (target / MANIFEST).is_file():
        if not overwrite:
            raise IngestError(f"cohort '{target}' exists already; choose another folder or replace it with overwrite=true")
    elif target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise IngestError(f"'{target}' exists and is not a cohort; choose another folder")


def sign(spec: IngestSpec, files: Files, table: Path | None, names: Pseudonyms) -> str:
    """A salted digest of all that a cohort is made from: staged work of another version, other options or changed files is no use."""
    stamp = "" if table is None else f"{table.stat().st_size} {table.stat().st_mtime_ns}"
    options = spec.model_dump_json(exclude={"overwrite", "workers"})
    stamps = [f"{name} {found}" for name, found in files.stamps().items()]
    return names.of("signature", "\n".join([hepdist.__version__, str(SCHEMA_VERSION), options, stamp, *stamps]))


def open_part(target: Path, signature: str) -> Path:
    """The folder to work in, with what a killed ingest of the same signature left there; else empty."""
    part = target.with_name(f"{target.name}.part")
    sign = part / SIGNATURE
    if not (sign.is_file() and sign.read_text() == signature):
        shutil.rmtree(part, ignore_errors=True)
        (part / "shards").mkdir(parents=True)
        (part / "staging").mkdir(mode=0o700)
        sign.write_text(signature)
    return part


def publish(part: Path, target: Path) -> None:
    """Put the finished cohort in its place by renaming; a cohort that is replaced is there until then."""
    shutil.rmtree(part / "staging")
    (part / SIGNATURE).unlink()
    if target.exists():
        old = target.with_name(f"{target.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
        part.rename(target)
        shutil.rmtree(old)
    else:
        part.rename(target)
