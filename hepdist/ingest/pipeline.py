"""Ingest from a command to a cohort, which appears whole or not at all; a killed ingest is taken up again, and one can add to a cohort."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from hepdist.errors import IngestError
from hepdist.ingest.append import Append
from hepdist.ingest.build import Build, Progress
from hepdist.ingest.detect import open_source
from hepdist.ingest.files import Files
from hepdist.ingest.folder import open_part, publish, recover, refuse_existing, sign
from hepdist.ingest.join import table_of
from hepdist.ingest.onto import open_cohort
from hepdist.ingest.parallel import as_map, processes
from hepdist.ingest.pseudonym import Pseudonyms, read_salt
from hepdist.ingest.spec import IngestSpec, parse_options
from hepdist.ingest.told import declared_names
from hepdist.place import Place, place_of
from hepdist.shards.manifest import Manifest

if TYPE_CHECKING:
    from hepdist.ingest.reidentify import MapWriter

SMALL_BYTES, SMALL_FILES = 256 << 20, 2000
"""A source below both is read by this process alone: a Ray of several would take longer to start."""


def run(source: str, cohort: str, options: list[str], progress: Progress | None = None) -> Manifest:
    """See hepdist.ingest.ingest."""
    spec = parse_options(options)
    target = place_of(cohort)
    recover(target)
    if not spec.append:
        refuse_existing(target, spec.overwrite)
    names = Pseudonyms(read_salt(spec.salt))
    onto = open_cohort(target, names) if spec.append else None
    if onto is not None:
        spec = onto.frozen.agreed(spec)
    declared_names(spec)  # a dictionary or rules that can't be read are said before anything is
    files = Files(source)
    table, inside = table_of(files, spec)
    # the map is opened first: what is wrong with it is said before anything is read
    with _map(spec, names, target) as entries, processes(spec.workers or _processes_for(files)) as each:
        reader = open_source(files, spec, inside, as_map(each), None if onto is None else onto.frozen.known)
        if spec.label is not None and table is None and reader.kind not in ("images", "nifti", "table", "dicom"):
            raise IngestError(f"ingest key 'label' is '{spec.label}', a column, but there is no table; add emr=TABLE.csv")
        part = open_part(target, sign(spec, files, table, names, onto.manifest.sha256() if onto is not None else ""))
        try:
            arguments = part, files, reader, table, inside, spec, names, each, progress or (lambda done, total: None)
            build = Build(*arguments) if onto is None else Append(onto, *arguments)
            manifest = build.run(str(target).rstrip("/").rpartition("/")[2])
        except IngestError:
            shutil.rmtree(part, ignore_errors=True)  # the same command would fail again
            raise
        manifest.save(part)
        if entries is not None:
            for kind, raw in (*_mapped(spec), *build.keys):
                entries.add(kind, raw)
    if onto is None or manifest is not onto.manifest:
        publish(part, target)
    else:
        shutil.rmtree(part)  # nothing was new
    return manifest


def _map(spec: IngestSpec, names: Pseudonyms, target: Place) -> AbstractContextManager[MapWriter | None]:
    """The re-identification map, where one is asked for; it appears when the block ends."""
    if spec.reidentification_map is None or spec.reidentification_key is None:
        return nullcontext()
    from hepdist.ingest.reidentify import MapWriter  # cryptography is needed here alone

    return MapWriter(spec.reidentification_map, spec.reidentification_key, names, target.folder)


def _mapped(spec: IngestSpec) -> Iterator[tuple[str, str]]:
    """What the map says already of a cohort that is added to, since a map is written anew."""
    if spec.append and spec.reidentification_map and spec.reidentification_key and Path(spec.reidentification_map).exists():
        from hepdist.ingest.reidentify import reidentify

        yield from ((entry.kind, entry.raw) for entry in reidentify(spec.reidentification_map, spec.reidentification_key))


def _processes_for(files: Files) -> int | None:
    return 1 if len(files.names) < SMALL_FILES and files.bytes() < SMALL_BYTES else None
