"""The promises that a cohort on disk must still keep when training opens it; reads schemas and two narrow columns, never a tensor."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hepdist.errors import CohortError
from hepdist.place import Place, place_of
from hepdist.shards.format import tensor_fields
from hepdist.shards.manifest import SPLITS, Manifest, Shard

AT_ONCE = 16
"""Shards in an object store that are looked at together: each costs a few requests and no work."""


def check_cohort(folder: str | Path | Place, manifest: Manifest) -> None:
    """Raises CohortError when a shard is missing or not as the manifest says, or a patient is in two splits.

    Contents are not hashed: `hepdist inspect` does that (hepdist.shards.manifest.damaged_shards).
    """
    place, name = place_of(folder), manifest.name
    patients: dict[str, pa.Array] = {}
    for split in SPLITS:
        look = partial(_patients, place, manifest)
        with ThreadPoolExecutor(1 if place.folder is not None else AT_ONCE) as pool:
            found = list(pool.map(look, manifest.of(split)))
        patients[split] = pc.unique(pa.concat_arrays(found)) if found else pa.array([], pa.string())
    for i, one in enumerate(SPLITS):
        for other in SPLITS[i + 1 :]:
            shared = patients[one].filter(pc.is_in(patients[one], value_set=patients[other]))
            if len(shared):
                raise CohortError(f"cohort '{name}': patient {shared[0].as_py()[:4]}… is in {one} and {other}; ingest it again")


def _patients(place: Place, manifest: Manifest, shard: Shard) -> pa.Array:
    """The patients of a shard that is what the manifest says."""
    name = manifest.name
    try:
        with place.reaching(), place.open_input(shard.path) as source:
            file = pq.ParquetFile(source, pre_buffer=place.folder is None)
            groups = tuple(file.metadata.row_group(g).num_rows for g in range(file.metadata.num_row_groups))
            if groups != shard.row_groups:
                raise CohortError(
                    f"cohort '{name}': {shard.path} has row groups of {list(groups)}, not those of the manifest; ingest it again"
                )
            if tensor_fields(file.schema_arrow) != manifest.fields:
                raise CohortError(f"cohort '{name}': {shard.path} has other tensor columns than the manifest; ingest it again")
            rows = file.read(columns=["patient", "split"])
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):  # whatever a damaged footer makes of its reader
        raise CohortError(f"cohort '{name}': {shard.path} is missing or damaged; ingest it again") from None
    strays = pc.unique(rows["split"]).to_pylist()
    if strays not in ([shard.split], []):
        raise CohortError(f"cohort '{name}': {shard.path} holds rows of {' and '.join(map(str, strays))}; ingest it again")
    return pc.unique(rows["patient"])
