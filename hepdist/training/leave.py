"""Leaving a run before its end: all workers save after the same step, since a node is taken away or somebody ends the run. Costs a step nothing.

Imports neither torch nor Ray: the controller's process, which hands on that the run is to stop, has no use for torch.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

ASKED = threading.Event()
"""In a worker's process: somebody ended the run, by SIGTERM or Ctrl-C."""
NOTICED, LEAVE_AFTER = "hepdist/noticed", "hepdist/leave_after"
_runs = itertools.count()
"""Of this process: a search has one group of workers train run after run, and each agrees under keys of its own."""


class Store(Protocol):
    """What is used of torch.distributed's store."""

    def add(self, key: str, amount: int) -> int: ...
    def set(self, key: str, value: str) -> None: ...
    def get(self, key: str) -> bytes: ...
    def check(self, keys: list[str]) -> bool: ...


class Leave:
    """Called after each step, alike on all ranks: whether all of them save and leave now.

    Ranks hear of a notice at different times, so they agree through the process group's store, which nobody asks before
    hearing. A rank that hears says so once. Rank 0, when all have, names the next step as the last. No rank can be past that
    step, nor miss its name: each step ends in an exchange of gradients, to which rank 0 contributes after it named the step, and
    whoever has heard looks after every step. On a GPU the exchange is awaited first, for the host runs ahead of the device.
    """

    def __init__(self, rank: int, world: int, store: Store, noticed: Callable[[], bool], device: torch.device | None = None) -> None:
        """noticed: whether this rank has heard; asked after every step, so it must cost no more than reading a variable."""
        self.rank, self.world, self.store, self.noticed, self.device = rank, world, store, noticed, device
        self.said = False
        self.last: int | None = None
        self.stopped = False
        """Once all leave: because the run was ended, not because of a node."""

    def __call__(self, step: int) -> bool:
        if not self.said and not (self.noticed() or ASKED.is_set()):
            return False
        if self.device is not None and self.device.type == "cuda":
            import torch

            torch.cuda.synchronize(self.device)
        if not self.said:
            self.said = True
            self.store.add(NOTICED, 1)
        if self.last is None and self.rank == 0 and self.store.add(NOTICED, 0) == self.world:
            self.store.set(LEAVE_AFTER, f"{step + 1} {int(ASKED.is_set())}")
        # For rank 0 this question also waits until the store has taken the name in: set() does not.
        if self.last is None and self.store.check([LEAVE_AFTER]):
            last, stopped = self.store.get(LEAVE_AFTER).decode().split()
            self.last, self.stopped = int(last), stopped == "1"
        return step == self.last


def of_this_group(noticed: Callable[[], bool], device: torch.device) -> Leave:
    """For this process's rank in the process group; noticed: as in Leave, or `node_is_drained()` under Ray Train."""
    import torch.distributed as dist
    from torch.distributed import distributed_c10d

    store = dist.PrefixStore(f"run{next(_runs)}", distributed_c10d._get_default_store())
    return Leave(dist.get_rank(), dist.get_world_size(), store, noticed, device)


def node_is_drained() -> Callable[[], bool]:
    """What says whether a node of the group is taken away, which Ray Train's watcher marks in every worker.

    Ray's own ray.train.get_preemption_info() is a meeting of all workers at an actor: some milliseconds a step.
    """
    from ray.train.v2._internal.execution.context import get_train_context

    mark = get_train_context().preemption_context
    return lambda: mark.preemption_info is not None


def ask() -> None:
    """Runs in a worker's actor, beside the thread that trains."""
    ASKED.set()


def ask_workers(controller: Any) -> bool:
    """Runs in Ray Train's controller: ask each worker to leave; False where there are none at the moment."""
    group = controller.get_worker_group()
    if group is None or not group.has_started():
        return False
    for worker in group.get_workers():
        worker.execute_async(ask)
    return True


def preempted() -> Exception:
    """What a worker raises to leave because of a node: Ray Train counts it as a preemption and starts the group elsewhere at once.

    A worker that returns would end the run, and any other error counts as a failure (ray/train/v2, controller and failure policy).
    """
    from ray.exceptions import RayActorError

    return RayActorError(error_msg="this worker saved and left, since a node of its group is taken away", preempted=True)
