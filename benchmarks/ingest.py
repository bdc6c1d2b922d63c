"""`hepdist ingest` over a plain pydicom loop that writes .npy: radiographs of 1024x1024 in 16 bits, in a mix of transfer syntaxes.

Ours is the whole command: headers, decoding, display values, hashes, split, shards, audit. The plain loop decodes with pydicom's own
choice of decoder and saves what comes out; it reuses 64 output files, so that the disk holds it. The two take turns.
A third of the files is uncompressed, a third RLE, a sixth each JPEG-LS and JPEG 2000 (lossless). Compressed frames repeat after
`--distinct` files, under other patients and UIDs, since encoding 20,000 of them would take longer than the benchmark.

    python benchmarks/ingest.py [--files 20000] [--rounds 3] [--workers 2]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pydicom
from common import machine, markdown, median, spread
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
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "hepdist-bench-ingest", help="kept between calls")
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)  # the plain loop over one folder, in this process
    arguments = parser.parse_args()
    if arguments.plain:
        plain_loop(arguments.plain)
        return
    source = arguments.data / f"{arguments.files}"
    if not source.is_dir():
        write_files(source, arguments.files, arguments.distinct)
    print(machine(), flush=True)
    ours, plain, peaks = [], [], []
    for _ in range(arguments.rounds):
        plain.append(arguments.files / timed([sys.executable, __file__, "--plain", str(source)])[0])
        with tempfile.TemporaryDirectory(dir=arguments.data) as folder:
            options = [f"workers={arguments.workers}", "near_identical=false"]
            seconds, peak = timed(
                [sys.executable, "-c", "from hepdist.cli import main; main()", "ingest", str(source), f"{folder}/cohort", *options]
            )
        ours.append(arguments.files / seconds)
        peaks.append(peak)
        print(f"  ours {ours[-1]:.1f}, plain {plain[-1]:.1f} files/s, peak {peaks[-1] / 2**30:.2f} GiB", flush=True)
    header = ["files", "workers", "ours, files/s", "plain, files/s", "ours / plain", "peak memory, GiB"]
    ratio = f"{median(ours) / median(plain):.2f}"
    print(
        markdown(
            header, [[str(arguments.files), str(arguments.workers), spread(ours, 1), spread(plain, 1), ratio, f"{max(peaks) / 2**30:.2f}"]]
        )
    )
    print(machine())


def plain_loop(source: Path) -> None:
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        for number, path in enumerate(sorted(source.iterdir())):
            np.save(Path(folder) / f"{number % PLAIN_OUTPUTS}.npy", pydicom.dcmread(path).pixel_array)


def timed(command: list[str]) -> tuple[float, int]:
    """Seconds of a command, and the largest sum of memory that its processes held at once (shared pages once: PSS)."""
    environment = {**os.environ, "HEPDIST_SALT": "a salt for benchmarks, long enough"}
    peak, began = 0, time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(1.0):
            peak = max(peak, memory_of(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    seconds = time.perf_counter() - began
    done.set()
    watcher.join()
    assert code == 0, f"{command[:4]} ended with {code}"
    return seconds, peak


def memory_of(pid: int) -> int:
    total = 0
    try:
        tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in tree:
        try:
            total += process.memory_full_info().pss
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
