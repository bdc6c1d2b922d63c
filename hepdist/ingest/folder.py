"""The folder that a cohort is made in until all is written, taken up again where an ingest of the same was killed; and its way to its place."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import hepdist
from hepdist.errors import IngestError
from hepdist.ingest.emr_read import TableFiles
from hepdist.ingest.files import Files, file_at
from hepdist.ingest.pseudonym import Pseudonyms
from hepdist.ingest.spec import IngestSpec
from hepdist.place import Place
from hepdist.shards.manifest import MANIFEST, SCHEMA_VERSION

SIGNATURE, STAGING = "signature", "staging"


def recover(target: Place) -> None:
    """Put a local cohort back in its place that a kill between the two renames of `publish` left aside, or drop one that was replaced."""
    if target.folder is None or not _aside(target.folder).is_dir():
        return
    if target.folder.exists():
        shutil.rmtree(_aside(target.folder))
    else:
        _aside(target.folder).rename(target.folder)


def refuse_existing(target: Place, overwrite: bool) -> None:
    """Raises IngestError where `target` holds anything that may not be replaced."""
    if target.exists(MANIFEST):
        if not overwrite:
            raise IngestError(f"cohort '{target}' exists already; choose another folder or replace it with overwrite=true")
    elif target.folder is None:
        if next(target.names(), None) is not None:
            raise IngestError(f"'{target}' exists and is not a cohort; choose another folder")
    elif target.folder.exists() and (not target.folder.is_dir() or any(target.folder.iterdir())):
        raise IngestError(f"'{target}' exists and is not a cohort; choose another folder")


def sign(spec: IngestSpec, files: Files, table: TableFiles | None, names: Pseudonyms, onto: str = "") -> str:
    """A salted digest of all that a cohort is made from: staged work of another version, other options or changed files is no use.

    onto: sha256 of the manifest of the cohort that is added to.
    """
    stamp = "" if table is None else table.stamp()
    stamp += "".join(f"\n{_stamp(path)}" for path in (spec.labels_table, spec.emr_dictionary, spec.label_rules) if path is not None)
    options = spec.model_dump_json(exclude={"overwrite", "workers"})
    stamps = [f"{name} {found}" for name, found in files.stamps().items()]
    return names.of("signature", "\n".join([hepdist.__version__, str(SCHEMA_VERSION), options, onto, stamp, *stamps]))


def _stamp(path: str) -> str:
    """Of a file that an option names; empty for one inside the source, whose stamps are taken apart, and for shipped rules."""
    place, name = file_at(path)
    try:
        return place.stamp(name)
    except OSError:
        return ""


def open_part(target: Place, signature: str) -> Path:
    """The folder to work in, with what a killed ingest of the same signature left there; else empty.

    It is beside a local cohort, and in this machine's folder for temporary files where the cohort goes to an object store.
    """
    if target.folder is not None:
        part = target.folder.with_name(f"{target.folder.name}.part")
    else:
        part = Path(tempfile.gettempdir()) / f"hepdist-ingest-{signature}"
    sign = part / SIGNATURE
    if not (sign.is_file() and sign.read_text() == signature):
        shutil.rmtree(part, ignore_errors=True)
        (part / "shards").mkdir(parents=True)
        (part / STAGING).mkdir(mode=0o700)
        sign.write_text(signature)
    return part


def publish(part: Path, target: Place) -> None:
    """Put the finished cohort in its place. Locally by renaming; a cohort that is replaced is there until then.

    A store can't rename: there the old manifest goes first and the new one comes last, so that no cohort is ever half of each.
    """
    (part / SIGNATURE).unlink()  # first: a killed ingest must not go on from a staging folder that is half gone
    shutil.rmtree(part / STAGING)
    if target.folder is None:
        if target.exists(MANIFEST):
            target.remove(MANIFEST)
            target.remove_tree()
        for path in sorted(p for p in part.rglob("*") if p.is_file() and p.name != MANIFEST):
            target.upload(path.relative_to(part).as_posix(), path)
        target.upload(MANIFEST, part / MANIFEST)
        shutil.rmtree(part)
    elif target.folder.exists():
        target.folder.rename(_aside(target.folder))
        part.rename(target.folder)
        shutil.rmtree(_aside(target.folder))
    else:
        part.rename(target.folder)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.replaced")
