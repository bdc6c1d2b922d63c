"""`hepdist serve` beside a bare FastAPI + torch server of the same model and the same decoding, in turns: throughput, latency, memory, errors.

python benchmarks/serve.py [--requests 2000] [--clients 8] [--run RUN] [--out FILE]

The upload is a DICOM radiograph of 1024 x 1024 pixels of 16 bits; the model, unless --run names one, an untrained ResNet-18 of width 32 at
224 x 224: weights change nothing in time. Both servers listen on loopback and are up throughout; each turn asks one of them.
"""

from __future__ import annotations

import argparse
import http.client
import io
import itertools
import json
import os
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from fastapi import UploadFile  # at the top: FastAPI looks annotations up in the module

TOKEN = secrets.token_hex(32)
TURNS = 4
"""Of each server."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000, help="to hepdist serve; as many to the bare server")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--run", default="")
    parser.add_argument("--out", default="")
    parser.add_argument("--bare", type=int, default=0, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.bare:
        bare_server(asked.run, asked.bare)
        return
    with tempfile.TemporaryDirectory() as scratch:
        run = asked.run or str(untrained(Path(scratch) / "resnet18"))
        result = measure(run, Path(scratch), asked.requests, asked.clients)
    text = json.dumps(result, indent=1)
    print(text)
    if asked.out:
        Path(asked.out).write_text(text)


def measure(run: str, scratch: Path, requests: int, clients: int) -> dict[str, Any]:
    token = scratch / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    ports = {"hepdist": 18231, "bare": 18232}
    commands = {
        "hepdist": [sys.executable, "-m", "hepdist", "serve", run, "--port", str(ports["hepdist"]), "--token-file", str(token)],
        "bare": [sys.executable, __file__, "--bare", str(ports["bare"]), "--run", run],
    }
    load = os.getloadavg()[0]
    servers = {name: subprocess.Popen(command, stdout=subprocess.DEVNULL) for name, command in commands.items()}
    try:
        for name, port in ports.items():
            wait(port, servers[name])
        body, kind = upload(radiograph())
        seconds: dict[str, list[float]] = {name: [] for name in servers}
        walls = dict.fromkeys(servers, 0.0)
        statuses: dict[str, dict[int, int]] = {name: {} for name in servers}
        for port in ports.values():
            _, _, found = ask(port, clients, 4 * clients, body, kind)  # warm
            if set(found) != {200}:
                raise SystemExit(f"the server on port {port} answers {found}")
        watch = Memory(ports["hepdist"])
        for _ in range(TURNS):
            for name, port in ports.items():
                wall, took, found = ask(port, clients, requests // TURNS, body, kind, watch if name == "hepdist" else None)
                walls[name] += wall
                seconds[name] += took
                for status, count in found.items():
                    statuses[name][status] = statuses[name].get(status, 0) + count
        bad = [malformed(ports["hepdist"], n) for n in range(200)]
    finally:
        for server in servers.values():
            server.send_signal(signal.SIGTERM)
        for server in servers.values():
            server.wait(60)
    told = {
        name: {
            "requests": len(seconds[name]), "statuses": statuses[name], "requests_s": len(seconds[name]) / walls[name],
            "p50_ms": 1000 * statistics.median(seconds[name]), "p95_ms": 1000 * float(np.percentile(seconds[name], 95)),
        }
        for name in servers
    }  # fmt: skip
    return {
        **told, "throughput_ratio": told["hepdist"]["requests_s"] / told["bare"]["requests_s"], "memory": watch.told(),
        "malformed": {str(status): bad.count(status) for status in sorted(set(bad))}, "clients": clients, "load_before": load,
        "cpus": os.cpu_count(),
    }  # fmt: skip


def ask(
    port: int, clients: int, requests: int, body: bytes, kind: str, watch: Memory | None = None
) -> tuple[float, list[float], dict[int, int]]:
    """Seconds of all, of each, and how many answers of each status."""
    numbers, took, statuses, lock = itertools.count(), [], {}, threading.Lock()

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while next(numbers) < requests:
            start = time.perf_counter()
            connection.request("POST", "/v1/predict", body, {"Content-Type": kind, "Authorization": f"Bearer {TOKEN}"})
            answer = connection.getresponse()
            answer.read()
            with lock:
                took.append(time.perf_counter() - start)
                statuses[answer.status] = statuses.get(answer.status, 0) + 1
                if watch is not None:
                    watch.sample()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start, took, statuses


class Memory:
    """Resident bytes of the processes that answer a port's requests, sampled every so many of them."""

    EVERY = 20

    def __init__(self, port: int) -> None:
        pids = {
            c.pid for c in psutil.net_connections("tcp") if c.laddr and c.laddr.port == port and c.status == psutil.CONN_LISTEN and c.pid
        }
        self._processes = [psutil.Process(pid) for pid in pids]
        self._count, self._sizes = 0, list[float]()

    def sample(self) -> None:
        self._count += 1
        if self._count % self.EVERY == 0:
            self._sizes.append(sum(process.memory_info().rss for process in self._processes) / 2**20)

    def told(self) -> dict[str, float]:
        """MiB; growth: the last tenth of all requests against the first tenth after the half."""
        half = self._sizes[len(self._sizes) // 2 :]
        tenth = max(1, len(self._sizes) // 10)
        first, last = statistics.median(half[:tenth]), statistics.median(half[-tenth:])
        return {
            "processes": len(self._processes),
            "at_half_mib": first,
            "at_end_mib": last,
            "growth_mib": last - first,
            "most_mib": max(self._sizes),
        }


def malformed(port: int, n: int) -> int:
    rng = np.random.default_rng(n)
    good = radiograph()
    kinds = [
        lambda: rng.bytes(int(rng.integers(0, 5000))),
        lambda: good[: int(rng.integers(132, len(good) - 2))],
        lambda: bytes(128) + b"DICM" + rng.bytes(int(rng.integers(0, 5000))),
        lambda: b"PK\x03\x04" + rng.bytes(500),
        lambda: b"\x89PNG\r\n\x1a\n" + rng.bytes(500),
    ]
    body, kind = upload(kinds[n % len(kinds)]())
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/v1/predict", body, {"Content-Type": kind, "Authorization": f"Bearer {TOKEN}"})
    return connection.getresponse().status


def upload(data: bytes) -> tuple[bytes, str]:
    boundary = "-" * 20 + "boundary"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="1"\r\nContent-Type: application/octet-stream\r\n\r\n'
    return head.encode() + data + f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def radiograph(side: int = 1024) -> bytes:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, ComputedRadiographyImageStorage
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID = ComputedRadiographyImageStorage
    made.SOPInstanceUID, made.StudyInstanceUID, made.SeriesInstanceUID = (generate_uid(entropy_srcs=[part]) for part in "ist")
    meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.Modality, made.PatientID, made.PhotometricInterpretation, made.SamplesPerPixel = "CR", "P1", "MONOCHROME2", 1
    made.Rows = made.Columns = side
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    y, x = np.mgrid[:side, :side] / side
    pixels = 2000 + 1500 * np.sin(7 * x) * np.cos(5 * y) + np.random.default_rng(0).normal(0, 60, (side, side))
    made.PixelData = pixels.clip(0, 4095).astype("<u2").tobytes()
    made["PixelData"].VR = "OW"
    buffer = io.BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def untrained(folder: Path) -> Path:
    from hepdist.ingest.fit import Layout
    from hepdist.recipe import Recipe
    from hepdist.spec import parse
    from hepdist.training.saved_model import Signature, build_model, save_model

    layout = Layout(1, (224, 224), None, "uint8", "display 0..255", resized=True)
    image = {"dtype": "uint8", "shape": [1, 224, 224], "unit": layout.unit, "axes": "CHW", "classes": []}
    origin = {"name": "none", "source": "dicom", "options": {}, "layout": asdict(layout)}
    signature = Signature({"image": image}, ("normal", "hepatitis"), False, (), (), {"image": {"mean": [90.0], "std": [40.0]}}, origin)
    values = {
        "name": folder.name, "data": {"cohort": "none"}, "task": {"kind": "classification"},
        "model": {"family": "resnet", "depth": 18, "width": 32, "stem": "large"},
    }  # fmt: skip
    recipe = parse(Recipe, values)
    save_model(folder, dict(build_model(recipe, signature).state_dict()), recipe, signature, samples=0)
    return folder


def bare_server(run: str, port: int) -> None:
    """What one writes in an afternoon: no token, no limits, no batches, no checks but those of the reader."""
    import torch
    import uvicorn
    from fastapi import FastAPI

    from hepdist.inference.predictor import Predictor
    from hepdist.inference.reading import Reading
    from hepdist.ingest.pseudonym import Pseudonyms

    torch.set_num_threads(os.cpu_count() or 1)
    predictor, names, app = Predictor([run]), Pseudonyms(b"a salt of sixteen bytes"), FastAPI()

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/v1/predict")
    def predict(files: list[UploadFile]) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            for number, file in enumerate(files):
                (Path(folder) / f"{number}.dcm").write_bytes(file.file.read())
            reading = Reading(folder, predictor.signature, [], names)
            cases = [found for item in reading.items for found in reading.read(item)]
        answers = predictor([predictor.upright(case) for case in cases])  # type: ignore[arg-type]
        return {"probabilities": [answer.probability.tolist() for answer in answers if answer.probability is not None]}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


def wait(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if server.poll() is not None:
            raise SystemExit(f"a server ended with {server.returncode} before it answered")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.3)
    raise SystemExit(f"nothing answers on port {port}")


if __name__ == "__main__":
    main()
