"""The real error of a failed training, in one screen; knows how Ray wraps exceptions, without importing Ray."""

from __future__ import annotations

import re
from typing import Any

from hepdist.errors import HepdistError

SCREEN_LINES = 40
RANKS = re.compile(r"^\[Rank [\d,]+ Error Snippet\]:\n", re.MULTILINE)
"""How Ray Train heads each kind of error in a WorkerGroupError's message."""
BYSTANDER = re.compile(r"gloo|nccl|connection (closed|reset)|timed out waiting", re.IGNORECASE)
"""In the last line of a rank that failed because another rank was gone."""
MEMORY = re.compile(r"out of memory|OutOfMemory|can't allocate memory|running low on memory", re.IGNORECASE)
"""In the story of a worker that wanted more memory than there is: torch's words, on a GPU and on a CPU, and Ray's."""
ADVICE = (
    "hepdist: not enough memory; take a smaller train.micro_batch (evaluation.batch, if this was validation), set model.checkpointing=true,"
    " or share the state among workers with train.zero_stage=2 or 3"
)


def from_ray(error: BaseException) -> bool:
    """Whether Ray raised this: a failed worker, task or cluster, not a bug of the calling process."""
    return any(base.__module__.split(".")[0] == "ray" for base in type(error).__mro__)


def refusal(failures: dict[int, Any]) -> HepdistError | None:
    """The error with which a worker stopped on purpose, if one of the failures by rank is one; the other workers fail because of it."""
    for _, failure in sorted(failures.items()):
        origin = getattr(failure, "_base_exc", None) or getattr(failure, "cause", None) or failure
        if isinstance(origin, HepdistError):
            return origin
    return None


def worker_story(error: BaseException) -> str:
    """The failed worker's traceback, its last line the exception; a sentence alone where hepdist refused on purpose.

    Of several ranks' errors the first is told that is not the echo of another's: a collective breaks on every rank when one dies.
    """
    failures = getattr(error, "worker_failures", None) or {0: getattr(error, "controller_failure", error)}
    if refused := refusal(failures):
        return f"error: {refused}"
    text = getattr(failures[min(failures)], "traceback_str", None) or str(error)
    kinds = [kind.strip().splitlines() for kind in RANKS.split(text)[1:]] or [text.strip().splitlines()]
    lines = next((kind for kind in kinds if kind and not BYSTANDER.search(kind[-1])), kinds[0]) or [repr(error)]
    if len(lines) > SCREEN_LINES:
        lines = [lines[0], f"  ... {len(lines) - SCREEN_LINES + 2} lines left out ...", *lines[2 - SCREEN_LINES :]]
    return "\n".join([*lines, ADVICE] if MEMORY.search(text) else lines)
