"""The plan's items as a Ray Data source, and the pipeline that reads them in order; numpy and Arrow only.

Read tasks run in processes of their own, which would each pay seconds if this module imported torch.
"""

from __future__ import annotations

import functools
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data import Datasource, ExecutionResources, ReadTask
from ray.data.block import BlockMetadata

from hepdist.shards.block import read_block
from hepdist.shards.pace import Pace, waiting
from hepdist.shards.plan import READER_CPUS, Plan


class RayBlocks:
    """The blocks of the items [first, last), in order: one Ray Data executor for all of them, a few windows ahead of the consumer.

    The first is read in this process: Ray's readers are processes that take seconds to come up, and the pipeline, a generator,
    starts only when its first block is asked for. Both are under way when this returns.
    """

    def __init__(self, plan: Plan, rank: int, world: int, first: int, last: int, skip: int, readers: int) -> None:
        """skip: global batches to leave out of the first item; readers: read tasks at once."""
        self._pipeline = _pipeline(Items(plan, rank, world, min(first + 1, last), last), readers)
        threads = ThreadPoolExecutor(2)
        self._ahead: list[Future[pa.Table | None]] = []
        if first < last:
            self._ahead = [
                threads.submit(read_block, plan, first, rank, world, skip),
                threads.submit(next, self._pipeline, None),
            ]
        threads.shutdown(wait=False)

    def __iter__(self) -> Iterator[pa.Table]:
        while self._ahead:
            found = self._ahead.pop(0).result()
            if found is not None:
                yield found
        yield from self._pipeline

    def close(self) -> None:
        wait(self._ahead)
        self._pipeline.close()


def _pipeline(items: Items, readers: int) -> Generator[pa.Table, None, None]:
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
    found = iter(dataset.iterator().iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2))
    while True:
        with waiting():
            block = next(found, None)
        if block is None:
            return
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
    yield read_block(ray.get(plan[0]), item, rank, world)


def _share_of_cluster(world: int) -> ExecutionResources:
    """Each worker's pipeline plans with its share of the object store, not with all of it."""
    store = ray.cluster_resources().get("object_store_memory", 2**30)
    return ExecutionResources(object_store_memory=store / (2 * world))
