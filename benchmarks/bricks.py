"""Memory of the way of large volumes: CT series of 512x512x600 with masks, as DICOM slices, ingested in bricks, trained and put together.

Two patients, one to train and one to validate; every stage is the command that a user gives, and its processes are watched from outside.
The network is small and trained on crops of bricks: it is the memory of data that is measured, not a model. Its nearly random
answer is the worst case of the surface distance, whose box is then the whole volume.

    python benchmarks/bricks.py [--slices 600] [--side 512] [--brick 96,160,160] [--data FOLDER]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import yaml
from common import machine, markdown
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

SPACING = (1.0, 0.7, 0.7)
"""mm along D, H, W; the cohort's is another, so that resampling is part of it."""
TARGET = (1.0, 0.72, 0.72)
LIMIT_GIB = 4


@dataclass
class Watched:
    """What one command took."""

    seconds: float
    largest: float
    """GiB: most memory (PSS: shared pages by their share) of any one process."""
    together: float
    """GiB: most memory of all processes at once."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=600)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--brick", default="96,160,160")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "hepdist-bench-bricks", help="kept between calls")
    arguments = parser.parse_args()
    folder = arguments.data / f"{arguments.slices}x{arguments.side}"
    source, cohort = folder / "source", folder / "cohort"
    if not source.is_dir():
        write_series(source, arguments.slices, arguments.side)
    print(machine(), flush=True)
    told = []

    def stage(name: str, *command: str) -> None:
        found = watch([sys.executable, "-c", "import sys; from hepdist.cli import main; sys.exit(main())", *command])
        told.append([name, f"{found.seconds:.0f}", f"{found.largest:.2f}", f"{found.together:.2f}", f"{found.largest / LIMIT_GIB:.2f}"])
        print(f"  {told[-1]}", flush=True)

    options = [
        f"brick={arguments.brick}",
        f"spacing={','.join(map(str, TARGET))}",
        "split=1,1,0",
        "classes=background,liver",
        "near_identical=false",
    ]
    stage("ingest", "ingest", str(source), str(cohort), *options, "workers=1", "overwrite=true")
    recipe = write_recipe(folder, cohort)
    stage("train one epoch and validate", "train", str(recipe), "--fresh")
    stage("evaluate", "evaluate", str(folder / "runs/bricks"), "--split", "val")
    header = ["stage", "seconds", "largest process, GiB", "all processes, GiB", f"largest / {LIMIT_GIB} GiB"]
    print(markdown(header, told))
    counts = json.loads((cohort / "manifest.json").read_text())["counts"]
    result = json.loads((folder / "runs/bricks/result.json").read_text())["split"]["val"]
    size = sum(path.stat().st_size for path in (cohort / "shards").iterdir()) / 2**30
    print(f"{counts['train']['rows'] + counts['val']['rows']} bricks of 2 volumes, {size:.2f} GiB; scored {result['n']} volume.")
    print(machine())


def write_recipe(folder: Path, cohort: Path) -> Path:
    values = {
        "name": "bricks", "runs": str(folder / "runs"), "data": {"cohort": str(cohort)}, "task": {"kind": "segmentation"},
        "model": {"family": "unet", "width": 4, "depth": 3, "stride": 2}, "augment": {"crop": [32, 64, 64]},
        "train": {"epochs": 1, "workers": 1, "global_batch": 4, "max_failures": 0}, "evaluation": {"splits": [], "batch": 1, "bootstrap": 10},
    }  # fmt: skip
    path = folder / "bricks.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def watch(command: list[str]) -> Watched:
    """Run a command to its end; PSS of its processes is read twice a second."""
    largest = together = 0
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    done = threading.Event()

    def look() -> None:
        nonlocal largest, together
        while not done.wait(0.5):
            held = memory_of(process.pid)
            largest, together = max(largest, *held, 0), max(together, sum(held))

    watcher = threading.Thread(target=look)
    watcher.start()
    _, errors = process.communicate()
    seconds = time.perf_counter() - began
    done.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{command[3]} failed:\n{errors[-2000:]}")
    return Watched(seconds, largest / 2**30, together / 2**30)


def memory_of(pid: int) -> list[int]:
    """Bytes of a process and each of its descendants."""
    held = [0]
    try:
        tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return held
    for process in tree:
        try:
            held.append(process.memory_full_info().pss)
        except psutil.Error:
            continue
    return held


def write_series(folder: Path, slices: int, side: int) -> None:
    """Two CT series and their masks as slices of 0 and 255: a noisy body with a brighter ellipsoid."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    rng = np.random.default_rng(0)
    h, w = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    noise = rng.normal(0, 20, (8, side, side))
    for patient in range(2):
        for kind in ("ct", "liver"):
            (part / f"p{patient}" / kind).mkdir(parents=True)
        for d in range(slices):
            z = 2 * d / slices - 1
            liver = (h + 0.2) ** 2 + (w + 0.3) ** 2 + (1.5 * z) ** 2 < 0.15 + 0.05 * patient
            ct = np.where(h**2 + w**2 < 0.8, 20.0, -1000.0) + 90 * liver + noise[d % 8]
            save_slice(part / f"p{patient}/ct/{d:04d}", ct.round().astype(np.int16), patient, 1, d)
            save_slice(part / f"p{patient}/liver/{d:04d}", liver.astype(np.uint8) * 255, patient, 2, d)
    part.rename(folder)


def save_slice(path: Path, pixels: np.ndarray, patient: int, series: int, d: int) -> None:
    dataset = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    root = f"1.2.826.0.1.3680043.8.498.{patient + 1}"
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{root}.{series}.{d + 1}"
    dataset.PatientID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"P{patient}", root, f"{root}.{series}"
    dataset.FrameOfReferenceUID, dataset.Modality, dataset.ImageType = f"{root}.9", "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, d * SPACING[0]], [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = list(SPACING[1:]), SPACING[0]
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.itemsize
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsAllocated - 1, int(pixels.dtype.kind == "i")
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.PixelData = 1, 0, pixels.tobytes()
    dataset.save_as(path, enforce_file_format=True)


if __name__ == "__main__":
    main()
