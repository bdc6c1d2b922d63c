"""What every request passes before the API: token, size, how many at once; and what every answer passes after it. Plain ASGI."""

from __future__ import annotations

import json
import sys
import time
import traceback
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hepdist.serve.limits import MIB, Limits, Problem, too_large
from hepdist.serve.metrics import Metrics
from hepdist.serve.token import opens

OPEN = ("/health", "/")
"""Paths that need no token: whether the server lives, and the page, which holds nothing and asks for the token."""
PREDICT = "/v1/predict"
HEADERS = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
BUSY = Problem(503, "the server has as many requests as it takes at once", "send this one again in a few seconds")
FAILED = Problem(500, "the server failed at this request", "its log names the place in the code; please report it")


class Gate:
    def __init__(self, app: ASGIApp, *, token: str, limits: Limits, metrics: Metrics, paths: frozenset[str]) -> None:
        """paths: those of the API, by which requests are counted."""
        self._app, self._token, self._limits, self._metrics, self._paths = app, token, limits, metrics, paths
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._request(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        else:  # a websocket, which nothing here speaks
            await receive()
            await send({"type": "websocket.close", "code": 1003})

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        start, path = time.perf_counter(), scope["path"]
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        counted = path == PREDICT
        self._count(counted)
        try:
            try:
                self._admit(scope, path)
                await self._app(scope, self._limited(receive), answer)
            except Problem as problem:
                await _refuse(answer, problem)
            except Exception as error:
                _log(error)
                if not status:
                    await _refuse(answer, FAILED)
        finally:
            self._count(counted, -1)
            self._metrics.answered(path if path in self._paths else "other", status, time.perf_counter() - start)

    def _count(self, counted: bool, by: int = 1) -> None:
        if counted:
            self._under_way += by
            self._metrics.under_way(self._under_way)

    def _admit(self, scope: Scope, path: str) -> None:
        headers = dict(scope["headers"])
        if path not in OPEN and not opens(self._token, headers.get(b"authorization")):
            raise Problem(
                401, "the request has no valid token", "send the header 'Authorization: Bearer TOKEN', as the server's start shows"
            )
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._limits.upload:
            raise self._too_large()
        if path == PREDICT and self._under_way > self._limits.waiting:
            raise BUSY

    def _limited(self, receive: Receive) -> Receive:
        """Counts what really comes: a client may say nothing of its length, or lie."""
        total = 0

        async def limited() -> Message:
            nonlocal total
            message = await receive()
            total += len(message.get("body", b""))
            if total > self._limits.upload:
                raise self._too_large()
            return message

        return limited

    def _too_large(self) -> Problem:
        return too_large("a larger upload", f"{self._limits.upload / MIB:g} MiB")


async def _refuse(send: Send, problem: Problem) -> None:
    body = json.dumps(problem.body()).encode()
    headers: list[tuple[bytes, bytes]] = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),  # what is left of the upload is not read
    ]
    if problem.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if problem.status == 503:
        headers.append((b"retry-after", b"2"))
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _log(error: BaseException) -> None:
    """Kind and place of a failure, without its message and without values: both may be about a patient."""
    frames: Any = traceback.extract_tb(error.__traceback__)[-3:]
    places = " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in reversed(frames))
    print(f"hepdist serve: {type(error).__name__} at {places}", file=sys.stderr, flush=True)
