"""The stream: one Ray Data pipeline a worker, over every item that is left of the plan, delivered as batches of tensors."""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from hepdist.shards.format import decode, encode
from hepdist.shards.manifest import Manifest
from hepdist.shards.order import portion
from hepdist.shards.plan import Plan
from hepdist.shards.read import open_split

Batch = dict[str, torch.Tensor]

READER_CPUS = 0.1
"""CPUs that a read task asks of Ray: with the 0.9 of a training worker a pair fits one core, and neither starves."""

warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # batches are views of shared memory


class Stream:
    """A worker's batches, from a cursor to the end of the run, in the plan's order.

    Iterating `epoch` and `validation` in the order of the plan is the only way to consume it. Batches are dicts of tensors
    on `device`: the plan's columns, `row` and `position` (int64[b]). A batch can be empty when there are fewer rows than workers.
    """

    def __init__(self, plan: Plan, manifest: Manifest, cursor: int, rank: int, world: int, device: torch.device, *, readers: int = 1) -> None:
        self.plan, self.manifest, self.rank, self.world, self.device = plan, manifest, rank, world, device
        self.cursor = cursor
        self.waited_s = 0.0
        """Seconds that the consumer has waited for data so far."""
        first, last = plan.first_item(cursor, rank, world), plan.items(rank, world)
        skip = cursor % plan.order.rows // plan.global_batch % plan.order.window_batches
        self._blocks = _blocks(_Items(plan, rank, world, first, last, skip), last - first, readers, world, device)
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
        for index in range(low, high):
            size = self.plan.validation_batch
            yield self._next(min(size, self.plan.val_rows - index * size))

    def close(self) -> None:
        """Stop reading ahead, where a run ends before its plan."""
        self._blocks.close()

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
        """A column as a tensor: a view of Ray's shared memory on CPU; through pinned memory, without waiting, on a GPU."""
        field = self.manifest.fields.get(name)
        values = decode(field, column) if field else column.to_numpy()
        if values.dtype == np.uint16:  # torch computes little in uint16
            values = values.astype(np.int32)
        tensor = torch.from_numpy(values)
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor


class _Items(Datasource):
    """The plan's items as Ray Data read tasks: a task holds a number and derives the rest."""

    def __init__(self, plan: Plan, rank: int, world: int, first: int, last: int, skip: int) -> None:
        super().__init__()
        self.plan, self.rank, self.world, self.first, self.last, self.skip = plan, rank, world, first, last, skip

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None) -> list[ReadTask]:
        size = int(self.plan.window_mib * 2**20 / self.world)
        metadata = BlockMetadata(num_rows=None, size_bytes=size, exec_stats=None, input_files=None)
        plan = ray.put(self.plan)  # once, not in each of thousands of tasks
        return [
            ReadTask(functools.partial(_read, [plan], item, self.rank, self.world, self.skip if item == self.first else 0), metadata)
            for item in range(self.first, self.last)
        ]


def _read(plan_ref: list[ray.ObjectRef], item: int, rank: int, world: int, skip: int) -> Iterator[pa.Table]:
    """One item as one block: rows gathered in batch order, tensors still as bytes, so that Ray passes them through untouched."""
    plan: Plan = ray.get(plan_ref[0])
    kind, epoch, part = plan.locate(item, rank, world)
    if kind == "train":
        rows, positions = plan.train_rows(epoch, part, rank, world, skip)
    else:
        rows = positions = plan.validation_rows(part, rank, world)
    yield block_of(plan, kind, rows, positions)


def block_of(plan: Plan, split: str, rows: np.ndarray, positions: np.ndarray) -> pa.Table:
    """The given rows of a split as one table: the plan's columns, row and position."""
    reader = open_split(plan.cohort, split)
    arrays = reader.arrays(rows, plan.columns)
    fields = reader.manifest.fields
    columns = {name: encode(fields[name], values) if name in fields else pa.array(values) for name, values in arrays.items()}
    return pa.table({**columns, "row": pa.array(rows), "position": pa.array(positions)})


def _empty_block(plan: Plan, manifest: Manifest) -> pa.Table:
    none = np.empty(0, np.int64)
    columns = {n: pa.array([], pa.binary(manifest.fields[n].nbytes) if n in manifest.fields else pa.int64()) for n in plan.columns}
    return pa.table({**columns, "row": pa.array(none), "position": pa.array(none)})


def _blocks(items: _Items, count: int, readers: int, world: int, device: torch.device) -> Iterator[pa.Table]:
    """The pipeline: one executor for all items, in order, a few windows ahead of the consumer."""
    if not count:
        return
    context = ray.data.DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = _share_of_cluster(world)
    context.target_max_block_size = None  # an item is one block, whatever its size
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    with ray.data.DataContext.current(context):
        dataset = ray.data.read_datasource(items, override_num_blocks=count, num_cpus=READER_CPUS, concurrency=readers)
    for block in dataset.iterator().iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2):
        if block.num_rows:
            yield block


def _share_of_cluster(world: int) -> Any:
    """Each worker's pipeline plans with its share of the object store, not with all of it."""
    from ray.data import ExecutionResources

    store = ray.cluster_resources().get("object_store_memory", 2**30)
    return ExecutionResources(object_store_memory=store / (2 * world))
