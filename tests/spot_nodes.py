"""A second node for the tests' Ray, at an address of its own on this machine, and what Ray itself says of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RAY = Path(sys.executable).with_name("ray")


@dataclass
class Node:
    """A node that `ray start` runs."""

    gcs: Any
    ip: str
    process: subprocess.Popen[bytes]

    def info(self) -> Any:
        """ray.rpc.GcsNodeInfo of the node that came last to this address; None: it has not joined."""
        infos = [node for node in self.gcs.get_all_node_info(timeout=10).values() if node.node_manager_address == self.ip]
        return max(infos, key=lambda node: node.start_time_ms, default=None)

    def is_alive(self) -> bool:
        info = self.info()
        return info is not None and info.state == info.GcsNodeState.Value("ALIVE")

    def id(self) -> str:
        return str(self.info().node_id.hex())

    def draining(self) -> dict[str, int]:
        """Deadline, UNIX milliseconds, of every draining node of the cluster."""
        import ray

        return dict(ray._private.state.state.get_draining_nodes())

    def death(self) -> str:
        """Ray's reason, once it knows that the node is gone."""
        until(lambda: not self.is_alive())
        death = self.info().death_info
        return str(death.Reason.Name(death.reason))


@contextmanager
def added_node(address: str, ip: str, resources: dict[str, float], cpus: int = 0) -> Iterator[Node]:
    """A node that has joined the cluster at `address`; ended with the block, if Ray has not ended it before."""
    import ray._raylet

    with tempfile.TemporaryDirectory(prefix="hep-") as short:  # whose address file misleads nobody
        command = [RAY, "start", "--address", address, "--node-ip-address", ip, "--block", "--num-cpus", str(cpus), "--num-gpus", "0"]
        command += ["--resources", json.dumps(resources), "--object-store-memory", str(100 << 20), "--disable-usage-stats"]
        environment, gcs = {**os.environ, "RAY_TMPDIR": short}, ray._raylet.GcsClient(address=address)
        for _ in range(5):  # on a busy machine a node gives itself up that waited 15 s for its own agents
            with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
                node = Node(gcs, ip, process)
                try:
                    until(lambda node=node: node.process.poll() is not None or node.is_alive())
                    if process.poll() is None:
                        yield node
                        return
                finally:
                    process.terminate()
        raise AssertionError("no node came up")


def occupant(**options: Any) -> Any:
    """A running actor that takes the resources of `options`."""
    import ray

    class Occupant:  # made here, so that it travels by value: other nodes do not see the tests' folder
        def there(self) -> None:
            """Answered once it runs."""

    actor = ray.remote(**options)(Occupant).remote()
    ray.get(actor.there.remote())
    return actor


def until(true: Callable[[], Any], seconds: float = 120.0) -> None:
    """Wait for it; AssertionError if it does not come."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
