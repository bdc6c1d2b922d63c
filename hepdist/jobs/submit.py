"""From an order to a job that runs on a cluster: its working folder, its name, and the client that talks to the cluster's head."""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hepdist
from hepdist.errors import RunError
from hepdist.jobs.order import Order, order

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

ENVIRONMENT = {"PYTHONUNBUFFERED": "1"}
"""Of the job's processes: their log is read while it is written."""


def submit(verb: str, words: Sequence[str], address: str) -> tuple[JobSubmissionClient, str]:
    """Start `hepdist VERB WORDS` as a job and return the client with the job's id.

    Raises RecipeError before anything is sent where the command can't work on that cluster, and RunError where the cluster can't be reached or
    refuses.
    """
    client = connect(address)
    here = is_here(address)
    found = order(verb, words, here=here, cluster=address)
    python = sys.executable if here else "python"  # there it is the one on the nodes' PATH, as Ray itself
    name = f"{found.verb}-{found.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    with tempfile.TemporaryDirectory() as folder:
        pack(found, Path(folder))
        environment: dict[str, Any] = {"working_dir": folder, "env_vars": ENVIRONMENT}
        entry = f"{shlex.quote(python)} -m hepdist {found.verb} {shlex.join(found.arguments)}"
        try:
            return client, client.submit_job(entrypoint=entry, submission_id=name, runtime_env=environment, metadata=found.metadata)
        except RuntimeError as error:
            raise RunError(f"the cluster at {address} took no job: {_last_line(error)}") from None


def connect(address: str) -> JobSubmissionClient:
    """Raises RunError, with what to do, where nobody answers or the token is missing or wrong."""
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except ConnectionError:
        raise RunError(
            f"no cluster answers at {address}; start one with 'ray start --head', open the tunnel to yours (docs/cluster.md), or give --address"
        ) from None
    except Exception as error:  # Ray has a class of its own for each of its versions
        said = str(error)
        if "oken" not in said and "401" not in said and "403" not in said:
            raise RunError(f"the cluster at {address} can't be used: {_last_line(error)}") from None
        raise RunError(
            f"the cluster at {address} refuses this client: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) to the cluster's token"
        ) from None


def is_here(address: str) -> bool:
    """Whether every node of the cluster is this machine, so that local paths hold there; a tunnel's loopback address says nothing."""
    import psutil
    from ray.util.state import list_nodes

    mine = {entry.address for entries in psutil.net_if_addrs().values() for entry in entries}
    nodes = list_nodes(address=address, filters=[("state", "=", "ALIVE")])
    return bool(nodes) and all(node.node_ip in mine for node in nodes)


def pack(found: Order, folder: Path) -> None:
    """Lay out the job's working folder: this code, so that the cluster runs what was tried here, and the order's files."""
    code = Path(hepdist.__file__).parent
    shutil.copytree(code, folder / "hepdist", ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    for name, text in found.files.items():
        (folder / name).write_text(text, encoding="utf-8")


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
