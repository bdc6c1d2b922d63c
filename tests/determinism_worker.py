"""What each of two processes does in test_determinism.py: whole runs by the worker's own function, and one whose loss has no deterministic form.

A module of its own, since spawned processes can't import test modules.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist

from hepdist.errors import RecipeError
from hepdist.tasks.classification import Classification

WORLD = 2


def worker(rank: int, port: int, runs: list[dict[str, Any]], refused: dict[str, Any], out: str) -> None:
    """runs, refused: what `work` is called with."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(WORLD), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    from hepdist.training.worker import work

    switched = []
    for config in runs:
        work(config)
        switched.append(torch.are_deterministic_algorithms_enabled())
    plain = Classification.loss

    def loss(self: Classification, model: Any, batch: Any) -> torch.Tensor:
        return plain(self, model, batch).put_(torch.tensor([0]), torch.zeros(1))  # which of two values stays is left open, on CPUs too

    Classification.loss = loss  # type: ignore[method-assign]
    sentence = ""
    try:
        work(refused)
    except RecipeError as error:
        sentence = str(error)
    if rank == 0:
        torch.save((switched, sentence), out)
    dist.destroy_process_group()
