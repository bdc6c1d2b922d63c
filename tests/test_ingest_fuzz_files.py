"""Damaged PNG, JPEG, NIfTI, npz and CSV files: no exception, no wild memory, and each file is accounted for."""

from __future__ import annotations

import io
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from hepdist.errors import IngestError
from hepdist.ingest.detect import open_source
from hepdist.ingest.files import Files
from hepdist.ingest.sample import Finding, Sample
from hepdist.ingest.spec import IngestSpec

MOST_MEMORY = 512 << 20
LONGEST = 10
"""Seconds of CPU that one file may take."""


def whole_files(rng: np.random.Generator) -> dict[str, bytes]:
    """One sound file of each kind, by the name it goes under."""
    pixels = rng.integers(0, 256, (24, 20, 3), dtype=np.uint8)
    files = {}
    for name, kind, mode in (("a.png", "PNG", "L"), ("b.png", "PNG", "RGBA"), ("c.jpg", "JPEG", "RGB"), ("d.tif", "TIFF", "L")):
        buffer = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(buffer, kind)
        files[name] = buffer.getvalue()
    voxels = rng.integers(0, 3, (8, 7, 6)).astype(np.int16)
    files["v.nii"] = nib.Nifti1Image(voxels, np.diag([1, 2, 3, 1])).to_bytes()
    files["w.nii"] = nib.Nifti2Image(voxels, np.diag([1, 2, 3, 1])).to_bytes()
    for name, save in (("m.npz", np.savez), ("n.npz", np.savez_compressed)):
        buffer = io.BytesIO()
        arrays = {f"{s}_images": rng.integers(0, 256, (4, 9, 9), dtype=np.uint8) for s in ("train", "val", "test")}
        save(buffer, **arrays, **{f"{s}_labels": np.array([[0], [1], [0], [1]], np.uint8) for s in ("train", "val", "test")})
        files[name] = buffer.getvalue()
    files["t.csv"] = b"file,label,patient,date\n" + b"".join(b"p%d.png,%d,%d,2020-01-0%d\n" % (i, i % 2, i, i + 1) for i in range(6))
    return files


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Flipped bytes (most of them in the header), wild lengths, a cut, a repeated or a removed stretch."""
    kind = rng.integers(0, 6)
    broken = bytearray(data)
    for _ in range(int(rng.integers(1, 12))):
        at = int(rng.integers(0, min(len(broken), 400 if rng.random() < 0.7 else len(broken))))
        if kind == 0 or len(broken) < 16:
            broken[at] = int(rng.integers(0, 256))
        elif kind == 1:
            broken[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0"])
        elif kind == 2:
            del broken[at:]
        elif kind == 3:
            broken[at:at] = broken[at : at + int(rng.integers(1, 64))]
        elif kind == 4:
            del broken[at : at + int(rng.integers(1, 64))]
        else:
            broken[at : at + 8] = int(10 ** rng.uniform(3, 18)).to_bytes(8, rng.choice(["little", "big"]))
        if not broken:
            return b""
    return bytes(broken)


def outcome_of(folder: Path, name: str, data: bytes, sound: dict[str, bytes]) -> str:
    """What becomes of one damaged file beside sound ones; asserts that every file is accounted for."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    options = {}
    if name.endswith(".npz"):
        (folder / name).write_bytes(data)
    elif name.endswith(".nii"):
        (folder / "x_ct.nii").write_bytes(data)
        (folder / "x_seg.nii").write_bytes(sound["v.nii"])
    elif name.endswith(".csv"):
        (folder / name).write_bytes(data)
        for i in range(6):
            Image.fromarray(rng.integers(0, 256, (9, 8), dtype=np.uint8)).save(folder / f"p{i}.png")
        options = {"labels_table": name}
    else:
        (folder / name).write_bytes(data)
        (folder / "masks").mkdir()
        Image.fromarray(rng.integers(0, 2, (24, 20), dtype=np.uint8)).save(folder / "masks" / f"{name[0]}.png")
    files = Files(folder)
    try:
        source = open_source(files, IngestSpec(**options))
    except IngestError:  # the table, or the only array file, as a whole
        assert name.endswith((".csv", ".npz"))
        return "refused"
    found = [*source.findings, *(thing for item in source.items for thing in source.read(item))]
    told = {n for s in found if isinstance(s, Sample) for n in s.files} | {f.file.split("#")[0] for f in found if isinstance(f, Finding)}
    assert told >= set(files.names)
    checks = [f.check for f in found if isinstance(f, Finding) and f.outcome == "quarantined"]
    return checks[0] if checks else "sound"


def fuzz(folder: Path, seed: int, count: int) -> Counter[str]:
    rng = np.random.default_rng(seed)
    sound = whole_files(np.random.default_rng(7))
    outcomes: Counter[str] = Counter()
    tracemalloc.start()
    try:
        for i in range(count):
            name = list(sound)[i % len(sound)]
            began = time.process_time()
            outcomes[outcome_of(folder / str(i), name, mutated(sound[name], rng), sound)] += 1
            assert time.process_time() - began < LONGEST
            assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()
    return outcomes


def test_400_damaged_files_are_each_accounted_for(tmp_path):
    outcomes = fuzz(tmp_path, seed=0, count=400)
    assert outcomes.total() == 400
    assert outcomes.keys() >= {"sound", "refused", "truncated", "not-an-image", "unsupported"}


@pytest.mark.slow
def test_1000_more_damaged_files_are_each_accounted_for(tmp_path):
    assert fuzz(tmp_path, seed=1, count=1000).total() == 1000


def npy(shape: tuple[int, ...], data: bytes, descr: str = "|u1") -> bytes:
    """An .npy member whose header claims `shape`, whatever is in it."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + data


@pytest.mark.parametrize("array", ["train_images", "train_labels"])
@pytest.mark.parametrize("shape", [(10**12,), (4, 10**6, 10**6), (4, 10**9, 1)])
def test_an_npz_that_claims_a_trillion_values_is_refused_without_memory_for_them(tmp_path, array, shape):
    import zipfile

    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for split in ("train", "val", "test"):
            archive.writestr(f"{split}_images.npy", npy((4, 9, 9), bytes(range(81)) * 4))
            archive.writestr(f"{split}_labels.npy", npy((4, 1), b"\0\1\0\1"))
    with zipfile.ZipFile(tmp_path / "y.npz", "w", zipfile.ZIP_DEFLATED) as copy, zipfile.ZipFile(tmp_path / "x.npz") as archive:
        for entry in archive.namelist():
            copy.writestr(entry, npy(shape, bytes(1 << 20)) if entry == f"{array}.npy" else archive.read(entry))
    (tmp_path / "x.npz").unlink()
    tracemalloc.start()
    try:
        outcome = outcome_of(tmp_path / "case", "y.npz", (tmp_path / "y.npz").read_bytes(), {})
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert outcome == ("refused" if array == "train_labels" else "truncated")
