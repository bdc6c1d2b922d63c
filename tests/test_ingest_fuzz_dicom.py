"""Damaged DICOM files: seeded byte flips, truncations and wild lengths crash nothing, warn of nothing and are each accounted for."""

from __future__ import annotations

import resource
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from dicom_files import enhanced, image, save, segmentation, slices, stored_values, structures, unpacked
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from hepdist.errors import IngestError
from hepdist.ingest.dicom import DicomSource
from hepdist.ingest.files import Files
from hepdist.ingest.sample import Finding, Sample

MEMORY = 2 << 30
LONGEST = 10
"""Seconds of CPU that one file may take."""
LARGEST_SEED = 1 << 20
"""Bytes of a real file that is damaged: the parser and the decoders matter, not megabytes of pixels."""


def seeds(folder: Path, shared_data: Path | None) -> list[bytes]:
    """One file of each kind that ingest reads, and the real ones where they are at hand."""
    stored = stored_values()
    series = slices(stored)
    contour = np.array([(-10, -20, 100), (-8, -20, 100), (-8, -18, 100)], float)
    kinds = [series[0], enhanced(stored), segmentation(series, {"Liver": stored > 1000}), structures(series, {"Liver": [contour]})]
    kinds += [image(np.tile(stored[0], (4, 4)), "CR", f"plain {n}", PatientAge="045Y", WindowCenter=500, WindowWidth=900) for n in range(2)]
    for syntax in (JPEGLSLossless, JPEG2000Lossless, RLELossless):
        kinds.append(image(np.tile(stored[0], (4, 4)), "CR", str(syntax)))
        kinds[-1].compress(syntax)
    save(kinds, folder / "generated")
    files = sorted((folder / "generated").iterdir())
    if shared_data is not None:
        zoo = unpacked(shared_data / "dicom_zoo/pydicom_data_dev.tar.xz", folder / "zoo")
        files += sorted(f for f in zoo.rglob("*.dcm") if f.stat().st_size < LARGEST_SEED)
    return [file.read_bytes() for file in files]


def damaged(seed: bytes, rng: np.random.Generator) -> bytes:
    """Cut short, bytes flipped, or a length of four bytes made wild; the first kibibyte, where the header is, as often as the rest."""
    data = bytearray(seed)
    reach = len(data) if rng.random() < 0.5 else min(len(data), 1024)
    kind = rng.integers(3)
    if kind == 0:
        return bytes(data[: rng.integers(1, len(data))])
    if kind == 1:
        for at in rng.integers(0, reach, rng.integers(1, 40)):
            data[at] = rng.integers(256)
    else:
        for at in rng.integers(0, max(1, reach - 4), 3):
            wild = rng.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFFE, 0x10000000])
            data[at : at + 4] = int(wild).to_bytes(4, "little" if rng.random() < 0.5 else "big")
    return bytes(data)


def assert_damage_is_met(folder: Path, originals: list[bytes], count: int, capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(20)
    for number in range(count):
        (folder / f"{number % 10}").mkdir(parents=True, exist_ok=True)
        (folder / f"{number % 10}" / f"{number}").write_bytes(damaged(originals[number % len(originals)], rng))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    capfd.readouterr()
    accounted: set[str] = set()
    for part in range(10):  # ten sources, since one reads one modality
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            files = Files(folder / str(part))
            for modality in (None, "CT"):
                try:
                    source = DicomSource(files, modality=modality, least_slices=1, allow_burned_in=True, frames="all")
                except IngestError:  # where no CT is left of these
                    assert modality is not None
                    continue
                found: list[Sample | Finding] = list(source.findings)
                for item in source.items:
                    began = time.process_time()
                    found += source.read(item)
                    assert time.process_time() - began < LONGEST
                names = {name for row in found for name in (row.files if isinstance(row, Sample) else (row.file,))}
                assert names == set(files.names)
                assert all(row.reason for row in found if isinstance(row, Finding))
                accounted |= {f"{part}/{name}" for name in names}
    assert len(accounted) == count
    assert capfd.readouterr() == ("", "")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < MEMORY


def test_damaged_files_are_accounted_for_quietly(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert_damage_is_met(tmp_path / "damaged", seeds(tmp_path, None), 150, capfd)


def test_damaged_real_files_are_accounted_for_quietly(tmp_path: Path, shared_data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert_damage_is_met(tmp_path / "damaged", seeds(tmp_path, shared_data), 150, capfd)


@pytest.mark.slow
def test_a_thousand_damaged_files_are_accounted_for_quietly(tmp_path: Path, shared_data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert_damage_is_met(tmp_path / "damaged", seeds(tmp_path, shared_data), 1000, capfd)
