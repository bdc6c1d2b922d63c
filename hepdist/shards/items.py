"""The plan's items as a Ray Data source, and the pipeline that reads them in order; numpy and Arrow only.

Read tasks run in processes of their own, which would each pay seconds if this module imported torch.
"""

from __future__ import annotations

import functools
from collections.abc import Generator, Iterator
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data import Datasource, ExecutionResources, ReadTask
from ray.data.block import BlockMetadata

from hepdist.shards.format import encode
from hepdist.shards.pace import Pace
from hepdist.shards.plan import READER_CPUS, Plan
from hepdist.shards.read import open_split


def blocks(items: Items, readers: int) -> Generator[pa.Table, None, None]:
    """The pipeline: one executor for all items, in order, a few windows ahead of the consumer."""
    count = items.last - items.first
    if not count:
        return
    context = ray.data.DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = _share_of_cluster(items.world)
    context.target_max_block_size = None  # an item is one block, whatever its size
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.custom_execution_callback_classes = [*context.custom_execution_callback_classes, Pace]
    with ray.data.DataContext.current(context):
        dataset = ray.data.read_datasource(items, override_num_blocks=count, num_cpus=READER_CPUS, concurrency=readers)
    for block in dataset.iterator().iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2):
        if block.num_rows:
            yield block


class Items(Datasource):
    """The plan's items [first, last) as Ray Data read tasks: a task holds a number and derives the rest."""

    def __init__(self, plan: Plan, rank: int, world: int, first: int, last: int) -> None:
        super().__init__()
        self.plan, self.rank, self.world, self.first, self.last = plan, rank, world, first, last

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None) -> list[ReadTask]:
        size = int(self.plan.window_mib * 2**20 / self.world)
        metadata = BlockMetadata(num_rows=None, size_bytes=size, exec_stats=None, input_files=None)
        plan = ray.put(self.plan)  # once, not in each of thousands of tasks
        items = range(self.first, self.last)
        return [ReadTask(functools.partial(_read, [plan], item, self.rank, self.world), metadata) for item in items]


def _read(plan: list[ray.ObjectRef], item: int, rank: int, world: int) -> Iterator[pa.Table]:
    yield read_item(ray.get(plan[0]), item, rank, world)


def read_item(plan: Plan, item: int, rank: int, world: int, skip: int = 0) -> pa.Table:
    """One item as one table: rows gathered in batch order, the plan's columns, row and position; `skip` global batches left out.

    Tensors stay bytes, so that Ray passes them through untouched.
    """
    kind, epoch, part = plan.locate(item, rank, world)
    if kind == "train":
        rows, positions = plan.train_rows(epoch, part, rank, world, skip)
    else:
        rows = positions = plan.validation_rows(part, rank, world)
    reader = open_split(plan.cohort, kind)
    arrays = reader.arrays(rows, plan.columns)
    fields = reader.manifest.fields
    columns = {name: encode(fields[name], values) if name in fields else pa.array(values) for name, values in arrays.items()}
    return pa.table({**columns, "row": pa.array(rows), "position": pa.array(positions)})


def _share_of_cluster(world: int) -> ExecutionResources:
    """Each worker's pipeline plans with its share of the object store, not with all of it."""
    store = ray.cluster_resources().get("object_store_memory", 2**30)
    return ExecutionResources(object_store_memory=store / (2 * world))
