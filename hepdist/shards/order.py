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

    def span(self, window: int) -> tuple[int, int]:
        """The positions [first, last) of the epoch that a window covers."""
        size = self.window_batches * self.global_batch
        return window * size, min((window + 1) * size, self.rows)

    def window(self, epoch: int, window: int) -> np.ndarray:
        """int64[rows of the window]: global row numbers (in manifest order) by position in the epoch.

        Row p of the result is the sample at position window * window_batches * global_batch + p.
        """
        return self.lanes(epoch, window, 0, self.global_batch)[0]

    def lanes(self, epoch: int, window: int, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
        """The part of a window that the lanes [low, high) hold: (rows, positions), int64[n] each, by position in the epoch.

        Each lane has its stretch of the line, shuffled, and a batch takes one row of every lane in turn. What other lanes hold is not
        drawn, unless the split fits into the window.
        """
        first, last = self.span(window)
        random = np.random.PCG64((WITHIN_WINDOWS, self.seed, epoch, window))
        if self.windows == 1:
            positions = np.arange(first, last)
            chosen = (positions % self.global_batch >= low) & (positions % self.global_batch < high)
            return np.random.Generator(random).permutation(self._line(epoch, first, last))[chosen], positions[chosen]
        batches, rest = divmod(last - first, self.global_batch)
        lane = np.arange(low, high)
        lengths = batches + (lane < rest)
        begin, end = low * batches + min(low, rest), high * batches + min(high, rest)
        line = self._line(epoch, first + begin, first + end)
        draw = np.random.Generator(random.advance(begin))  # past the lanes before: one draw a row
        turn = np.arange(len(line)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        lane = np.repeat(lane, lengths)
        shuffled = line[np.lexsort((draw.random(len(line)), lane))]
        by_position = np.lexsort((lane, turn))
        return shuffled[by_position], first + (turn * self.global_batch + lane)[by_position]

    def _line(self, epoch: int, first: int, last: int) -> np.ndarray:
        """The rows at [first, last) of the row groups laid end to end in this epoch's order."""
        order, ends = _shuffled_groups(self._groups, self.seed, epoch)
        low, high = np.searchsorted(ends, (first, last - 1), side="right")
        chosen, ends = order[low : high + 1], ends[low : high + 1]
        begins = ends - self._groups.array[chosen]
        lengths = np.minimum(ends, last) - np.maximum(begins, first)
        return np.arange(first, last) + np.repeat(self._groups.starts[chosen] - begins, lengths)

    @cached_property
    def _groups(self) -> _Groups:
        return _Groups(np.asarray(self.group_rows, dtype=np.int64))


class _Groups:
    """An array of row counts that can key a cache: by its bytes, not by its identity."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.key = hash(array.tobytes())

    @cached_property
    def starts(self) -> np.ndarray:
        """Each group's first row in manifest order."""
        return np.cumsum(self.array) - self.array

    def __hash__(self) -> int:
        return self.key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Groups) and np.array_equal(self.array, other.array)


@lru_cache(maxsize=2)
def _shuffled_groups(groups: _Groups, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """An epoch's row-group order, and the ends of the groups in that order; 16 bytes a group, kept for this epoch and the next."""
    order = np.random.default_rng((OF_GROUPS, seed, epoch)).permutation(len(groups.array))
    return order, np.cumsum(groups.array[order])


def window_batches(row_bytes: int, global_batch: int, window_mib: float, rows: int) -> int:
    """Global batches in a window of about `window_mib`, the whole split where it fits; at least 4, so that lanes can mix."""
    in_split = max(1, -(-rows // global_batch))
    fitting = int(window_mib * 2**20 // max(1, row_bytes * global_batch))
    return in_split if fitting >= in_split else max(4, fitting)


def portion(rows: int, rank: int, world: int) -> tuple[int, int]:
    """The part [low, high) of a batch of `rows` that worker `rank` of `world` computes; parts differ by at most one row."""
    return rank * rows // world, (rank + 1) * rows // world
