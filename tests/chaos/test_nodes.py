"""Kill whole nodes: a raylet with all its workers, and the head; Ray restarts the group on what is left or on a node that is added again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import yaml

from chaos import evidence
from chaos.moments import Moment, phases, rounds
from chaos.runs import COSTLY_MOMENTS, MOMENTS, SEED, TIMEOUT_S, Command, assert_as_undisturbed, noted, until_all_came, values, watch
from chaos.watch import Killed, kill, training_workers

pytestmark = pytest.mark.timeout(TIMEOUT_S)
NOTICE = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 10_000,
    "health_check_failure_threshold": 3,
}
"""A lost node is noticed after three seconds instead of fifteen; docs/reliability.md recommends it."""


class Nodes:
    """A cluster of a head without CPUs and nodes of one CPU each, all on this machine."""

    def __init__(self, count: int) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": NOTICE})
        self.address = self.cluster.address
        self._added = 0
        for _ in range(count):
            self.add()

    def add(self) -> None:
        """Each has an address of its own, so that a driver joins the head, as one on its own machine would."""
        for attempt in range(3):
            self._added += 1
            try:
                self.cluster.add_node(num_cpus=1, node_ip_address=f"127.0.0.{self._added + 1}")
            except Exception:  # a node that took more than 30 s to start, which Ray can't be asked to wait for
                if attempt == 2:
                    raise
            else:
                return

    def raylets(self) -> list[psutil.Process]:
        return [psutil.Process(node.all_processes["raylet"][0].process.pid) for node in self.cluster.worker_nodes]

    def workers(self) -> list[psutil.Process]:
        return training_workers(child for raylet in self.raylets() if raylet.is_running() for child in raylet.children(recursive=True))

    def kill(self, whom: float) -> str:
        """SIGKILL for a node that trains, and all its processes; '' where none does."""
        busy = [
            node
            for node in sorted(self.cluster.worker_nodes, key=lambda node: node.all_processes["raylet"][0].process.pid)
            if training_workers(psutil.Process(node.all_processes["raylet"][0].process.pid).children(recursive=True))
        ]
        if not busy:
            return ""
        node = busy[int(whom * len(busy))]
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        for process in [raylet, *raylet.children(recursive=True)]:
            kill(process)
        self.cluster.remove_node(node, allow_graceful=False)
        return "a node"

    def kill_head(self) -> None:
        """SIGKILL for the head's servers; what runs on the other nodes finds out by itself."""
        for kind in self.cluster.head_node.all_processes.values():
            for started in kind:
                kill(psutil.Process(started.process.pid))


@contextmanager
def nodes(count: int) -> Iterator[Nodes]:
    """The file by which Ray finds 'the' cluster of a machine is left as it was: other Rays here are not to be found by it."""
    from ray._private.utils import get_ray_address_file

    known = Path(get_ray_address_file(None))
    before = known.read_text() if known.exists() else None
    running = Nodes(count)
    try:
        if before is None:
            known.unlink(missing_ok=True)
        else:
            known.write_text(before)
        yield running
    finally:
        running.cluster.shutdown()


def run_and_kill_nodes(cohort: Path, folder: Path, undisturbed: Path, moments: list[Moment]) -> list[Killed]:
    """One command on a cluster of its own; after each kill but the last a node is added again, at once or when Ray has had time to start
    without it."""
    kills, recipe, log = [], folder.with_suffix(".yaml"), folder.with_suffix(".log")
    recipe.write_text(yaml.safe_dump(values(cohort, folder.parent, folder.name)))
    with nodes(3) as running:
        command = Command(recipe, log, running.address)
        seen = watch(folder, undisturbed, running.workers)
        for number, moment in enumerate(moments):
            if seen.wait(moment, command.ended) and (who := running.kill(moment.whom)):
                kills.append(seen.killed(moment, who))
                if number + 1 < len(moments):
                    time.sleep(10 * (moment.delay > 0.5))
                    running.add()
        assert command.process.wait() == 0, log.read_text()[-3000:]
        assert not evidence.settled(command.processes)
        assert not evidence.settled(running.workers)
    assert_as_undisturbed(folder, undisturbed)
    return kills


@pytest.mark.slow
@pytest.mark.parametrize("moments", rounds(SEED + 4, COSTLY_MOMENTS), ids=phases)
def test_killed_nodes_change_nothing(cohort, tmp_path, undisturbed, moments):
    noted("node", SEED + 4, until_all_came(moments, lambda name, left: run_and_kill_nodes(cohort, tmp_path / name, undisturbed, left)))


@pytest.mark.slow
@pytest.mark.parametrize("moment", rounds(SEED + 5, max(2, MOMENTS // 10), size=1), ids=phases)
def test_a_killed_head_and_the_same_command_on_a_new_one_change_nothing(cohort, tmp_path, undisturbed, moment):
    recipe, folder = tmp_path / "recipe.yaml", tmp_path / "head"
    recipe.write_text(yaml.safe_dump(values(cohort, tmp_path, "head")))
    with nodes(2) as running:
        command = Command(recipe, recipe.with_suffix(".log"), running.address)
        seen = watch(folder, undisturbed, running.workers)
        assert seen.wait(moment[0], command.ended)
        running.kill_head()
        kills = [seen.killed(moment[0], "the head")]
        with nodes(2) as other:  # while the workers of the lost one still live
            again = Command(recipe, recipe.with_suffix(".log"), other.address)
            assert again.process.wait() == 0, recipe.with_suffix(".log").read_text()[-3000:]
            assert not evidence.settled(other.workers)
        kill(psutil.Process(command.process.pid))
        command.process.wait()
    noted("head", SEED + 5, kills)
    assert_as_undisturbed(folder, undisturbed)
