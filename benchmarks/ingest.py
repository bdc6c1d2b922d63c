"""`hepdist ingest` over a plain pydicom loop that writes .npy: radiographs of 1024x1024 in 16 bits, in a mix of transfer syntaxes.

Ours is the whole command: headers, decoding, display values, hashes, split, shards, audit. The plain loop decodes with pydicom's own
choice of decoder and saves what comes out; it reuses 64 output files, so that the disk holds it. The two take turns.
A third of the files is uncompressed, a third RLE, a sixth each JPEG-LS and JPEG 2000 (lossless). Compressed frames repeat after
`--distinct` files, under other patients and UIDs, since encoding 20,000 of them would take longer than the benchmark.
CPU time and memory are those of all processes of the command, Ray's included, looked at once a second.

    python benchmarks/ingest.py [--files 20000] [--rounds 3] [--workers 2]

With --plan instead: how long it takes until the first pixels of so many small files (DICOM, then PNG) are read, and the memory until then.

    python benchmarks/ingest.py --plan 200000
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pydicom
from common import machine, markdown, median, spread
from PIL import Image
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

SYNTAXES = (ExplicitVRLittleEndian, RLELossless, ExplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless)
SIDE = 1024
PLAIN_OUTPUTS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--distinct", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--plan", type=int, help="so many small files; only until the first is read")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "hepdist-bench-ingest", help="kept between calls")
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)  # the plain loop over one folder, in this process
    arguments = parser.parse_args()
    if arguments.plain:
        plain_loop(arguments.plain)
        return
    print(machine(), flush=True)
    if arguments.plan:
        rows = [planned(kind, arguments.plan, arguments.workers, arguments.data) for kind in ("DICOM", "PNG")]
        print(markdown(["files", "until the first pixels are read, s", "peak memory until then, GiB"], rows))
    else:
        print(compared(arguments.files, arguments.distinct, arguments.rounds, arguments.workers, arguments.data))
    print(machine())


def compared(files: int, distinct: int, rounds: int, workers: int, data: Path) -> str:
    """Files a second of both, in turn, as a table."""
    source = data / f"{files}"
    if not source.is_dir():
        write_files(source, files, distinct)
    ours, plain = [], []
    for _ in range(rounds):
        plain.append(timed([sys.executable, __file__, "--plain", str(source)]))
        with tempfile.TemporaryDirectory(dir=data) as folder:
            ours.append(timed(ingest_command(source, folder, workers)))
        print(f"  ours {ours[-1]}, plain {plain[-1]}", flush=True)
    header = ["files", "workers", "ours, files/s", "plain, files/s", "ours / plain", "CPU ms a file", "peak memory, GiB"]
    rates = [[files / taken.seconds for taken in side] for side in (ours, plain)]
    processor = " / ".join(f"{1000 * median(taken.cpu_s for taken in side) / files:.1f}" for side in (ours, plain))
    ratio = f"{median(rates[0]) / median(rates[1]):.2f}"
    peak = f"{max(taken.peak for taken in ours) / 2**30:.2f}"
    return markdown(header, [[str(files), str(workers), *(spread(rate, 1) for rate in rates), ratio, processor, peak]])


def planned(kind: str, count: int, workers: int, data: Path) -> list[str]:
    """A row of the table: from the start of the command to the first staged pixels."""
    source = data / f"small-{kind}-{count}"
    if not source.is_dir():
        write_small_files(source, kind, count)
    with tempfile.TemporaryDirectory(dir=data) as folder:
        staging = Path(folder) / "cohort.part" / "staging"
        taken = timed(ingest_command(source, folder, workers), until=lambda: any(f.stat().st_size for f in staging.glob("unit-*.arrays")))
    return [f"{count:,} {kind}", f"{taken.seconds:.1f}", f"{taken.peak / 2**30:.2f}"]


def ingest_command(source: Path, folder: str, workers: int) -> list[str]:
    command = [
        sys.executable,
        "-c",
        "import sys; from hepdist.cli import main; sys.exit(main())",
        "ingest",
        str(source),
        f"{folder}/cohort",
    ]
    return [*command, f"workers={workers}"]


def plain_loop(source: Path) -> None:
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        for number, path in enumerate(sorted(source.iterdir())):
            np.save(Path(folder) / f"{number % PLAIN_OUTPUTS}.npy", pydicom.dcmread(path).pixel_array)


@dataclass(frozen=True)
class Taken:
    """What a command took, with all processes below it."""

    seconds: float
    cpu_s: float
    peak: int
    """Largest sum of their memory at one time, in bytes; shared pages once (PSS)."""

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s, {self.cpu_s:.1f} CPU s, {self.peak / 2**30:.2f} GiB"


def timed(command: list[str], until: Callable[[], bool] | None = None) -> Taken:
    """Runs a command to its end, or until that is so: then it is interrupted. Its processes are looked at once a second."""
    environment = {**os.environ, "HEPDIST_SALT": "a salt for benchmarks, long enough"}
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    cpu: dict[int, float] = {}
    peak = 0

    def watch() -> None:
        nonlocal peak
        while not done.wait(1.0):
            peak = max(peak, look(process.pid, cpu))

    done = threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    while process.poll() is None and not (until is not None and until()):
        time.sleep(0.1)
    seconds, code = time.perf_counter() - began, process.poll()
    done.set()
    watcher.join()
    if code is None:
        peak = max(peak, look(process.pid, cpu))
        process.send_signal(signal.SIGINT)
        process.wait()
    assert not code, f"{command[:4]} ended with {code}"
    return Taken(seconds, sum(cpu.values()), peak)


def look(pid: int, cpu: dict[int, float]) -> int:
    """Memory of a process and all below it; notes the CPU seconds of each so far."""
    total = 0
    try:
        tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in tree:
        try:
            total += process.memory_full_info().pss
            times = process.cpu_times()
            cpu[process.pid] = times.user + times.system
        except psutil.Error:
            continue
    return total


def write_files(folder: Path, count: int, distinct: int) -> None:
    """Radiograph-like images: smooth shadows, 12 bits, detector noise."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    encoded: dict[tuple[UID, int], Dataset] = {}
    for number in range(count):
        syntax = SYNTAXES[number % len(SYNTAXES)]
        key = (syntax, number // len(SYNTAXES) % max(1, distinct // len(SYNTAXES)))
        if key not in encoded:
            shadow = 2000 + 900 * np.sin(5 * x + key[1]) * np.cos(4 * y + number % 7)
            encoded[key] = radiograph((shadow + rng.normal(0, 12, shadow.shape)).clip(0, 4095).astype(np.uint16), syntax)
        dataset = encoded[key]
        dataset.PatientID, dataset.StudyInstanceUID = f"P{number}", f"1.2.3.{number}.1"
        dataset.SeriesInstanceUID, dataset.SOPInstanceUID = f"1.2.3.{number}.2", f"1.2.3.{number}.3"
        dataset.file_meta.MediaStorageSOPInstanceUID = UID(dataset.SOPInstanceUID)
        dataset.save_as(part / f"{number:06d}", enforce_file_format=True)
    part.rename(folder)


def write_small_files(folder: Path, kind: str, count: int) -> None:
    """Images of 16x16: DICOM files of a patient each, in folders of a thousand, or PNG files in two folders that are classes."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    memory = io.BytesIO()
    if kind == "PNG":
        Image.fromarray(pixels).save(memory, "PNG")
    else:
        dataset = radiograph(pixels.astype(np.uint16), ExplicitVRLittleEndian)
        dataset.PatientID, dataset.StudyInstanceUID = "P0000000", "1.2.3.0000000.1"
        dataset.SeriesInstanceUID = dataset.SOPInstanceUID = "1.2.3.0000000.2"
        dataset.save_as(memory, enforce_file_format=True)
    for number in range(count):
        path = part / (f"{'ill' if number % 2 else 'well'}/{number}.png" if kind == "PNG" else f"{number // 1000}/{number}")
        if number % 1000 < 2:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(memory.getvalue().replace(b"0000000", b"%07d" % (number + 1)))
    part.rename(folder)


def radiograph(pixels: np.ndarray, syntax: UID) -> Dataset:
    dataset = FileDataset("", {}, file_meta=pydicom.dataset.FileMetaDataset(), preamble=b"\0" * 128)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1.1")
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.Modality, dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "DX", "MONOCHROME2", 1
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.SOPInstanceUID, dataset.WindowCenter, dataset.WindowWidth = "1.2.3", 2048, 4096
    dataset.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    dataset.PixelData = pixels.tobytes()
    if syntax != ExplicitVRLittleEndian:
        dataset.compress(syntax, generate_instance_uid=False)
    return dataset


if __name__ == "__main__":
    main()
