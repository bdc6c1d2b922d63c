"""The stream: every item that is left of the plan, read ahead by Ray Data or by a thread, delivered as batches of tensors."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch

from hepdist.shards.block import ThreadBlocks
from hepdist.shards.format import decode
from hepdist.shards.manifest import Manifest
from hepdist.shards.order import portion
from hepdist.shards.plan import Plan
from hepdist.shards.tensors import tensor_of

if TYPE_CHECKING:
    from hepdist.shards.items import RayBlocks

Batch = dict[str, torch.Tensor]

warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # batches are views of shared memory


class Stream:
    """A worker's batches, from a cursor to the end of the run, in the plan's order.

    Iterating `epoch` and `validation` in the order of the plan is the only way to consume it. Batches are dicts of tensors
    on `device`: the plan's columns, `row` and `position` (int64[b]). A batch can be empty when there are fewer rows than workers.
    """

    def __init__(
        self, plan: Plan, manifest: Manifest, cursor: int, rank: int, world: int, device: torch.device, *, readers: int = 1
    ) -> None:
        """readers: Ray Data's read tasks at once; 0: a thread of this process reads instead."""
        self.plan, self.manifest, self.rank, self.world, self.device = plan, manifest, rank, world, device
        self.cursor = cursor
        self.waited_s = 0.0
        """Seconds that the consumer has waited for data so far."""
        first, last = plan.first_item(cursor, rank, world), plan.items(rank, world)
        skip = cursor % plan.order.rows // plan.global_batch % plan.order.window_batches
        self._source = _source(plan, rank, world, first, last, skip, readers)
        self._blocks = (block for block in self._source if block.num_rows)
        self._block: pa.Table | None = None
        self._taken = 0

    def epoch(self) -> Iterator[Batch]:
        """This worker's parts of the global batches from the cursor to the end of the cursor's epoch; moves the cursor."""
        rows = self.plan.order.rows
        end = (self.cursor // rows + 1) * rows
        while self.cursor < end:
            size = min(self.plan.global_batch, end - self.cursor)
            low, high = portion(size, self.rank, self.world)
            batch = self._next(high - low)
            self.cursor += size
            yield batch

    def validation(self) -> Iterator[Batch]:
        """This worker's validation batches."""
        low, high = self.plan.validation_batches(self.rank, self.world)
        for rows in np.diff(self.plan.validation_cuts[low : high + 1]).tolist():
            yield self._next(rows)

    def close(self) -> None:
        """Stop reading ahead, where a run ends before its plan."""
        self._source.close()

    def _next(self, rows: int) -> Batch:
        """The next `rows` rows; a batch never spans two blocks, since items hold whole batches."""
        began = time.perf_counter()
        if rows and (self._block is None or self._taken == self._block.num_rows):
            self._block, self._taken = next(self._blocks), 0
        if self._block is None:  # nothing has come yet and nothing is due: a shape without rows
            self._block = _empty_block(self.plan, self.manifest)
        assert self._taken + rows <= self._block.num_rows, "the stream and the plan disagree"
        table = self._block.slice(self._taken, rows)
        self._taken += rows
        batch = {name: self._tensor(name, table.column(name)) for name in table.column_names}
        self.waited_s += time.perf_counter() - began
        return batch

    def _tensor(self, name: str, column: pa.ChunkedArray) -> torch.Tensor:
        """A column as a tensor: a view of the block on CPU; through pinned memory, without waiting, on a GPU."""
        field = self.manifest.fields.get(name)
        values = decode(field, column) if field else column.to_numpy()
        tensor = tensor_of(values)
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor


def _source(plan: Plan, rank: int, world: int, first: int, last: int, skip: int, readers: int) -> RayBlocks | ThreadBlocks:
    """What reads the items [first, last), without the first `skip` batches of the first one; it is reading when this returns."""
    if not readers:
        return ThreadBlocks(plan, rank, world, first, last, skip)
    from hepdist.shards.items import RayBlocks  # Ray Data takes seconds to import

    return RayBlocks(plan, rank, world, first, last, skip, readers)


def _empty_block(plan: Plan, manifest: Manifest) -> pa.Table:
    none = np.empty(0, np.int64)
    columns = {n: pa.array([], pa.binary(manifest.fields[n].nbytes) if n in manifest.fields else pa.int64()) for n in plan.columns}
    return pa.table({**columns, "row": pa.array(none), "position": pa.array(none)})
