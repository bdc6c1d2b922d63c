"""The plan of a run: every window that will be trained on and every validation pass in between, as one numbered list.

It is a pure function of (manifest, recipe numbers), so the driver, each worker and each read task derive it alone; what
travels between processes is only the number of an item.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from hepdist.place import absolute
from hepdist.shards.order import Order, portion, window_batches
from hepdist.shards.read import columns_of, scores_volumes

if TYPE_CHECKING:
    from hepdist.recipe import Recipe
    from hepdist.shards.manifest import Manifest

READER_CPUS = 0.1
"""CPUs that a read task asks of Ray: with the 0.9 of a training worker a pair fits one core, and neither starves."""


@dataclass(frozen=True)
class Plan:
    cohort: str
    columns: tuple[str, ...]
    """Columns a batch carries, besides row and position."""
    train_group_rows: tuple[int, ...] | np.ndarray
    """Rows of each train row group, in manifest order; of a large cohort an array, which Ray hands to read tasks without a copy."""
    val_rows: int
    row_bytes: int
    seed: int
    epochs: int
    global_batch: int
    validate_every: int
    validation_batch: int
    window_mib: float
    val_volumes: tuple[int, ...] = ()
    """Validation rows of each volume, where bricks are put together before they are scored; empty: each row is scored by itself."""

    verify: bool = True
    """Hold each shard against its sha256 when a process first reads from it."""

    @cached_property
    def order(self) -> Order:
        rows = int(np.sum(self.train_group_rows))
        window = window_batches(self.row_bytes, self.global_batch, self.window_mib, rows)
        return Order(self.train_group_rows, self.seed, self.global_batch, window)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors of all train and validation rows."""
        return (self.order.rows + self.val_rows) * self.row_bytes

    @property
    def samples(self) -> int:
        """Samples of the whole run."""
        return self.order.rows * self.epochs

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.order.batches * self.epochs

    def step_at(self, cursor: int) -> int:
        """Optimiser steps taken when `cursor` samples are consumed (always a batch boundary)."""
        epoch, position = divmod(cursor, self.order.rows)
        return epoch * self.order.batches + -(-position // self.global_batch)

    def validates(self, epoch: int) -> bool:
        """Whether validation follows this epoch; the last one is always validated."""
        return self.val_rows > 0 and ((epoch + 1) % self.validate_every == 0 or epoch + 1 == self.epochs)

    # --- items: windows and validation chunks, numbered through the run ---

    @cached_property
    def _chunk_batches(self) -> int:
        """Validation batches an item holds: about one window's bytes."""
        return max(1, int(self.window_mib * 2**20 // max(1, self.row_bytes * self.validation_batch)))

    @cached_property
    def _validation_units(self) -> np.ndarray:
        """int64[units + 1]: where the rows begin that one worker scores together, and their end: batches, or whole volumes."""
        if self.val_volumes:
            return np.concatenate([[0], np.cumsum(self.val_volumes)])
        return np.append(np.arange(0, self.val_rows, self.validation_batch), self.val_rows)

    @cached_property
    def validation_cuts(self) -> np.ndarray:
        """int64[batches + 1]: the first row of each validation batch, and their end; no batch holds bricks of two volumes."""
        units = self._validation_units
        batches = -(-np.diff(units) // self.validation_batch)
        batch = np.arange(batches.sum()) - np.repeat(np.cumsum(batches) - batches, batches)  # its number inside its unit
        return np.append(np.repeat(units[:-1], batches) + batch * self.validation_batch, self.val_rows)

    def validation_batches(self, rank: int, world: int) -> tuple[int, int]:
        """The validation batches [low, high) that a rank scores; batches are cut without regard to the world size."""
        units = self._validation_units
        low, high = np.searchsorted(self.validation_cuts, units[list(portion(len(units) - 1, rank, world))])
        return int(low), int(high)

    def _validation_items(self, rank: int, world: int) -> int:
        low, high = self.validation_batches(rank, world)
        return -(-(high - low) // self._chunk_batches)

    def _epoch_items(self, rank: int, world: int) -> list[int]:
        """First item of each epoch, and the total."""
        validation = self._validation_items(rank, world)
        lengths = [self.order.windows + (validation if self.validates(e) else 0) for e in range(self.epochs)]
        return [0, *np.cumsum(lengths).tolist()]

    def first_item(self, cursor: int, rank: int, world: int) -> int:
        """The item that holds the sample at `cursor`."""
        epoch, position = divmod(cursor, self.order.rows)
        window = position // (self.order.window_batches * self.global_batch)
        return self._epoch_items(rank, world)[epoch] + window

    def items(self, rank: int, world: int) -> int:
        return self._epoch_items(rank, world)[-1]

    def locate(self, item: int, rank: int, world: int) -> tuple[str, int, int]:
        """('train', epoch, window) or ('val', epoch, chunk)."""
        starts = self._epoch_items(rank, world)
        epoch = bisect_right(starts, item) - 1
        inside = item - starts[epoch]
        if inside < self.order.windows:
            return "train", epoch, inside
        return "val", epoch, inside - self.order.windows

    # --- what an item holds ---

    def train_rows(self, epoch: int, window: int, rank: int, world: int, skip: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """A rank's (rows, positions), int64[n] each, of a window in batch order; the first `skip` global batches left out.

        Only the rank's lanes are drawn: a thousand workers plan together about as much as one.
        """
        first, last = self.order.span(window)
        short = (last - first) % self.global_batch
        rows, positions = self.order.lanes(epoch, window, *portion(self.global_batch, rank, world))
        kept = (positions >= first + skip * self.global_batch) & (positions < last - short)
        rows, positions = rows[kept], positions[kept]
        if short:  # the last batch of an epoch is portioned by its own size
            more, places = self.order.lanes(epoch, window, *portion(short, rank, world))
            kept = places >= last - short
            rows, positions = np.concatenate([rows, more[kept]]), np.concatenate([positions, places[kept]])
        return rows, positions

    def validation_rows(self, chunk: int, rank: int, world: int) -> np.ndarray:
        """int64[n]: the rows of one validation item of a rank."""
        low, high = self.validation_batches(rank, world)
        first = low + chunk * self._chunk_batches
        last = min(high, first + self._chunk_batches)
        return np.arange(self.validation_cuts[first], self.validation_cuts[last])


def plan_of(recipe: Recipe, manifest: Manifest) -> Plan:
    """The run's plan: a pure function of the recipe and the manifest."""
    return Plan(
        cohort=absolute(recipe.data.cohort),
        columns=columns_of(recipe, manifest),
        train_group_rows=manifest.row_groups("train")[:, 2].copy(),
        val_rows=manifest.rows("val"),
        row_bytes=manifest.row_bytes(),
        seed=recipe.train.seed,
        epochs=recipe.train.epochs,
        global_batch=recipe.train.global_batch,
        validate_every=recipe.train.validate_every,
        validation_batch=recipe.evaluation.batch,
        window_mib=recipe.data.window_mib,
        verify=recipe.data.verify,
        val_volumes=tuple(np.diff(manifest.cases("val")).tolist()) if scores_volumes(recipe, manifest) else (),
    )
