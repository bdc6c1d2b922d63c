"""Ray Train's trainer for torch workers, without torch in the driver and the controller: they would pay seconds to import it."""

from __future__ import annotations

import os
import socket
from typing import Any, cast

from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer


class Trainer(DataParallelTrainer):
    """A DataParallelTrainer that starts only the actors it uses; each saved one is 2 to 3 CPU seconds of every start.

    Streams are built in the workers, so no dataset manager is needed. The actor that removes placement groups after a
    controller's death is needed on a cluster that outlives the run, not on a Ray that ends with its driver, and the one
    that asks an autoscaler for machines on a cluster that has one.
    """

    def __init__(self, *args: Any, own_ray: bool, **kwargs: Any) -> None:
        self.unused = (DatasetsCallback, PlacementGroupCleanerCallback) if own_ray else (DatasetsCallback,)
        self.own_ray = own_ray
        super().__init__(*args, **kwargs)

    def _create_default_callbacks(self) -> list[Any]:
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, self.unused)]

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        if self.own_ray:
            parts["scaling_policy"] = Alone(cast(Any, self.scaling_config))
        return super()._initialize_and_run_controller(**parts)


class Alone(FixedScalingPolicy):
    """As many workers as were asked for, on machines that are there: no autoscaler is asked, which takes an actor."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Would make the actor."""

    def _maybe_send_resource_request(self) -> None:
        """Would ask it."""


def run_worker(config: dict[str, Any]) -> None:
    """The training function that Ray Train calls on each worker: join the process group, then work."""
    _join(config["device"])
    from hepdist.training.worker import work

    work(config)


def _join(device: str) -> None:
    """Make the torch process group of this attempt's workers; rank 0 offers an address, Ray Train carries it to the others."""
    from ray import train
    from ray.train.collective import broadcast_from_rank_zero

    context = train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    address, port = broadcast_from_rank_zero(_free_address() if rank == 0 else None)
    # DeepSpeed reads these; a worker sees one GPU alone, whatever its local rank
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK="0", MASTER_ADDR=address, MASTER_PORT=str(port))
    import torch.distributed as dist

    dist.init_process_group("nccl" if device == "cuda" else "gloo", init_method=f"tcp://{address}:{port}", rank=rank, world_size=world)
    if rank == 0:
        _end_messenger()


def _end_messenger() -> None:
    """End the actor that carried the address: all have it, nothing else here uses it, and it would wake up 100 times a second."""
    import ray
    from ray.train.v2._internal.execution.context import get_train_context

    ray.kill(get_train_context().get_synchronization_actor())


def _free_address() -> tuple[str, int]:
    import ray

    with socket.socket() as free:
        free.bind(("", 0))
        return ray.util.get_node_ip_address(), free.getsockname()[1]
