"""The doctor's promises: what is missing is found and named with its fix, and only what stops training makes it fail."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from pydicom.pixels.decoders.base import Decoder
from pydicom.uid import JPEGLSLossless

from hepdist.cli import main
from hepdist.doctor import can_train, cluster, dicom, engine, machine
from hepdist.doctor.check import Check


@pytest.fixture
def listener() -> Iterator[str]:
    """host:port where something listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def dead() -> str:
    """host:port where nothing listens any more."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def ray_temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder where Ray would keep its sessions."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray"


def test_this_machine_can_train_and_the_table_says_what_it_has(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for topic in ("python", "deepspeed", "CPUs", "GPUs", "memory", "object store", "disk", "DICOM decoders", "C++ compiler", "cluster"):
        assert topic in shown
    assert "one step on" in shown


def test_a_stale_ray_address_file_is_found_with_its_fix(ray_temp: Path, dead: str) -> None:
    file = ray_temp / "ray_current_cluster"
    file.write_text(dead)
    assert cluster.address_file() == Check("Ray address file", f"{file} names {dead}, where no Ray answers", "warning", f"rm {file}")


def test_an_address_file_of_a_living_ray_is_well(ray_temp: Path, listener: str) -> None:
    assert cluster.address_file().found == "none"
    (ray_temp / "ray_current_cluster").write_text(f"{listener}\n")
    assert cluster.address_file().state == "ok"


def test_a_dead_cluster_in_ray_address_stops_training(monkeypatch: pytest.MonkeyPatch, dead: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", dead)
    (check,) = cluster.ray_cluster()
    assert (check.state, check.found) == ("problem", f"RAY_ADDRESS is {dead}, where no Ray answers")
    assert not can_train([check])


def test_a_ray_client_address_is_refused_and_a_job_server_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    assert [c.state for c in cluster.ray_cluster()] == ["problem"]
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    assert [c.state for c in cluster.ray_cluster()] == ["ok"]


def test_a_cluster_is_shown_with_its_nodes_and_stays_connected(ray_cluster: str) -> None:
    import ray

    head, node = cluster.ray_cluster()
    assert head.found.startswith(f"{os.environ['RAY_ADDRESS']}: 1 node alive, 0 dead; 8 CPUs, ")
    assert node.topic == "node 1"
    assert node.found.startswith("8 CPUs, ")
    assert ray.is_initialized()


def test_missing_and_old_packages_stop_training() -> None:
    absent = machine._version(Requirement("hepdist-no-such-package>=1"))
    assert (absent.found, absent.state) == ("not installed", "problem")
    old = machine._version(Requirement("numpy>=999"))
    assert old.state == "problem"
    assert old.found.endswith("but hepdist needs >=999")
    assert "numpy>=999" in old.fix


def test_cpus_and_memory_are_the_containers_not_the_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    host_cpus, host_memory = machine.usable_cpus(), machine.usable_memory()[0]
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text(f"{2 << 30}\n")
    (tmp_path / "memory.current").write_text(f"{1 << 30}\n")
    assert host_cpus >= 1
    assert machine.usable_cpus() == 0.5
    assert machine.usable_memory() == (2 << 30, 1 << 30)
    assert machine.memory().state == "problem"  # a GiB is too little for Ray and a worker
    assert machine.cpus().fix == "two workers will share one CPU; use train.workers=1"
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert (machine.usable_cpus(), machine.usable_memory()[0]) == (host_cpus, host_memory)


def test_a_transfer_syntax_without_decoder_is_named_with_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    every = dicom.decoders()
    real = dicom.get_decoder
    monkeypatch.setattr(dicom, "get_decoder", lambda uid: Decoder(JPEGLSLossless) if uid == JPEGLSLossless else real(uid))
    summary, *missing = dicom.decoders()
    (jpeg_ls,) = [check for check in missing if JPEGLSLossless in check.found]
    assert jpeg_ls.state == "warning"
    assert "pyjpegls" in jpeg_ls.fix
    assert summary.found.split(" of ")[0] == str(int(every[0].found.split(" of ")[0]) - 1)


def test_an_engine_that_can_not_start_is_told_in_its_own_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "PROBE", "hepdist.doctor.no_such_probe")
    check = engine.deepspeed_engine()
    assert check.state == "problem"
    assert check.found.endswith("No module named hepdist.doctor.no_such_probe")


def test_warnings_do_not_stop_training() -> None:
    assert can_train([Check("a", "x"), Check("b", "y", "warning", "z")])
    assert not can_train([Check("a", "x"), Check("b", "y", "problem", "z")])
