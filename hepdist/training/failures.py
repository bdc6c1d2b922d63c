"""Which failures of a run are worth another attempt, and the start of a worker group that a kill at any moment leaves clean.

Two gaps of Ray Train (2.60) are closed here, both found by killing workers while they start (tests/chaos): a worker that ends between
its set-up and the launch of its training function ended the whole run, and its group kept its resources, for which the next one waited.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

from ray.exceptions import RayActorError
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError
from ray.train.v2._internal.execution.controller.controller import TrainController
from ray.train.v2._internal.execution.failure_handling.default import DefaultFailurePolicy
from ray.train.v2._internal.execution.failure_handling.failure_policy import FailureDecision
from ray.train.v2._internal.execution.worker_group.placement_group_handle import DefaultPlacementGroupHandle, PlacementGroupHandle
from ray.train.v2._internal.execution.worker_group.worker_group import WorkerGroup
from ray.util.placement_group import PlacementGroup

from hepdist.failure import MEMORY, refusal


class Failures(DefaultFailurePolicy):
    """Ray's policy, but what hepdist refuses on purpose (a damaged shard, a diverged loss) is not tried again: it would fail again.

    In a search's trial nothing is that a worker raised, or for which it had no memory; a process or machine that went away is replaced.
    """

    def __init__(self, failure_config: Any, *, trial: bool = False) -> None:
        super().__init__(failure_config)
        self.trial = trial

    def make_decision(self, training_failed_error: Any) -> FailureDecision:
        failures = getattr(training_failed_error, "worker_failures", {})
        if refusal(failures) or (self.trial and not any(_went_away(failure) for failure in failures.values())):
            return FailureDecision.RAISE
        return super().make_decision(training_failed_error)


def _went_away(failure: BaseException) -> bool:
    """Whether a worker's process is gone, for another reason than memory; its peers then raise errors of their own."""
    lost = getattr(failure, "health_check_failure", None) or getattr(failure, "_base_exc", None) or failure
    return isinstance(lost, RayActorError) and not MEMORY.search(str(lost))


class Group(WorkerGroup):
    """A worker group whose failed start gives everything back and counts as a failed start, however far it had come."""

    borrowed: ClassVar[PlacementGroup | None] = None
    """Where workers go instead of into a placement group of their own: that of a search's trial, which outlives this group."""

    def _create_placement_group(self, *parts: Any) -> PlacementGroupHandle:
        return Borrowed(self.borrowed) if self.borrowed else super()._create_placement_group(*parts)

    def _start(self) -> None:
        try:
            super()._start()
        except Exception as error:
            if self._worker_group_state is not None:
                self._worker_group_state.shutdown()
                self._clear_state()
            if isinstance(error, RayActorError):
                raise WorkerGroupStartupFailedError("a worker ended while its training function was launched") from error
            raise


class Borrowed(DefaultPlacementGroupHandle):
    """A placement group that somebody else will remove."""

    def shutdown(self) -> None:
        """Leaves it as it is."""


class Controller(TrainController):
    """Ray Train's controller with such groups."""

    worker_group_cls = Group

    def __init__(self, *parts: Any, borrowed: PlacementGroup | None = None, **named: Any) -> None:
        super().__init__(*parts, **named)
        self.worker_group_cls = cast(Any, type("Group", (Group,), {"borrowed": borrowed}))
