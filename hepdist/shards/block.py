"""One item of the plan as one block of rows: what every reader of the stream does, in whichever process it runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice

import pyarrow as pa

from hepdist.shards.format import encode
from hepdist.shards.plan import Plan
from hepdist.shards.read import open_split

AHEAD = 2
"""Blocks that a thread reads ahead of its consumer."""


def read_block(plan: Plan, item: int, rank: int, world: int, skip: int = 0) -> pa.Table:
    """One item as one table: rows gathered in batch order, the plan's columns, row and position; `skip` global batches left out.

    Tensors stay bytes, so that Ray passes them through untouched.
    """
    kind, epoch, part = plan.locate(item, rank, world)
    if kind == "train":
        rows, positions = plan.train_rows(epoch, part, rank, world, skip)
    else:
        rows = positions = plan.validation_rows(part, rank, world)
    reader = open_split(plan.cohort, kind, verify=plan.verify)
    arrays = reader.arrays(rows, plan.columns)
    fields = reader.manifest.fields
    columns = {name: encode(fields[name], values) if name in fields else pa.array(values) for name, values in arrays.items()}
    return pa.table({**columns, "row": pa.array(rows), "position": pa.array(positions)})


class ThreadBlocks:
    """The blocks of the items [first, last), in order, read a few ahead in one thread of this process.

    One thread for all: shards are kept open, and no two threads may read from an open Parquet file.
    """

    def __init__(self, plan: Plan, rank: int, world: int, first: int, last: int, skip: int) -> None:
        """skip: global batches to leave out of the first item."""
        self._thread = ThreadPoolExecutor(1)
        self._left = (partial(read_block, plan, item, rank, world, skip if item == first else 0) for item in range(first, last))
        self._ahead = deque(self._thread.submit(read) for read in islice(self._left, AHEAD))

    def __iter__(self) -> Iterator[pa.Table]:
        while self._ahead:
            found = self._ahead.popleft().result()
            self._ahead.extend(self._thread.submit(read) for read in islice(self._left, 1))
            yield found

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)
