"""What Ray would connect to: the cluster that RAY_ADDRESS names, and an address file that a dead Ray left behind."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

from hepdist.doctor.check import Check
from hepdist.doctor.machine import GIB, ray_temp


def address_file() -> Check:
    """The file by which Ray finds "the" cluster of this machine; one that outlived its cluster makes clean-up hang.

    Measured: with a stale file each run's end hung 12 s and stopped trials kept their workers (docs/architecture.md).
    """
    path = ray_temp() / "ray_current_cluster"
    if not path.is_file():
        return Check("Ray address file", "none")
    address = path.read_text().strip()
    if answers(address):
        return Check("Ray address file", f"{path} names a running Ray at {address}")
    return Check("Ray address file", f"{path} names {address}, where no Ray answers", "warning", f"rm {path}")


def ray_cluster() -> list[Check]:
    """The nodes and resources of the cluster in RAY_ADDRESS; one row that says so where runs start a Ray of their own."""
    address = os.environ.get("RAY_ADDRESS", "")
    if address in ("", "local"):
        return [Check("cluster", "RAY_ADDRESS is not set; each run starts a Ray of its own here")]
    if address.startswith(("http://", "https://")):
        return [Check("cluster", f"RAY_ADDRESS is {address}, a job server: use ray job submit")]
    if address.startswith("ray://"):
        fix = "submit the run as a job instead: RAY_ADDRESS=http://HEAD:8265 ray job submit ..."
        return [Check("cluster", f"RAY_ADDRESS is {address}, a Ray client address, which training can't use", "problem", fix)]
    if address != "auto" and not answers(address):
        fix = "start the cluster (ray start --head), correct RAY_ADDRESS or unset it"
        return [Check("cluster", f"RAY_ADDRESS is {address}, where no Ray answers", "problem", fix)]
    return _nodes(address)


def answers(address: str, seconds: float = 2.0) -> bool:
    """Whether something listens at host:port."""
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        return False
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=seconds):
            return True
    except OSError:
        return False


def _nodes(address: str) -> list[Check]:
    import ray

    connected_before = ray.is_initialized()
    try:
        if not connected_before:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        nodes = ray.nodes()
    except Exception as error:  # wrong version, wrong token, a head that starts or dies: Ray raises many kinds
        reason = (str(error).strip().splitlines() or [repr(error)])[0]
        return [
            Check("cluster", f"RAY_ADDRESS is {address}, but connecting failed: {reason}", "problem", "mend that, or unset RAY_ADDRESS")
        ]
    finally:
        if not connected_before:
            ray.shutdown()
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    head = Check("cluster", f"{address}: {_plural(len(alive), 'node')} alive, {len(nodes) - len(alive)} dead; {_resources(_sum(alive))}")
    return [head, *(Check(f"node {i + 1}", _resources(resources)) for i, resources in enumerate(alive))]


def _sum(parts: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(part.get(name, 0.0) for part in parts) for part in parts for name in part}


def _resources(resources: dict[str, Any]) -> str:
    gib = {name: resources.get(name, 0) / GIB for name in ("memory", "object_store_memory")}
    return (
        f"{_plural(resources.get('CPU', 0), 'CPU')}, {_plural(resources.get('GPU', 0), 'GPU')},"
        f" {gib['memory']:.1f} GiB memory, {gib['object_store_memory']:.1f} GiB object store"
    )


def _plural(count: float, noun: str) -> str:
    return f"{count:g} {noun}" + ("" if count == 1 else "s")
