"""The watcher of spot notices: what each cloud demands and says, what goes wrong, and a real Ray whose node is drained."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from metadata_server import MACHINE, TROUBLES, Service, service
from spot_nodes import added_node, occupant, until

from hepdist.spot.clouds import AWS, GCP, Azure, Cloud, Notice, detect, named
from hepdist.spot.drain import of_this_machine
from hepdist.spot.metadata import Unclear
from hepdist.spot.watch import watch

CLOUDS = ("aws", "gcp", "azure")
DEADLINE = 2_000_000_000.0
ROOT = Path(__file__).resolve().parents[1]


class Watched:
    """A watcher in a thread; what it told Ray and what it said."""

    def __init__(self, cloud: Cloud, failures: list[str]) -> None:
        self.told: list[Notice] = []
        self.said: list[str] = []
        self.failures = failures
        self.stop = threading.Event()
        self.thread = threading.Thread(target=watch, args=(cloud, self.tell, self.stop, 0.01, self.said.append))
        self.thread.start()

    def tell(self, notice: Notice) -> tuple[bool, str]:
        if self.failures:
            return False, self.failures.pop(0)
        self.told.append(notice)
        return True, "draining"

    def end(self) -> None:
        self.stop.set()
        self.thread.join()


@contextmanager
def watching(cloud: Cloud, *failures: str) -> Iterator[Watched]:
    """failures: what telling Ray ends in the first times."""
    watched = Watched(cloud, list(failures))
    try:
        yield watched
    finally:
        watched.end()


def quick(cloud: Any) -> Cloud:
    cloud.metadata.timeout_s = 0.3
    return cloud


def after_looks(server: Service, looks: int) -> Callable[[], bool]:
    reads = len(server.reads)
    return lambda: len(server.reads) >= reads + looks


@pytest.mark.parametrize("name", CLOUDS)
def test_a_notice_that_appears_while_watching_is_told_once_with_the_clouds_deadline(name: str) -> None:
    with service(name) as server, watching(named(name, server.url)) as watched:
        until(after_looks(server, 2) if name != "aws" else lambda: server.tokens)
        assert watched.told == []
        before = time.time()
        server.announce(DEADLINE)
        until(lambda: watched.told)
        until(after_looks(server, 5))
        (notice,) = watched.told
        if name == "gcp":
            assert notice.deadline is not None
            assert before + GCP.PREEMPTED_S <= notice.deadline <= time.time() + GCP.PREEMPTED_S
        else:
            assert notice.deadline == DEADLINE
        assert [line.split(" in ")[0] for line in watched.said] == [notice.what, "draining"]


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("name", CLOUDS)
def test_trouble_of_the_service_is_said_once_and_survived(name: str, trouble: str) -> None:
    with service(name) as server:
        cloud, port = quick(named(name, server.url)), server.server_port
        assert cloud.answers()
        if trouble != "gone":
            server.announce(DEADLINE)
            server.trouble = trouble
            for _ in range(3):
                with pytest.raises(Unclear):
                    cloud.notice()
            with watching(cloud) as watched:
                until(lambda: watched.said)
                server.trouble = ""
                until(lambda: watched.told)
    if trouble == "gone":
        with watching(cloud) as watched:
            until(lambda: watched.said)
            with service(name, port) as server:
                server.announce(DEADLINE)
                until(lambda: watched.told)
                watched.end()
    assert watched.said[0].startswith("no clear answer from the metadata service, trying on: ")
    assert watched.said[-3] == "the metadata service answers again"
    assert len(watched.told) == 1
    assert len(set(watched.said)) == len(watched.said)


def test_aws_answers_only_with_a_token_which_is_renewed_in_time_and_after_a_refusal() -> None:
    with service("aws") as server:
        server.announce(DEADLINE)
        server.token_s = 2
        cloud = AWS(server.url)
        assert cloud.notice() == cloud.notice() == Notice(f"terminate {time_of(server)}", "AWS will terminate this instance", DEADLINE)
        assert list(server.tokens) == ["token-0"]
        cloud.renew_at = time.monotonic()  # half of its two seconds are over
        cloud.notice()
        assert list(server.tokens) == ["token-0", "token-1"]
        server.tokens.update(dict.fromkeys(server.tokens, 0.0))  # the service has forgotten them
        assert cloud.notice() is not None
        assert list(server.tokens) == ["token-0", "token-1", "token-2"]


def time_of(server: Service) -> str:
    return str(json.loads(server.texts["/latest/meta-data/spot/instance-action"])["time"])


def test_a_rebalance_recommendation_counts_where_it_is_asked_for() -> None:
    with service("aws") as server:
        server.texts["/latest/meta-data/events/recommendations/rebalance"] = '{"noticeTime": "2026-01-01T00:00:00Z"}'
        assert AWS(server.url).notice() is None
        notice = AWS(server.url, rebalance=True).notice()
        assert notice == Notice("rebalance 2026-01-01T00:00:00Z", "AWS recommends to leave this instance", None)


@pytest.mark.parametrize("text", ["{}", '{"action": "dance", "time": "2026-01-01T00:00:00Z"}', "[1]", "", "\ufffd"])
def test_an_instance_action_that_aws_does_not_document_is_no_notice(text: str) -> None:
    with service("aws") as server:
        server.texts["/latest/meta-data/spot/instance-action"] = text
        with pytest.raises(Unclear):
            AWS(server.url).notice()


def test_a_notice_without_a_readable_time_is_a_notice() -> None:
    with service("aws") as server:
        server.texts["/latest/meta-data/spot/instance-action"] = '{"action": "stop", "time": "soon"}'
        assert AWS(server.url).notice() == Notice("stop soon", "AWS will stop this instance", None)
    with service("azure") as server:
        server.events({"EventType": "Preempt", "Resources": [MACHINE], "NotBefore": "", "EventStatus": "Started"})
        assert Azure(server.url).notice() == Notice("event-0", "Azure will preempt this machine", None)


def test_a_migration_is_no_notice_and_an_end_for_maintenance_is_one() -> None:
    with service("gcp") as server:
        cloud, event = GCP(server.url), "/computeMetadata/v1/instance/maintenance-event"
        server.texts[event] = "MIGRATE_ON_HOST_MAINTENANCE"
        assert cloud.notice() is None
        server.texts[event] = "TERMINATE_ON_HOST_MAINTENANCE"
        first = cloud.notice()
        assert first is not None
        assert cloud.notice() == first


def test_events_of_other_machines_and_other_kinds_are_no_notice() -> None:
    with service("azure") as server:
        server.events(
            {"EventType": "Preempt", "Resources": ["trainer_1", "trainer_33"], "NotBefore": ""},
            {"EventType": "Freeze", "Resources": [MACHINE], "NotBefore": ""},
        )
        assert Azure(server.url).notice() is None
        server.events({"EventType": "Terminate", "Resources": [MACHINE.upper()], "NotBefore": "Wed, 18 May 2033 03:33:20 GMT"})
        assert Azure(server.url).notice() == Notice("event-0", "Azure will terminate this machine", DEADLINE)


@pytest.mark.parametrize("name", CLOUDS)
def test_the_cloud_is_found_by_what_answers(name: str) -> None:
    with service(name) as server:
        found = detect(server.url)
        assert found is not None
        assert found.name == name
    assert detect(server.url) is None


def test_ray_is_told_again_until_it_knows_and_each_reason_is_said_once() -> None:
    with service("aws") as server:
        server.announce(DEADLINE)
        with watching(AWS(server.url), "no Ray", "no Ray", "not there yet") as watched:
            until(lambda: watched.told)
        assert [line.split(" in ")[0] for line in watched.said] == [
            "AWS will terminate this instance", "Ray was not told, trying on: no Ray", "Ray was not told, trying on: not there yet", "draining",
        ]  # fmt: skip


def test_the_watcher_imports_nothing_large() -> None:
    code = "import sys, hepdist.spot.__main__; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    assert set(modules) & {"ray", "torch", "numpy", "pydantic", "pyarrow", "psutil", "yaml", "typer"} == set()


def test_nodes_of_this_machine_are_known_by_address_else_by_a_name_of_one_machine() -> None:
    from ray.core.generated.gcs_pb2 import GcsNodeInfo

    def node(address: str, name: str) -> Any:
        return GcsNodeInfo(node_manager_address=address, node_manager_hostname=name)

    mine, second, other = node("10.0.0.1", "a"), node("10.0.0.1", "a"), node("10.0.0.2", "a")
    assert of_this_machine([mine, second, other], {"10.0.0.1"}, "a") == [mine, second]
    assert of_this_machine([other], {"10.0.0.1"}, "a") == [other]
    assert of_this_machine([mine, other], {"10.0.0.9"}, "a") == []  # two machines call themselves a
    assert of_this_machine([other], {"10.0.0.1"}, "b") == []


def test_a_machine_without_a_cloud_is_one_sentence_and_exit_code_1() -> None:
    with service("aws") as server:
        nobody = server.url
    done = subprocess.run(
        [sys.executable, "-m", "hepdist.spot", "--metadata", nobody, "--detect", "0"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 1
    assert "no metadata service of AWS, Google Cloud or Azure answers here" in done.stderr


def test_a_notice_drains_the_real_node_that_it_is_for(ray_cluster: str) -> None:
    import ray

    with service("aws") as server:
        server.announce(DEADLINE - 60)
        command = [sys.executable, "-u", "-m", "hepdist.spot", "--metadata", server.url, "--address", ray_cluster, "--node-ip", "127.0.0.2"]
        with subprocess.Popen([*command, "--interval", "0.5"], stderr=subprocess.PIPE, text=True, cwd=ROOT) as watcher:
            try:
                assert watcher.stderr is not None
                said = [next(watcher.stderr).split(": ", 1)[1].strip() for _ in range(3)]
                assert said[0] == f"watching aws every 0.5 s for Ray at {ray_cluster}"
                assert said[2] == f"Ray was not told, trying on: none of the 1 nodes of {ray_cluster} is this machine's"
                server.texts.clear()
                with added_node(ray_cluster, "127.0.0.2", {"spot": 1}) as node:
                    busy = occupant(num_cpus=0, resources={"spot": 1})  # an idle node leaves at once
                    server.announce(DEADLINE)
                    assert "AWS will terminate this instance" in next(watcher.stderr)
                    assert f"draining {node.id()[:8]} (127.0.0.2)" in next(watcher.stderr)
                    assert node.draining() == {node.id(): int(DEADLINE * 1000)}
                    ray.kill(busy)
                    assert node.death() == "AUTOSCALER_DRAIN_PREEMPTED"  # Ray ends a drained node that has nothing left to do
                watcher.terminate()
                assert watcher.wait() == 0
                assert watcher.stderr.read() == ""
            finally:
                watcher.kill()
