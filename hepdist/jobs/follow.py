"""A job as the person who submitted it sees it: its log as it is written, its end with its exit code, and Ctrl-C, which asks first."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from hepdist.console import plain
from hepdist.errors import RunError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

INTERRUPTED, TERMINATED = 130, 143
STATUS_S = 0.5
"""Between two looks at how a job is doing, once its log has ended or while it stops."""


def follow(client: JobSubmissionClient, job: str, ask: Callable[[str], bool] | None = None) -> int:
    """Print a job's log until it ends; returns its exit code, 143 where it was stopped, 130 where it goes on without this process.

    ask: a yes-or-no question to the person at the terminal; None where nobody sits there, and Ctrl-C leaves the job alone.
    Raises RunError where the cluster does not answer any more.
    """
    try:
        asyncio.run(_print_log(client, job))
        return ended(client, job)
    except KeyboardInterrupt:
        if ask is None or not ask(f"stop job {job}?"):
            plain(f"job {job} goes on; see it with: ray job logs --address {client.get_address()} --follow {job}")
            return INTERRUPTED
        client.stop_job(job)
        return ended(client, job)
    except OSError as error:
        raise RunError(
            f"the connection to {client.get_address()} is lost ({type(error).__name__}); job {job} goes on, see it with: ray job logs --follow {job}"
        ) from None


def ended(client: JobSubmissionClient, job: str) -> int:
    """Wait until a job has ended, say how, and return its exit code; the last line of a failed one's log is said again."""
    while not (info := client.get_job_info(job)).status.is_terminal():
        time.sleep(STATUS_S)
    status = info.status.value
    if status == "SUCCEEDED":
        plain(f"job {job} succeeded")
        return 0
    if status == "STOPPED":
        plain(f"job {job} was stopped")
        return TERMINATED
    plain(f"job {job} failed: {_reason(client, job, info)}")
    return info.driver_exit_code or 1


def _reason(client: JobSubmissionClient, job: str, info: JobDetails) -> str:
    """What its driver said last, else what Ray says of a driver that never ran."""
    lines = [line for line in client.get_job_logs(job).splitlines() if line.strip()]
    return lines[-1] if lines else (info.message or "for an unknown reason")


async def _print_log(client: JobSubmissionClient, job: str) -> None:
    async for text in client.tail_job_logs(job):
        sys.stdout.write(text)
        sys.stdout.flush()
