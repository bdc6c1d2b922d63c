"""What the workers of a search do: one training run after another, so that a trial starts in processes that have imported and met already.

Rank 0 holds the line to its trial. Both sides send JSON, never pickles. The trial says {"do": "train", "config"} or {"do": "end"}; after each
validation the worker sends {"said": "judged", ...} and hears {"do": "go"} or {"do": "stop"}, and at the end of a run it sends {"said": "done"}.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable
from multiprocessing.connection import Client, Connection
from typing import Any

LOOK_S = 60.0
"""How long the other ranks wait for rank 0 at a time: a process group gives up after half an hour of silence, an idle trial need not."""


def send(line: Connection, message: dict[str, Any]) -> None:
    line.send_bytes(json.dumps(message).encode())


def receive(line: Connection) -> dict[str, Any]:
    """Waits; raises EOFError where the other side is gone."""
    return dict(json.loads(line.recv_bytes()))


def serve(line: Connection | None, noticed: Callable[[], bool]) -> None:
    """Work for a trial until it says that this is the end. line: rank 0's; None on the other ranks."""
    import torch

    from hepdist.training.worker import work

    def judge_run(facts: dict[str, Any]) -> bool:
        assert line is not None
        send(line, {"said": "judged", **facts})
        return bool(receive(line)["do"] == "stop")

    while (order := _next(line))["do"] == "train":
        work(order["config"], noticed, judge_run)
        gc.unfreeze()  # work() froze what it found; a network that was trained lies in cycles
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if line is not None:
            send(line, {"said": "done"})


def _next(line: Connection | None) -> dict[str, Any]:
    """What to do now, on all ranks alike."""
    import torch.distributed as dist

    while True:
        order: list[dict[str, Any] | None] = [None]
        if line is not None and line.poll(LOOK_S):
            order = [receive(line)]
        if dist.get_world_size() > 1:
            dist.broadcast_object_list(order, src=0)
        if order[0] is not None:
            return order[0]


def serve_under_train(config: dict[str, Any]) -> None:
    """The training function of a trial's Ray Train run; `config` is {'address', 'key', 'device'}."""
    from ray import train

    from hepdist.training.leave import node_is_drained
    from hepdist.training.trainer import join_group

    join_group(config["device"])
    rank = train.get_context().get_world_rank()
    line = Client(tuple(config["address"]), authkey=bytes.fromhex(config["key"])) if rank == 0 else None
    serve(line, node_is_drained())


def serve_inside(line: Connection, device: str) -> None:
    """The same for one worker that is a thread of the trial's own process: no process starts at all."""
    import torch.distributed as dist

    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")  # DeepSpeed reads them
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device == "cuda" else "gloo", store=dist.HashStore(), rank=0, world_size=1)
    serve(line, lambda: False)
