"""The page in a real browser, driven over Chromium's own protocol: a dropped study, its overlay and probabilities, and no request elsewhere."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dicom_files
import httpx2
import pytest
import uvicorn
from served import TOKEN, classifier, radiograph, segmenter, series

from hepdist.inference.predictor import Predictor
from hepdist.serve.app import Service, build_app

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]
websockets = pytest.importorskip("websockets", reason="websockets (of uvicorn[standard]) drives the browser")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def browser(tmp_path) -> Iterator[int]:
    """The port of Chromium's remote debugging."""
    port = free_port()
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--lang=en", "--window-size=1100,900", "--no-first-run"]
    command = [str(CHROMIUM), *flags, f"--remote-debugging-port={port}", f"--user-data-dir={tmp_path / 'profile'}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            httpx2.get(f"http://127.0.0.1:{port}/json/version")
            break
        except httpx2.TransportError:
            time.sleep(0.3)
    yield port
    process.terminate()
    process.wait(20)


@pytest.fixture
def served() -> Iterator[Any]:
    running: list[uvicorn.Server] = []

    def start(run: Path) -> int:
        port = free_port()
        server = uvicorn.Server(uvicorn.Config(build_app(Service(Predictor([run]), TOKEN)), host="127.0.0.1", port=port, log_level="error"))
        threading.Thread(target=server.run, daemon=True).start()
        while not server.started:
            time.sleep(0.05)
        running.append(server)
        return port

    yield start
    for server in running:
        server.should_exit = True


class Tab:
    """One tab of the browser."""

    def __init__(self, socket_: Any) -> None:
        self._socket, self._number = socket_, 0
        self.asked: list[str] = []
        self.complaints: list[str] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        await self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(await self._socket.recv())
            if message.get("method") == "Network.requestWillBeSent":
                self.asked.append(message["params"]["request"]["url"])
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(json.dumps(message["params"]))
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]

    async def value(self, script: str) -> Any:
        return (await self.call("Runtime.evaluate", expression=script, returnByValue=True))["result"].get("value")

    async def until(self, script: str, seconds: float = 90) -> Any:
        for _ in range(int(seconds / 0.2)):
            if found := await self.value(script):
                return found
            await asyncio.sleep(0.2)
        raise AssertionError(f"never so: {script}; the page says: {await self.value('document.body.innerText')}")


async def predicted(browser: int, port: int, files: list[Path], picture: Path | None, fragment: str = f"#token={TOKEN}") -> Tab:
    """A tab in which the files were chosen and predicted."""
    where = httpx2.put(f"http://127.0.0.1:{browser}/json/new?about:blank").json()["webSocketDebuggerUrl"]
    async with websockets.connect(where, max_size=None) as socket_:
        tab = Tab(socket_)
        for domain in ("Network", "Runtime", "Page", "DOM", "Log"):
            await tab.call(f"{domain}.enable")
        await tab.call("Page.navigate", url=f"http://127.0.0.1:{port}/{fragment}")
        if not fragment:
            await tab.until("!document.getElementById('ask').hidden")
            await tab.value(f"document.getElementById('token').value = {TOKEN!r}; document.querySelector('#ask button').click(); 1")
        await tab.until("!document.getElementById('main').hidden")
        assert TOKEN not in await tab.value("location.href")
        document = await tab.call("DOM.getDocument")
        field = await tab.call("DOM.querySelector", nodeId=document["root"]["nodeId"], selector="#files")
        await tab.call("DOM.setFileInputFiles", nodeId=field["nodeId"], files=[str(file) for file in files])
        await tab.until("!document.getElementById('go').disabled")
        await tab.value("document.getElementById('go').click(); 1")
        await tab.until("document.querySelector('.result') && document.querySelector('.result img').naturalWidth")
        tab.text = await tab.value("document.getElementById('results').innerText")  # type: ignore[attr-defined]
        if picture is not None:
            shot = await tab.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
            picture.write_bytes(base64.b64decode(shot["data"]))
        return tab


def picture_of(name: str) -> Path | None:
    """Where docs/images are made from, if asked for."""
    folder = os.environ.get("HEPDIST_SCREENSHOTS")
    return Path(folder) / name if folder else None


def test_a_radiograph_shows_its_probabilities_and_nothing_outside_is_asked(browser, served, tmp_path):
    run = classifier(tmp_path / "cr")
    dicom_files.save(radiograph(1), tmp_path / "files", ["1.dcm"])
    port = served(run)
    tab = asyncio.run(predicted(browser, port, [tmp_path / "files/1.dcm"], picture_of("serve-classifier.png"), fragment=""))
    assert "normal" in tab.text
    assert "hepatitis" in tab.text
    assert all(url.startswith((f"http://127.0.0.1:{port}/", "data:", "blob:")) for url in tab.asked)
    assert tab.complaints == []


def test_a_series_shows_its_overlay_and_volumes(browser, served, tmp_path):
    run = segmenter(tmp_path / "ct")
    dicom_files.save(series(1), tmp_path / "files")
    tab = asyncio.run(predicted(browser, served(run), sorted((tmp_path / "files").iterdir()), picture_of("serve-segmenter.png")))
    assert "liver" in tab.text
    assert " ml" in tab.text
    assert tab.complaints == []
