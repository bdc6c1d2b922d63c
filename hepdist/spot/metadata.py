"""One request to a cloud's metadata service: an answer within seconds, or `Unclear` with what was wrong; knows no cloud."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

TIMEOUT_S = 2.0
"""The service is on the machine or its host and answers within milliseconds; GCP leaves 30 s from notice to end."""
LARGEST = 1 << 20
"""Bytes of an answer that are read: Azure lists every machine of a scale set."""


class Unclear(Exception):
    """No usable answer: refused, late, a server's error, or a text that is not what the cloud documents."""


@dataclass(frozen=True)
class Answer:
    status: int
    text: str
    headers: Mapping[str, str]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """A metadata service never redirects; a captive portal does."""


class Metadata:
    """The service at `base`, such as http://169.254.169.254."""

    def __init__(self, base: str, timeout_s: float = TIMEOUT_S) -> None:
        self.base, self.timeout_s = base.rstrip("/"), timeout_s
        # No proxy: the address means this machine only to itself (Azure's and AWS's documentation say so as well).
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())

    def ask(self, path: str, headers: Mapping[str, str], method: str = "GET") -> Answer:
        """The answer, whatever its status below 500. Raises Unclear."""
        request = urllib.request.Request(self.base + path, headers=dict(headers), method=method)
        until = time.monotonic() + self.timeout_s
        try:
            try:
                response = self.opener.open(request, timeout=self.timeout_s)
            except urllib.error.HTTPError as error:
                response = error
            with response:
                status, text = int(response.status or 0), _read(response, until).decode(errors="replace")
                answer = Answer(status, text, {name.lower(): value for name, value in response.headers.items()})
        except urllib.error.URLError as error:
            raise Unclear(f"{path}: {error.reason}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unclear(f"{path}: {error or type(error).__name__}") from None
        if status >= 500:
            raise Unclear(f"{path}: status {status}")
        return answer


def _read(response: http.client.HTTPResponse | urllib.error.HTTPError, until: float) -> bytes:
    """The body; a time-out of the socket alone would let a server that sends a byte a second hold the watcher for ever."""
    parts: list[bytes] = []
    while part := response.read1(LARGEST):
        parts.append(part)
        if time.monotonic() > until:
            raise TimeoutError("timed out")
        if sum(map(len, parts)) > LARGEST:
            raise ValueError(f"more than {LARGEST} bytes")
    return b"".join(parts)
