"""Ray Train's trainer for torch workers, without torch in the driver and the controller: they would pay seconds to import it."""

from __future__ import annotations

import os
import socket
import traceback
from typing import TYPE_CHECKING, Any, cast

import ray
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy
from ray.train.v2.api import data_parallel_trainer
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from hepdist.training.failures import Controller, Failures

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

    from hepdist.training.stop import Stop


class Trainer(DataParallelTrainer):
    """A DataParallelTrainer that starts only the actors it uses; each saved one is 2 to 3 CPU seconds of every start.

    Streams are built in the workers, so no dataset manager is needed. The actor that removes placement groups after a
    controller's death is needed on a cluster that outlives the run, not on a Ray that ends with its driver, and the one
    that asks an autoscaler for machines on a cluster that has one.
    """

    def __init__(
        self,
        *args: Any,
        own_ray: bool,
        elastic: bool,
        stop: Stop,
        trial: bool = False,
        borrowed: PlacementGroup | None = None,
        **kwargs: Any,
    ) -> None:
        """own_ray: Ray ends with this process; elastic: workers may come and go; stop: what signals ask for, and told whom to ask;
        trial: of a search, where what a worker raises is not tried again; borrowed: the placement group to run in, if there is one."""
        self.stop, self.trial, self.borrowed = stop, trial, borrowed
        self.unused = (DatasetsCallback, PlacementGroupCleanerCallback) if own_ray else (DatasetsCallback,)
        self.alone = own_ray and not elastic
        super().__init__(*args, **kwargs)

    def _create_default_callbacks(self) -> list[Any]:
        return [*(callback for callback in super()._create_default_callbacks() if not isinstance(callback, self.unused)), Meeting()]

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        vars(data_parallel_trainer)["TrainController"] = Controller  # Ray makes an actor of it and has no argument for it
        parts["failure_policy"] = Failures(cast(Any, self.run_config.failure_config), trial=self.trial)
        parts["borrowed"] = self.borrowed
        if self.alone:
            parts["scaling_policy"] = Alone(cast(Any, self.scaling_config))
        return super()._initialize_and_run_controller(**parts)

    def _register_sigint_handler(self, controller: Any) -> None:
        """Ray's own handler would end workers without saving."""
        self.stop.controller = controller


def let_go(error: BaseException | None) -> None:
    """Forget the locals of the frames that an error came through: Ray's hold the controller, an actor that would live as long as somebody
    keeps the error, as a notebook does."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


class Meeting(WorkerGroupCallback):
    """Tells a group's workers where to meet. Ray's own messenger for that is an actor that takes seconds to come up and then wakes up 100
    times a second; nothing else here uses it."""

    def after_worker_group_start(self, worker_group: Any) -> None:
        address, port = worker_group.execute_single(0, _free_address)
        worker_group.execute(_note, address, port)
        ray.kill(worker_group.get_worker_group_state().sync_actor)


class Alone(FixedScalingPolicy):
    """As many workers as were asked for, on machines that are there: no autoscaler is asked, which takes an actor."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Would make the actor."""

    def _maybe_send_resource_request(self) -> None:
        """Would ask it."""


def run_worker(config: dict[str, Any]) -> None:
    """The training function that Ray Train calls on each worker: join the process group, then work."""
    join_group(config["device"])
    from hepdist.training.leave import node_is_drained
    from hepdist.training.worker import work

    work(config, node_is_drained())


def join_group(device: str) -> None:
    """Make the torch process group of this attempt's workers, at the address that Meeting has left in the environment."""
    from ray import train

    context = train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    # DeepSpeed reads these; a worker sees one GPU alone, whatever its local rank
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK="0")
    import torch.distributed as dist

    dist.init_process_group("nccl" if device == "cuda" else "gloo", rank=rank, world_size=world)


def _note(address: str, port: int) -> None:
    os.environ.update(MASTER_ADDR=address, MASTER_PORT=str(port))


def _free_address() -> tuple[str, int]:
    with socket.socket() as free:
        free.bind(("", 0))
        return ray.util.get_node_ip_address(), free.getsockname()[1]
