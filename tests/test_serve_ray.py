"""The same application under Ray Serve: on the shared Ray by its proxy, and as the command runs it, ended by a signal with all its processes."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx2
import psutil
import pytest
from served import OPENS, TOKEN, as_bytes, classifier, form, radiograph
from starlette.testclient import TestClient

from hepdist.errors import RunError
from hepdist.inference.predictor import Predictor
from hepdist.serve.app import Service, build_app
from hepdist.serve.deployment import Settings, load, loopback, serving

ROOT = Path(__file__).resolve().parents[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_ray_serve_answers_as_the_application_alone_and_leaves_nothing(ray_cluster, tmp_path):
    run = classifier(tmp_path / "cr")
    sent = form(as_bytes(radiograph(1)))
    alone = TestClient(build_app(Service(Predictor([run]), TOKEN)), headers=OPENS).post("/v1/predict", **sent).json()
    port = free_port()
    with (
        serving(Settings((str(run),), TOKEN, port=port, device="cpu")),
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http,
    ):
        assert http.get("/v1/model").status_code == 401
        answer = http.post("/v1/predict", headers=OPENS, **sent)
        told = answer.json()
        served, expected = (reply["results"][0].pop("probabilities") for reply in (told, alone))
        assert served == pytest.approx(expected, abs=1e-6)  # another process may sum on other threads
        assert told == alone
        assert http.post("/v1/predict", headers=OPENS, **form(b"text")).status_code == 415
        with pytest.raises(RunError, match="already"), serving(Settings((str(run),), TOKEN, port=free_port())):
            pass
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"http://127.0.0.1:{port}/health")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_listens_on_loopback_alone_and_ends_with_all_its_processes(tmp_path, number):
    run, port, token = classifier(tmp_path / "cr"), free_port(), secrets.token_hex(20)
    (tmp_path / "token").write_text(token)
    (tmp_path / "token").chmod(0o600)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "hepdist", "serve", str(run), "--port", str(port), "--token-file", str(tmp_path / "token")]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        said = server.stdout.readline()
        processes = psutil.Process(server.pid).children(recursive=True)
        answer = httpx2.post(
            f"http://127.0.0.1:{port}/v1/predict", headers={"Authorization": f"Bearer {token}"}, timeout=60, **form(as_bytes(radiograph(1)))
        )
        assert answer.status_code == 200
        outside = [
            c.laddr.ip
            for process in [psutil.Process(server.pid), *processes]
            if process.is_running()
            for c in process.net_connections("tcp")
            if c.status == psutil.CONN_LISTEN and c.laddr.ip.removeprefix("::ffff:") not in ("127.0.0.1", "::1")
        ]
        assert outside == []
        assert any(c.laddr.port == port for p in processes if p.is_running() for c in p.net_connections("tcp"))
    finally:
        server.send_signal(number)
        _, errors = server.communicate(timeout=90)
    assert server.returncode == 0, errors
    assert f"http://127.0.0.1:{port}/" in said
    assert token not in said + errors
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert alive == []


def test_a_port_in_use_is_told_before_anything_starts(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = Settings((str(tmp_path),), TOKEN, port=taken.getsockname()[1])
        with pytest.raises(RunError, match="--port"), serving(settings):
            pass


def test_a_run_without_a_model_is_refused(tmp_path):
    with pytest.raises(RunError, match="no trained model"):
        load(Settings((str(tmp_path / "none"),), TOKEN))


@pytest.mark.parametrize(
    ("host", "expected"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("10.0.0.1", False)]
)
def test_hosts_that_let_other_machines_in_are_known(host, expected):
    assert loopback(host) is expected


def test_settings_do_not_show_the_token():
    assert TOKEN not in repr(Settings(("run",), TOKEN))
