"""The real error of a failed training, in one screen; knows how Ray wraps exceptions, without importing Ray."""

from __future__ import annotations

import re

from hepdist.errors import HepdistError

SCREEN_LINES = 40
RANKS = re.compile(r"^\[Rank [\d,]+ Error Snippet\]:\n", re.MULTILINE)
"""How Ray Train heads each kind of error in a WorkerGroupError's message."""
BYSTANDER = re.compile(r"gloo|nccl|connection (closed|reset)|timed out waiting", re.IGNORECASE)
"""In the last line of a rank that failed because another rank was gone."""


def from_ray(error: BaseException) -> bool:
    """Whether Ray raised this: a failed worker, task or cluster, not a bug of the calling process."""
    return any(base.__module__.split(".")[0] == "ray" for base in type(error).__mro__)


def worker_story(error: BaseException) -> str:
    """The failed worker's traceback, its last line the exception; a sentence alone where hepdist refused on purpose.

    Of several ranks' errors the first is told that is not the echo of another's: a collective breaks on every rank when one dies.
    """
    failures = getattr(error, "worker_failures", None) or {0: getattr(error, "controller_failure", error)}
    for _, failure in sorted(failures.items()):
        origin = getattr(failure, "_base_exc", None) or getattr(failure, "cause", None) or failure
        if isinstance(origin, HepdistError):
            return f"error: {origin}"
    text = getattr(failures[min(failures)], "traceback_str", None) or str(error)
    kinds = [kind.strip().splitlines() for kind in RANKS.split(text)[1:]] or [text.strip().splitlines()]
    lines = next((kind for kind in kinds if kind and not BYSTANDER.search(kind[-1])), kinds[0]) or [repr(error)]
    if len(lines) > SCREEN_LINES:
        lines = [lines[0], f"  ... {len(lines) - SCREEN_LINES + 2} lines left out ...", *lines[2 - SCREEN_LINES :]]
    return "\n".join(lines)
