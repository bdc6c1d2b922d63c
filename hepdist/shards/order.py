"""The order of an epoch: a pure function of (manifest, seed, epoch); it knows nothing of workers until a batch is portioned.

An epoch permutes the row groups, lays their rows end to end and cuts the line into windows of whole global batches.
Inside a window each lane (one place of the global batch) owns a contiguous stretch of the line, which it shuffles; a batch
takes the next row of every lane. A worker serves neighbouring lanes, so it reads a contiguous part of each window and
nothing twice, while the global batches are the same for any number of workers. A split that fits into one window is
shuffled whole instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

OF_GROUPS, WITHIN_WINDOWS = 1, 2
"""Domains of the random draws: NumPy seeds (s, e) and (s, e, 0) alike, so each purpose needs a prefix of its own."""


@dataclass(frozen=True)
class Order:
    """The sample order of one split for one (seed, global batch); arrays are made an epoch at a time."""

    group_rows: tuple[int, ...] | np.ndarray
    """Rows of each row group of the split, in manifest order."""
    seed: int
    global_batch: int
    window_batches: int
    """Global batches a shuffle window."""

    @cached_property
    def rows(self) -> int:
        """Rows of the split: samples in an epoch."""
        return int(np.sum(self.group_rows))

    @property
    def batches(self) -> int:
        """Global batches in an epoch; the last one may be short."""
        return -(-self.rows // self.global_batch)

    @property
    def windows(self) -> int:
        return -(-self.batches // self.window_batches)

    def window(self, epoch: int, window: int) -> np.ndarray:
        """int64[rows of the window]: global row numbers (in manifest order) by position in the epoch.

        Row p of the result is the sample at position window * window_batches * global_batch + p.
        """
        first = window * self.window_batches * self.global_batch
        last = min(first + self.window_batches * self.global_batch, self.rows)
        line = self._line(epoch, first, last)
        draw = np.random.default_rng((WITHIN_WINDOWS, self.seed, epoch, window))
        if self.windows == 1:
            return draw.permutation(line)
        return self._deal(line, draw)

    def _line(self, epoch: int, first: int, last: int) -> np.ndarray:
        """The rows at [first, last) of the row groups laid end to end in this epoch's order."""
        order, ends, starts = _shuffled_groups(self._groups, self.seed, epoch)
        low, high = np.searchsorted(ends, (first, last - 1), side="right")
        parts = []
        for place in range(low, high + 1):
            begin = ends[place] - self._groups.array[order[place]]
            a, b = max(first, begin) - begin, min(last, ends[place]) - begin
            parts.append(np.arange(a, b) + starts[order[place]])
        return np.concatenate(parts)

    def _deal(self, line: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """Give each lane its stretch, shuffle inside the lanes, then take one row of every lane in turn."""
        batches, rest = divmod(len(line), self.global_batch)
        lengths = np.full(self.global_batch, batches) + (np.arange(self.global_batch) < rest)
        lane = np.repeat(np.arange(self.global_batch), lengths)
        shuffled = line[np.lexsort((draw.random(len(line)), lane))]
        turn = np.arange(len(line)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return shuffled[np.lexsort((lane, turn))]

    @cached_property
    def _groups(self) -> _Groups:
        return _Groups(np.asarray(self.group_rows, dtype=np.int64))


class _Groups:
    """An array of row counts that can key a cache: by its bytes, not by its identity."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.key = hash(array.tobytes())

    def __hash__(self) -> int:
        return self.key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Groups) and np.array_equal(self.array, other.array)


@lru_cache(maxsize=4)
def _shuffled_groups(groups: _Groups, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An epoch's row-group order, the ends of the groups in that order, and each group's first row in manifest order."""
    order = np.random.default_rng((OF_GROUPS, seed, epoch)).permutation(len(groups.array))
    return order, np.cumsum(groups.array[order]), np.cumsum(groups.array) - groups.array


def window_batches(row_bytes: int, global_batch: int, window_mib: float, rows: int) -> int:
    """Global batches in a window of about `window_mib`, the whole split where it fits; at least 4, so that lanes can mix."""
    in_split = max(1, -(-rows // global_batch))
    fitting = int(window_mib * 2**20 // max(1, row_bytes * global_batch))
    return in_split if fitting >= in_split else max(4, fitting)


def portion(rows: int, rank: int, world: int) -> tuple[int, int]:
    """The part [low, high) of a batch of `rows` that worker `rank` of `world` computes; parts differ by at most one row."""
    return rank * rows // world, (rank + 1) * rows // world
