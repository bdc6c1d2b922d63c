"""`hepdist serve`: the API as a Ray Serve application on this machine's own Ray or on a given cluster, until a signal ends it."""

from __future__ import annotations

import ipaddress
import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hepdist.errors import RunError
from hepdist.serve.limits import Limits

if TYPE_CHECKING:
    from ray.serve import Application
    from starlette.types import ASGIApp

    from hepdist.inference.predictor import Predictor

NAME = "hepdist"
CLOSING_S = 65
"""Linux keeps a port that a server left for 60 s."""
LEAN = {
    # the API blocks no loop: its model and its decoders have threads of their own
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
}
DIRECT = {
    # the one replica listens itself: an upload goes through no proxy, which would hand it on between processes
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
    # nobody balances load here who would have to notice first
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
    # a replica that died comes back on its port
    "RAY_SERVE_PORT_QUARANTINE_S": "0",
}


@dataclass(frozen=True)
class Settings:
    runs: tuple[str, ...]
    token: str = field(repr=False)
    host: str = "127.0.0.1"
    port: int = 8000
    replicas: int = 1
    device: str = "auto"
    """auto: a GPU where the cluster has one for each replica."""
    batch: int = 16
    threads: int | None = None
    """Of the model on a CPU, in each replica; None: the machine's CPUs shared by the replicas."""
    options: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    scratch: str | None = None


def loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load(settings: Settings) -> Predictor:
    """The runs' predictor, on the device that the settings name. Raises RunError for what can't be served."""
    from hepdist.inference.predictor import Predictor

    predictor = Predictor(settings.runs, device="cpu" if settings.device == "auto" else settings.device, threads=settings.threads)
    if predictor.kind == "restoration":
        raise RunError("a restoration run answers with an image, which serve has no form for; use: hepdist predict RUN INPUT OUT")
    return predictor


def check(settings: Settings) -> None:
    """Load what is to be served once, here, before anything starts. Raises RunError and RecipeError."""
    from hepdist.inference.reading import reading_spec

    reading_spec(load(settings).signature, settings.options)


def application(settings: Settings, gpu: bool, alone: bool) -> Application:
    """For `ray.serve.run`. alone: on a Ray of this machine only."""
    from ray import serve

    def build() -> ASGIApp:
        from hepdist.serve.app import Service, build_app

        if alone:
            _keep_to_loopback()

        service = Service(
            load(settings), settings.token, settings.limits, settings.options, settings.scratch, settings.batch,
            decoders=max(2, min(8, (os.cpu_count() or 1) // settings.replicas)),
        )  # fmt: skip
        service.warm()
        return build_app(service)

    class Replica:
        pass

    deploy = serve.deployment(
        name="predict",
        num_replicas=settings.replicas,
        ray_actor_options={"num_cpus": 1, "num_gpus": int(gpu)},
        # the gate turns away before this does, in JSON
        max_ongoing_requests=settings.limits.waiting * 2,
        graceful_shutdown_timeout_s=10,
    )
    return deploy(serve.ingress(build)(Replica)).bind()


@contextmanager
def serving(settings: Settings) -> Iterator[None]:
    """The application, answering, within the block. Raises RunError where its port is taken or Ray Serve runs there already."""
    from hepdist.cluster import connect

    own = not os.environ.get("RAY_ADDRESS")
    direct = own and settings.replicas == 1
    _free(settings.host, settings.port)
    os.environ.update(LEAN)
    if direct:
        port = {"RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": settings.port, "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": settings.port + 1}
        os.environ.update(DIRECT | {name: str(value) for name, value in port.items()})
    scratch = tempfile.mkdtemp(prefix="hepdist-serve-") if own else None
    try:
        with connect(train=False) as cluster:
            from ray import serve

            if not own and _serves():
                raise RunError(
                    "Ray Serve runs on this cluster already; use a cluster of its own, or unset RAY_ADDRESS to serve on this machine"
                )
            gpu = settings.device != "cpu" and cluster.gpus >= settings.replicas
            if settings.device == "cuda" and not gpu:
                raise RunError(f"{settings.replicas} replicas need a GPU each, and the cluster has {cluster.gpus:g}; use --device cpu")
            there = replace(settings, scratch=scratch, device="cuda" if gpu else "cpu", threads=_threads(settings, cluster.cpus))
            try:
                _start(there, gpu, own, proxy_port=_any_port(settings.host) if direct else settings.port)
                yield
            finally:
                serve.shutdown()
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def _start(settings: Settings, gpu: bool, alone: bool, proxy_port: int) -> None:
    """proxy_port: where Ray Serve's proxy listens, which it starts beside a replica that listens itself, too."""
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    quiet = {"enable_access_log": False, "log_level": "WARNING"}
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": settings.host, "port": proxy_port, "keep_alive_timeout_s": 60},
        logging_config=quiet,
    )
    try:
        serve.run(application(settings, gpu, alone), name=NAME, route_prefix="/", logging_config=quiet)
    except RuntimeError as error:  # what Ray Serve raises for an application that did not start
        raise RunError(f"Ray Serve could not start the application: {str(error).strip().splitlines()[-1]}") from None


def until_signal(started: Callable[[], Any]) -> None:
    """Call `started`, then wait for SIGINT or SIGTERM."""
    stop = threading.Event()

    def end(number: int, frame: Any) -> None:
        stop.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        started()
        while not stop.wait(1):
            pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _threads(settings: Settings, cpus: float) -> int:
    return settings.threads or max(1, int(min(cpus, os.cpu_count() or 1)) // settings.replicas)


def _serves() -> bool:
    from ray import serve

    return bool(serve.status().proxies or serve.status().applications)


def _keep_to_loopback() -> None:
    """Have this replica listen to other replicas on loopback, too; called before it begins to.

    Ray Serve binds that gRPC server to all interfaces whatever the host asked for, and it unpickles what it is sent: anyone on the network could
    run code here. There is no setting for it. tests/test_serve_ray.py fails where a Ray listens elsewhere all the same.
    """
    from ray.serve._private import replica

    listen = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: listen(server, address.replace("[::]", "127.0.0.1"))


def _any_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _free(host: str, port: int) -> None:
    """Wait for a port that another server has just left. Raises RunError where one listens on it, or the host is none of this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    until = time.monotonic() + CLOSING_S
    told = False
    while True:
        for reuse in (0, 1):
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
                try:
                    probe.bind((host, port))
                except OSError as error:
                    taken = f"cannot listen on {host}:{port} ({error.strerror}); choose another with --port, or an address of this machine with --host"
                    continue
                if not reuse:
                    return
                break  # only connections that are closing hold it
        else:
            raise RunError(taken)
        if time.monotonic() > until:
            raise RunError(taken)
        if not told:
            from hepdist.console import step

            step(f"port {port} is still closing after another server; waiting up to {CLOSING_S} s ...")
            told = True
        time.sleep(1)
