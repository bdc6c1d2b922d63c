"""Metadata services of AWS, Google Cloud and Azure in a thread: what each demands of a request, and what the test lets it say."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MACHINE = "trainer_3"
TROUBLES = ("status 500", "garbage", "hangs", "drips", "gone")


class Service(ThreadingHTTPServer):
    """One cloud's service at `url`; `texts` holds what there is to read, by path."""

    daemon_threads = True

    def __init__(self, cloud: str, port: int = 0) -> None:
        self.cloud, self.trouble, self.token_s = cloud, "", 21600
        self.texts: dict[str, str] = {}
        self.tokens: dict[str, float] = {}
        self.reads: list[str] = []
        """Paths answered in good order."""
        self.closing = threading.Event()
        if cloud == "gcp":
            self.texts = {"/computeMetadata/v1/": "instance/\n", "/computeMetadata/v1/instance/preempted": "FALSE"}
            self.texts["/computeMetadata/v1/instance/maintenance-event"] = "NONE"
        if cloud == "azure":
            self.texts = {"/metadata/instance/compute/name?api-version=2021-02-01&format=text": MACHINE}
            self.events()
        super().__init__(("127.0.0.1", port), Answers)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def announce(self, at: float) -> None:
        """This machine is taken away at `at` (UNIX time), which Google Cloud does not say."""
        if self.cloud == "aws":
            time_ = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
            self.texts["/latest/meta-data/spot/instance-action"] = json.dumps({"action": "terminate", "time": time_})
        elif self.cloud == "gcp":
            self.texts["/computeMetadata/v1/instance/preempted"] = "TRUE"
        else:
            self.events({"EventType": "Preempt", "Resources": ["trainer_1", MACHINE], "NotBefore": formatdate(at, usegmt=True)})

    def events(self, *events: dict[str, Any]) -> None:
        """Azure's list."""
        listed = [
            {"EventId": f"event-{k}", "EventStatus": "Scheduled", "ResourceType": "VirtualMachine", **e} for k, e in enumerate(events)
        ]
        self.texts["/metadata/scheduledevents?api-version=2020-07-01"] = json.dumps({"DocumentIncarnation": 1, "Events": listed})


class Answers(BaseHTTPRequestHandler):
    server: Service

    def do_PUT(self) -> None:
        service = self.server
        ttl = "X-aws-ec2-metadata-token-ttl-seconds"
        if service.cloud != "aws" or self.path != "/latest/api/token" or not self.headers.get(ttl, "").isdigit():
            self._send(405 if service.cloud != "aws" else 400, "")
            return
        if not self._in_trouble():
            token = f"token-{len(service.tokens)}"
            service.tokens[token] = time.monotonic() + service.token_s
            self._send(200, token, {ttl: str(service.token_s)})

    def do_GET(self) -> None:
        service = self.server
        if self._in_trouble():
            return
        if service.cloud == "aws" and service.tokens.get(self.headers.get("X-aws-ec2-metadata-token", ""), 0.0) < time.monotonic():
            self._send(401, "Unauthorized")
        elif service.cloud == "gcp" and self.headers.get("Metadata-Flavor") != "Google":
            self._send(403, "Missing Metadata-Flavor:Google header.")
        elif service.cloud == "azure" and self.headers.get("Metadata") != "true":
            self._send(400, '{ "error": "Bad request. Required metadata header not specified" }')
        elif self.path not in service.texts:
            self._send(404, "Not Found")
        else:
            service.reads.append(self.path)
            self._send(200, service.texts[self.path], {"Metadata-Flavor": "Google"} if service.cloud == "gcp" else {})

    def _in_trouble(self) -> bool:
        trouble = self.server.trouble
        if trouble == "status 500":
            self._send(500, "Internal Server Error")
        elif trouble == "garbage":
            self._send(200, "<html>\x00 not what you asked for" * 100)
        elif trouble == "hangs":
            self.server.closing.wait(30)
        elif trouble == "drips":  # each byte resets a socket's time-out
            self.send_response(200)
            self.end_headers()
            while not self.server.closing.wait(0.1):
                self.wfile.write(b" ")
        return bool(trouble)

    def _send(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(text.encode()))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Would write to stderr."""


@contextmanager
def service(cloud: str, port: int = 0) -> Iterator[Service]:
    with Service(cloud, port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()
