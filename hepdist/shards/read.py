"""Reading rows of a split by number, in any order: the one place that turns shards into arrays."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hepdist.errors import CohortError
from hepdist.place import Place, place_of
from hepdist.shards import fetch
from hepdist.shards.format import TensorField, decode
from hepdist.shards.manifest import MANIFEST, Manifest, Shard
from hepdist.shards.pages import row_offsets

if TYPE_CHECKING:
    from hepdist.recipe import Recipe


AHEAD = 4
"""Row groups of a cohort in an object store that are asked for at once."""
Found = dict[str, tuple[np.ndarray, np.ndarray]]
"""Where a row group's values are, by column: bytes uint8[...], and int64[rows], the first byte of each row in them."""


class SplitReader:
    """The rows of one split of a cohort, numbered in manifest order from 0; the cohort's folder is local or in an object store.

    A shard in a folder is held against its sha256 when a process first reads from it, and again when it has changed since. One in an
    object store is not, since that would fetch it whole: stores keep and check sums of their own.
    """

    def __init__(self, cohort: str | Path | Place, manifest: Manifest, split: str, *, verify: bool = True) -> None:
        """verify: 0.7 s of one core a GiB, once a process."""
        self.verify = verify
        self.place = place_of(cohort)
        self.manifest = manifest
        self.split = split
        self.shards = manifest.of(split)
        self.groups = manifest.row_groups(split)
        self.starts = np.concatenate([[0], np.cumsum(self.groups[:, 2])]).astype(np.int64)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def arrays(self, rows: np.ndarray, columns: Sequence[str]) -> dict[str, np.ndarray]:
        """The given rows of tensor and number columns, in the given order; each row group is read once.

        rows: int64[n]; columns: names of tensors, or 'label' (int64, -1 where there is none). Returns arrays[n, ...].
        Raises CohortError that names the shard where one is missing or not what the manifest says.
        """
        group_of = np.searchsorted(self.starts, rows, side="right") - 1
        out = {name: self._empty(name, len(rows)) for name in columns}
        for group, found in self._each(np.unique(group_of).tolist(), columns):
            place = np.flatnonzero(group_of == group)
            place = place[np.argsort(rows[place])]  # in file order: what is not in memory yet is read ahead by the system
            inside = rows[place] - self.starts[group]
            for name, (data, offsets) in found.items():
                _copy(data, offsets[inside], out[name], place)
        return out

    def strings(self, columns: Sequence[str]) -> pa.Table:
        """Plain columns (sample_id, patient, study, split, label) of the whole split, in row order."""
        if not self.shards:
            return pa.table({name: pa.array([], pa.string()) for name in columns})
        return pa.concat_tables([self._table(shard, list(columns)) for shard in self.shards], promote_options="permissive")

    def _table(self, shard: Shard, columns: list[str]) -> pa.Table:
        try:
            if self.place.folder is not None:
                self._state(shard)
            with self.place.reaching(), self.place.open_input(shard.path) as file:
                return pq.read_table(file, columns=columns)
        except FileNotFoundError:
            raise fetch.missing(shard) from None

    def _each(self, groups: list[int], columns: Sequence[str]) -> Iterator[tuple[int, Found]]:
        """Each row group and its values, in order; those in an object store are fetched a few ahead."""
        if self.place.folder is not None or len(groups) == 1:
            yield from ((group, self._find(group, columns)) for group in groups)
            return
        with ThreadPoolExecutor(AHEAD) as pool:
            waiting: deque[tuple[int, Future[Found]]] = deque()
            for group in groups:
                waiting.append((group, pool.submit(self._find, group, columns)))
                if len(waiting) == AHEAD:
                    done, found = waiting.popleft()
                    yield done, found.result()
            yield from ((group, found.result()) for group, found in waiting)

    def _find(self, group: int, columns: Sequence[str]) -> Found:
        """Plain pages of tensors are left in the mapped or fetched bytes; whatever else there is is decoded."""
        index, number, rows = (int(value) for value in self.groups[group])
        shard = self.shards[index]
        tensors = {name: self.manifest.fields[name].nbytes for name in columns if name in self.manifest.fields}
        found: Found = {}
        if self.place.folder is not None:
            path, state = self.place.folder / shard.path, self._state(shard)
            offsets = {name: _offsets(path, shard, state, number, name, nbytes) for name, nbytes in tensors.items()}
            found = {name: (_map(path, shard, state), places) for name, places in offsets.items() if places is not None}
            file = _open(path, shard, state)
        else:
            file, part = fetch.row_group(self.place, shard, number, tuple(columns))
            for name, nbytes in tensors.items():
                data, first_byte = part.holding(file, number, name)
                places = row_offsets(file, data, number, name, nbytes, first_byte)
                if places is not None:
                    found[name] = data, places
        if rest := [name for name in columns if name not in found]:
            table = file.read_row_group(number, columns=rest, use_threads=False)
            found |= {name: _as_bytes(self._values(name, table.column(name))) for name in rest}
        for _, places in found.values():
            if len(places) != rows:
                raise CohortError(
                    f"shard '{shard.path}' row group {number} has {len(places)} rows instead of {rows}; ingest the cohort again"
                )
        return found

    def _state(self, shard: Shard) -> str:
        """Which state of the file is read: one that was removed or written anew while training ran is noticed with the next block."""
        try:
            state = self.place.stamp(shard.path)
        except FileNotFoundError:
            raise fetch.missing(shard) from None
        if self.verify:
            _verify(str(self.place), shard, state)
        return state

    def _empty(self, name: str, rows: int) -> np.ndarray:
        tensor = self.manifest.fields.get(name)
        if tensor is None:
            return np.empty(rows, np.int64)
        # From Arrow's pool, which gives used pages again: the kernel clears fresh ones, which takes as long as the copy itself.
        return np.frombuffer(pa.allocate_buffer(rows * tensor.nbytes), tensor.dtype).reshape(rows, *tensor.shape)

    def _values(self, name: str, column: pa.ChunkedArray) -> np.ndarray:
        tensor: TensorField | None = self.manifest.fields.get(name)
        if tensor is not None:
            return decode(tensor, column)
        return column.combine_chunks().fill_null(-1).to_numpy(zero_copy_only=False)


def _as_bytes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """values[rows, ...] as its bytes and the first byte of each row."""
    data = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    return data, np.arange(len(values), dtype=np.int64) * (len(data) // max(1, len(values)))


def _copy(data: np.ndarray, offsets: np.ndarray, out: np.ndarray, place: np.ndarray) -> None:
    """Row place[i] of out becomes the bytes of data from offsets[i] on: one memcpy a row, where fancy indexing walks elements."""
    flat = out.reshape(-1).view(np.uint8).reshape(len(out), -1)
    size = flat.shape[1]
    for offset, row in zip(offsets.tolist(), place.tolist(), strict=True):
        flat[row] = data[offset : offset + size]


@lru_cache(maxsize=1024)
def _offsets(path: Path, shard: Shard, state: str, group: int, name: str, nbytes: int) -> np.ndarray | None:
    """`row_offsets`, kept: headers are walked once a process."""
    return row_offsets(_open(path, shard, state), _map(path, shard, state), group, name, nbytes)


@lru_cache(maxsize=64)
def _map(path: Path, shard: Shard, state: str) -> np.ndarray:
    """An open shard's bytes, uint8, mapped."""
    _open(path, shard, state)  # checks that the shard is there, whole
    return np.memmap(path, np.uint8, mode="r").view(np.ndarray)


@lru_cache(maxsize=64)
def _open(path: Path, shard: Shard, state: str) -> pq.ParquetFile:
    """An open shard; kept open, since a footer is read again for every row group otherwise."""
    if path.stat().st_size != shard.bytes:
        raise fetch.resized(shard, path.stat().st_size)
    return pq.ParquetFile(path)  # pyarrow's own mapping takes 5 times as long for a small column beside a large one


@lru_cache(maxsize=1 << 16)
def _verify(cohort: str, shard: Shard, state: str) -> None:
    """Once a process, file and state of it. Raises CohortError that names the shard."""
    place = place_of(cohort)
    if place.size(shard.path) != shard.bytes:
        raise fetch.resized(shard, place.size(shard.path))
    if place.sha256(shard.path) != shard.sha256:
        raise fetch.damaged(shard)


@lru_cache(maxsize=8)
def _load(cohort: str, stamp: str) -> Manifest:
    return Manifest.load(cohort)


@lru_cache(maxsize=8)
def _reader(cohort: str, stamp: str, split: str, verify: bool) -> SplitReader:
    return SplitReader(cohort, _load(cohort, stamp), split, verify=verify)


def _stamp(cohort: str) -> str:
    try:
        return place_of(cohort).stamp(MANIFEST)
    except FileNotFoundError:
        return ""


def manifest_of(cohort: str) -> Manifest:
    """The manifest, loaded once a process (and again if the file changes). Raises as Manifest.load does."""
    return _load(cohort, _stamp(cohort))


def open_split(cohort: str, split: str, *, verify: bool = True) -> SplitReader:
    """A reader that is made once a process (and again if the manifest changes); verify: as SplitReader."""
    return _reader(cohort, _stamp(cohort), split, verify)


INPUTS = {
    "image": ("image", "image_missing"),
    "emr": ("emr", "emr_missing"),
    "sequence": ("sequence", "sequence_missing", "sequence_gap", "sequence_length"),
}
"""Columns of a cohort that belong to what a model reads."""


POSITION = ("brick", "offset", "original_shape")
"""Columns that say where a brick lies in its volume."""


def columns_of(recipe: Recipe, manifest: Manifest) -> tuple[str, ...]:
    """The columns that the recipe's model and task read."""
    own = {"segmentation": ["mask", "spacing"], "survival": ["label", "followup"], "restoration": []}
    wanted = list(own.get(recipe.task.kind, ["label"]))
    for name in (*recipe.model.reads, *recipe.model.also_reads):
        wanted += INPUTS[name]
    if scores_volumes(recipe, manifest):
        wanted += POSITION
    return tuple(c for c in wanted if c in manifest.fields or c == "label")


def scores_volumes(recipe: Recipe, manifest: Manifest) -> bool:
    """Whether predictions of rows are put together to whole volumes before they are scored: segmentation of a cohort in bricks."""
    return recipe.task.kind == "segmentation" and manifest.in_bricks
