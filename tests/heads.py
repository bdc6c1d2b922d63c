"""A real `ray start --head` of a test's own, with its own folder, ports and token; no assertions on what runs there."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RAY = Path(sys.executable).with_name("ray")


@contextmanager
def head(log: Path, cpus: int = 3, metrics: int = 0) -> Iterator[dict[str, str]]:
    """The environment of a client of the head, which ends with the block. metrics: the port for Prometheus, where it matters which one."""
    dashboard = free_port()
    ports = {
        "port": free_port(),
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": free_port(),
        "metrics-export-port": metrics or free_port(),
    }  # other Rays may have the usual ones
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with tempfile.TemporaryDirectory(
        prefix="hd-", dir="/tmp", ignore_cleanup_errors=True
    ) as short:  # a socket's path may have 107 characters
        own = {
            "RAY_TMPDIR": short,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            "RAY_agent_register_timeout_ms": "120000",  # on a busy machine a node gives itself up that waits for its own agents
        }
        command = [RAY, "start", "--head", "--block", "--num-cpus", str(cpus), "--object-store-memory", str(400 << 20)]
        command += [f"--{name}={number}" for name, number in ports.items()]
        with open(log, "wb") as file, subprocess.Popen(command, env=plain | own, stdout=file, stderr=file) as process:
            try:
                until = time.monotonic() + 90
                while "will now block" not in log.read_text():
                    assert time.monotonic() < until and process.poll() is None, log.read_text()
                    time.sleep(0.5)
                address = f"http://127.0.0.1:{dashboard}"
                yield plain | own | {"RAY_ADDRESS": address, "RAY_API_SERVER_ADDRESS": address}
            finally:
                process.terminate()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
