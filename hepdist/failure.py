"""The real error of a failed training, in one screen; knows how Ray wraps exceptions, without importing Ray."""

from __future__ import annotations

from hepdist.errors import HepdistError

SCREEN_LINES = 40


def from_ray(error: BaseException) -> bool:
    """Whether Ray raised this: a failed worker, task or cluster, not a bug of the calling process."""
    return any(base.__module__.split(".")[0] == "ray" for base in type(error).__mro__)


def worker_story(error: BaseException) -> str:
    """The failed worker's traceback, its last line the exception; a sentence alone where hepdist refused on purpose.

    Ray Train wraps worker errors by rank (WorkerGroupError.worker_failures), each in an exception that prints as the remote
    traceback; a task's error keeps its origin as `cause`. Of many ranks the lowest is told: the others failed with it.
    """
    failures = getattr(error, "worker_failures", None)
    if failures:
        return worker_story(failures[min(failures)])
    if controller := getattr(error, "controller_failure", None):
        return worker_story(controller)
    origin = getattr(error, "_base_exc", None) or getattr(error, "cause", None) or error
    if isinstance(origin, HepdistError):
        return f"error: {origin}"
    lines = str(error).strip().splitlines() or [repr(error)]
    if len(lines) > SCREEN_LINES:
        lines = [lines[0], f"  ... {len(lines) - SCREEN_LINES} lines left out ...", *lines[2 - SCREEN_LINES :]]
    return "\n".join(lines)
