"""The same work on many things: in this process, or in several of a Ray cluster as one Ray Data pipeline; knows nothing of ingest."""

from __future__ import annotations

import ctypes
import functools
import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import pyarrow as pa

AT_ONCE = 256
"""Items of `as_map` that a process takes at once."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt (malloc.h)."""
Make = Callable[..., Callable[[Any], Any]]


class Each(Protocol):
    """Calls `make(*arguments)` once a process, and what that gives on every item: yields (index, result) as they are ready."""

    def __call__(self, make: Make, arguments: tuple[Any, ...], items: Sequence[Any]) -> Iterator[tuple[int, Any]]: ...


def here(make: Make, arguments: tuple[Any, ...], items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """In this process, in order."""
    if items:
        work = make(*arguments)
        for index, item in enumerate(items):
            yield index, work(item)


@contextmanager
def processes(count: int | None) -> Iterator[Each]:
    """An `Each` over `count` processes, one CPU each; 1: this process; None: one a CPU of the cluster."""
    if count == 1:
        yield here
        return
    from hepdist.cluster import connect

    with connect(train=False) as cluster:
        yield _Pipeline(count or max(1, int(cluster.cpus)))


def as_map(each: Each) -> Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]:
    """An `Each` in the form of `map`: results in order, for work so small that a process takes hundreds of it at once."""

    def ordered(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        groups = [items[first : first + AT_ONCE] for first in range(0, len(items), AT_ONCE)]
        early: dict[int, list[Any]] = {}
        due = 0
        for index, results in each(_Several, (function,), groups):
            early[index] = results
            while due in early:
                yield from early.pop(due)
                due += 1

    return ordered


class _Several:
    def __init__(self, function: Callable[[Any], Any]):
        self._function = function

    def __call__(self, items: Sequence[Any]) -> list[Any]:
        return [self._function(item) for item in items]


class _Pipeline:
    def __init__(self, count: int):
        self._count = count

    def __call__(self, make: Make, arguments: tuple[Any, ...], items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        if not items:
            return
        import ray
        from ray.data import DataContext, TaskPoolStrategy

        context = DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.target_max_block_size = None  # a result is one block, whatever its size
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        shared = ray.put(pickle.dumps((make, arguments)))  # once, not with each item
        blocks = [pa.table({"index": [index], "item": [pickle.dumps(item)]}) for index, item in enumerate(items)]
        with DataContext.current(context):
            results = ray.data.from_arrow(blocks).map_batches(
                functools.partial(_work, shared=[shared]),
                batch_size=None,
                batch_format="pyarrow",
                num_cpus=1,
                compute=TaskPoolStrategy(size=self._count),
            )
        for batch in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            assert isinstance(batch, pa.Table)
            for index, result in zip(batch["index"].to_pylist(), batch["result"], strict=True):
                yield index, pickle.loads(result.as_buffer())


_made: dict[str, Callable[[Any], Any]] = {}
"""What `make` gave in this process: Ray runs task after task in the same one, and a source takes seconds to open."""


def _work(batch: pa.Table, shared: list[Any]) -> pa.Table:
    import ray

    if shared[0].hex() not in _made:
        _keep_freed_memory()
        _made.clear()
        make, arguments = pickle.loads(ray.get(shared[0]))
        _made[shared[0].hex()] = make(*arguments)
    work = _made[shared[0].hex()]
    results = [pickle.dumps(work(pickle.loads(item.as_buffer()))) for item in batch["item"]]
    return pa.table({"index": batch["index"], "result": pa.array(results, pa.large_binary())})


def _keep_freed_memory() -> None:
    """Let this process use freed blocks of up to 32 MiB again. glibc gives them back to the system, which faults in each new one page by
    page: to copy 2 MiB took 1.5 ms instead of 0.2, and a radiograph is copied several times on its way.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return
    mallopt(M_MMAP_THRESHOLD, 32 << 20)
    mallopt(M_TRIM_THRESHOLD, 256 << 20)
