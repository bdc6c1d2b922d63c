"""A cluster on this machine whose autoscaler starts and ends nodes: Ray's own autoscaler (v2) over its fake cloud; no assertions here.

`ray.cluster_utils.AutoscalingCluster` does not run from the wheel (a file is missing), so the head is started by our own configuration, as
`ray up` would. A node is a raylet with one CPU, a child of the autoscaler's process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml
from heads import RAY, free_port

from chaos.watch import kill, training_workers

HEAD = "f" * 51 + "00000"
"""The fake cloud numbers its nodes upwards from here."""
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
IDLE_S = 6.0
NOTICE = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 10_000,
    "health_check_failure_threshold": 3,
}
"""As cluster.yaml has it."""
QUIET = {
    "RAY_AUTH_MODE": "disabled",  # as in every client that is told nothing; `ray start` alone asks for a token by default
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": HEAD,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # where others run at 15, ours would starve
    "RAY_agent_register_timeout_ms": "120000",  # on a busy machine a node gives itself up that waits for its own agents
}


class Cloud:
    """The running cluster, seen from outside: which nodes there are, and since when."""

    def __init__(self, address: str, head: psutil.Process) -> None:
        import ray._raylet

        self.address, self._head = address, head
        self._gcs = ray._raylet.GcsClient(address=address)
        self.began = time.monotonic()
        self.history: list[tuple[float, int]] = []
        """(seconds since `ask`, nodes besides the head) at each change."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def ask(self) -> None:
        """What follows is a new story."""
        self.began, self.history = time.monotonic(), [(0.0, self.nodes())]

    def nodes(self) -> int:
        """Alive ones besides the head."""
        infos = self._gcs.get_all_node_info(timeout=30).values()
        return sum(info.state == info.GcsNodeState.Value("ALIVE") and not info.is_head_node for info in infos)

    def raylets(self) -> list[psutil.Process]:
        """Those of nodes besides the head, oldest first."""
        found = [child for child in self._head.children(recursive=True) if child.name() == "raylet" and child.ppid() != self._head.pid]
        return sorted((child for child in found if child.status() != psutil.STATUS_ZOMBIE), key=lambda child: child.create_time())

    def works(self, raylet: psutil.Process, what: str = "ray::") -> bool:
        """Whether a process of Ray's works for it (an idle one will do), or one whose title holds `what`."""
        titles = []
        for child in raylet.children(recursive=True):
            try:
                titles += child.cmdline()[:1]
            except psutil.Error:  # it has ended meanwhile
                continue
        return any(title.startswith("ray::") and what in title for title in titles)

    def trains(self, raylet: psutil.Process) -> bool:
        return bool(training_workers(raylet.children(recursive=True)))

    def lose(self, raylet: psutil.Process) -> None:
        """SIGKILL for a node and all its processes, as when a machine is taken away without a word."""
        for process in [raylet, *raylet.children(recursive=True)]:
            kill(process)

    def end(self) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            try:
                now = self.nodes()
            except Exception:  # a head with much to do
                continue
            if not self.history or self.history[-1][1] != now:
                self.history.append((round(time.monotonic() - self.began, 1), now))


@contextmanager
def cloud(log: Path, most: int = 2, cpus: int = 1) -> Iterator[Cloud]:
    """A head that runs no work, alone, and an autoscaler that may start `most` nodes; all of it ends with the block."""
    port, plain = free_port(), {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with tempfile.TemporaryDirectory(prefix="hd-", dir="/tmp", ignore_cleanup_errors=True) as short:  # the address file is in it, too
        address = f"{_own_address()}:{port}"
        config = Path(short) / "cluster.yaml"
        config.write_text(yaml.safe_dump(_config(address, most, cpus)))
        command = [RAY, "start", "--head", "--block", "--num-cpus", "0", "--num-gpus", "0", "--port", str(port)]
        command += ["--dashboard-port", str(free_port()), "--dashboard-agent-listen-port", str(free_port())]
        command += ["--object-store-memory", str(200 << 20), "--autoscaling-config", str(config), "--system-config", json.dumps(NOTICE)]
        started: list[psutil.Process] = []
        with (
            open(log, "wb") as file,
            subprocess.Popen(command, env=plain | QUIET | {"RAY_TMPDIR": short}, stdout=file, stderr=file) as head,
        ):
            process = psutil.Process(head.pid)
            try:
                until(lambda: "will now block" in log.read_text() or head.poll() is not None, 180)
                assert head.poll() is None, log.read_text()
                running = Cloud(address, process)
                try:
                    yield running
                finally:
                    running.end()
            finally:
                started += process.children(recursive=True) if process.is_running() else []
                head.terminate()
                head.wait()
                _, left = psutil.wait_procs(started, timeout=10)
                for one in left:
                    kill(one)


def until(true: Callable[[], Any], seconds: float) -> None:
    """Wait for it, with looks that cost little of a machine that is busy; AssertionError if it does not come."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.3)


def _config(address: str, most: int, cpus: int) -> dict:
    lists = ["setup_commands", "head_setup_commands", "worker_setup_commands", "initialization_commands", "cluster_synced_files"]
    lists += ["head_start_ray_commands", "worker_start_ray_commands"]
    node = {"resources": {"CPU": cpus, "object_store_memory": 100 << 20}, "node_config": {}, "min_workers": 0, "max_workers": most}
    return {
        "cluster_name": "fake",
        "max_workers": most,
        "upscaling_speed": 100.0,
        "idle_timeout_minutes": IDLE_S / 60,
        # not `type: fake_multinode`, whose defaults are in the file that the wheel lacks
        "provider": {"type": "external", "module": PROVIDER, "launch_multiple": True, "head_node_id": HEAD, "gcs_address": address},
        "head_node_type": "ray.head.default",
        "available_node_types": {"ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}, "cpu": node},
        "file_mounts": {},
        "auth": {},
    } | {name: [] for name in lists}


def _own_address() -> str:
    """As Ray sees it, asked in a process that does not import it here."""
    code = "import ray._private.services as s; print(s.get_node_ip_address())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
