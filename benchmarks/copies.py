"""What every step between the page cache and a training step costs in our stream, each measured alone (stream.py --copies)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import torch
from common import machine, markdown, median
from peers import BATCH, plan_of

from hepdist.cluster import connect
from hepdist.shards import read
from hepdist.shards.block import read_block
from hepdist.shards.format import decode
from hepdist.shards.manifest import Manifest

REPEATS = 15


def report(cohort: Path) -> None:
    """Print microseconds an image, least and median of REPEATS; the least is what the machine can do, the rest is its load."""
    import ray

    torch.set_num_threads(1)
    manifest, plan = Manifest.load(cohort), plan_of(cohort)
    rows = len(plan.train_rows(0, 0, 0, 1)[0])
    source = np.random.default_rng(0).integers(0, 256, rows * manifest.fields["image"].nbytes, dtype=np.uint8)
    target = np.empty_like(source)
    table: list[tuple[str, str, list[float]]] = []

    def step(name: str, copies: str, work: Callable[[], object]) -> None:
        work()
        table.append((name, copies, [_seconds(work) / rows * 1e6 for _ in range(REPEATS)]))

    with connect():
        step("the mark: one memcpy into memory that is there", "1", lambda: np.copyto(target, source))
        step("plan: the rows of a window, in order", "0", lambda: plan.train_rows(0, 0, 0, 1))
        step("read and gather: mapped pages -> block (in use)", "1", lambda: read_block(plan, 0, 0, 1))
        with patch.object(read, "row_offsets", lambda *_: None):
            read._offsets.cache_clear()
            step("the same where pages must be decoded (not in use)", "2", lambda: read_block(plan, 0, 0, 1))
        read._offsets.cache_clear()
        block = read_block(plan, 0, 0, 1)
        refs = [ray.put(block) for _ in range(3)]

        def store() -> None:
            refs.append(ray.put(block))
            del refs[0]

        step("block -> Ray's object store", "1", store)
        step("object store -> block in the worker", "0", lambda: ray.get(refs[-1]))
        shared: pa.Table = ray.get(refs[-1])
        field = manifest.fields["image"]

        def views() -> list[torch.Tensor]:
            parts = [shared.slice(first, BATCH).column("image") for first in range(0, rows, BATCH)]
            return [torch.from_numpy(decode(field, part)) for part in parts]

        step("block -> batches of 64 as tensors", "0", views)
        batches = views()
        step("the benchmark's consumer: every byte summed", "0", lambda: [batch.view(-1).view(torch.int64).sum() for batch in batches])
    print(machine())
    print(markdown(["step", "copies", "us an image, least", "median"], [[n, c, f"{min(t):.1f}", f"{median(t):.1f}"] for n, c, t in table]))


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
