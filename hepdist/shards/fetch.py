"""Row groups of a shard in an object store: the columns asked for come with one or two ranged reads, and stay while memory allows.

A store answers after tens of milliseconds, whatever it is asked for, so that every request saved counts more than a few bytes.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hepdist.errors import CohortError
from hepdist.place import Place, place_of
from hepdist.shards.manifest import Shard

HOLE = 1 << 20
"""Bytes between two columns that are read and thrown away rather than asked for twice."""
KEPT = 64 << 20
"""Bytes of row groups that stay for the next batch from them; evaluation takes a few rows at a time."""


class Part(io.RawIOBase):
    """The bytes of a file in a few ranges, as a file for Parquet's reader: it can be read where there is something."""

    def __init__(self, size: int, ranges: list[tuple[int, np.ndarray]]) -> None:
        """ranges: first byte in the file, and uint8[bytes] from there on."""
        super().__init__()
        self.size, self.ranges, self._at = size, ranges, 0

    @property
    def nbytes(self) -> int:
        return sum(len(data) for _, data in self.ranges)

    def holding(self, file: pq.ParquetFile, group: int, column: str) -> tuple[np.ndarray, int]:
        """The range that a column of a row group lies in, and its first byte in the file."""
        start, _ = _extent(file, group, column)
        return self._range(start)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self.size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        data, first = self._range(self._at)
        found = data[self._at - first :][: size if size >= 0 else None].tobytes()
        self._at += len(found)
        return found

    def _range(self, byte: int) -> tuple[np.ndarray, int]:
        for first, data in self.ranges:
            if first <= byte < first + len(data):
                return data, first
        raise OSError(f"byte {byte} was not fetched")


def row_group(place: Place, shard: Shard, group: int, columns: tuple[str, ...]) -> tuple[pq.ParquetFile, Part]:
    """The shard as far as these columns of a row group: a file that can read them, and the bytes that they lie in.

    Raises CohortError where the shard is missing or of another size, StoreError where the store can't be reached.
    """
    with OPENING:  # threads that wait here find it open
        source, footer = _open(str(place), shard)
    part = RECENT.get((str(place), shard, group, columns))
    if part is None:
        part = Part(shard.bytes, [])
        for start, end in _joined(sorted(_extent(footer, group, name) for name in columns)):
            with place.reaching():
                part.ranges.append((start, np.frombuffer(source.read_at(end - start, start), np.uint8)))
        RECENT.keep((str(place), shard, group, columns), part)
    return pq.ParquetFile(pa.PythonFile(part, "r"), metadata=footer.metadata), part


def missing(shard: Shard) -> CohortError:
    return CohortError(f"shard '{shard.path}' is missing; ingest the cohort again")


def resized(shard: Shard, size: int) -> CohortError:
    return CohortError(f"shard '{shard.path}' has {size} bytes instead of {shard.bytes}; ingest the cohort again")


def damaged(shard: Shard) -> CohortError:
    return CohortError(
        f"shard '{shard.path}' is damaged (its sha256 is not the manifest's); restore it from a copy or ingest the cohort again"
    )


class Recent:
    """The latest parts, up to a number of bytes in all."""

    def __init__(self, limit: int) -> None:
        self._limit, self._parts, self._lock = limit, OrderedDict[tuple, Part](), threading.Lock()

    def get(self, key: tuple) -> Part | None:
        with self._lock:
            if key in self._parts:
                self._parts.move_to_end(key)
            return self._parts.get(key)

    def keep(self, key: tuple, part: Part) -> None:
        with self._lock:
            self._parts[key] = part
            while self._parts and sum(p.nbytes for p in self._parts.values()) > self._limit:
                self._parts.popitem(last=False)


RECENT = Recent(KEPT)
OPENING = threading.Lock()


@lru_cache(maxsize=64)
def _open(place: str, shard: Shard) -> tuple[pa.NativeFile, pq.ParquetFile]:
    """An open shard and its footer, read once a process."""
    where = place_of(place)
    try:
        source = where.open_input(shard.path)
    except FileNotFoundError:
        raise missing(shard) from None
    if source.size() != shard.bytes:
        raise resized(shard, source.size())
    with where.reaching():
        return source, pq.ParquetFile(source)


def _extent(file: pq.ParquetFile, group: int, column: str) -> tuple[int, int]:
    """First byte of a column of a row group, and the byte after its last."""
    chunk = file.metadata.row_group(group).column(file.schema_arrow.get_field_index(column))
    first = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
    return first, first + chunk.total_compressed_size


def _joined(extents: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted extents, united where little lies between them."""
    found: list[tuple[int, int]] = []
    for start, end in extents:
        if found and start - found[-1][1] <= HOLE:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found
