"""A killed ingest: what was done is not done again, and the cohort is the one that an undisturbed ingest gives."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from salts import SALT

from hepdist.ingest import ingest
from hepdist.shards.manifest import MANIFEST

COMMAND = "import sys; from hepdist.ingest import ingest; ingest(sys.argv[1], sys.argv[2], sys.argv[3:])"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """640 pictures of 192x192 in two classes: 64 units of ten, some tenths of a second of work."""
    folder = tmp_path_factory.mktemp("restart") / "source"
    rng = np.random.default_rng(0)
    for i in range(640):
        path = folder / ("well" if i % 3 else "ill") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (192, 192), dtype=np.uint8)).save(path, compress_level=1)
    return folder


def start(source: Path, cohort: Path, *options: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "HEPDIST_SALT": SALT}
    return subprocess.Popen([sys.executable, "-c", COMMAND, str(source), str(cohort), *options], env=environment, start_new_session=True)


def contents(cohort: Path) -> dict[str, bytes]:
    return {p.relative_to(cohort).as_posix(): p.read_bytes() for p in sorted(cohort.rglob("*")) if p.is_file()}


def kill_when(process: subprocess.Popen[bytes], part: Path, units: int, wait_s: float) -> bool:
    """kill -9 once so many units are there and `wait_s` has passed; whether it was still running."""
    staging = part / "staging"
    while process.poll() is None and len(list(staging.glob("unit-*.json")) if staging.is_dir() else []) < units:
        time.sleep(0.002)
    time.sleep(wait_s)
    running = process.poll() is None
    os.killpg(process.pid, signal.SIGKILL) if running else None
    process.wait()
    return running


@pytest.mark.parametrize("rounds", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_an_ingest_killed_at_random_moments_ends_with_the_same_bytes(pictures, tmp_path, monkeypatch, rounds):
    monkeypatch.setenv("HEPDIST_SALT", SALT)
    ingest(str(pictures), str(tmp_path / "undisturbed/cohort"))
    expected = contents(tmp_path / "undisturbed/cohort")
    draw, killed = random.Random(rounds), 0
    for number in range(rounds):
        cohort = tmp_path / f"{number}/cohort"
        cohort.parent.mkdir()
        part = cohort.with_name("cohort.part")
        killed += kill_when(start(pictures, cohort), part, draw.randrange(66), draw.random() * 0.3)
        assert not cohort.exists() or (cohort / MANIFEST).is_file()  # never half a cohort
        ingest(str(pictures), str(cohort))
        assert contents(cohort) == expected
        assert [p.name for p in cohort.parent.iterdir()] == ["cohort"]
    assert killed


def test_what_was_read_before_the_kill_is_not_read_again(pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("HEPDIST_SALT", SALT)
    part = tmp_path / "cohort.part"
    assert kill_when(start(pictures, tmp_path / "cohort"), part, 20, 0.0)
    done = {p.name: p.stat().st_mtime_ns for p in (part / "staging").glob("unit-*.json")}
    assert len(done) >= 20
    second = start(pictures, tmp_path / "cohort")
    assert kill_when(second, part, 50, 0.0)
    again = {p.name: p.stat().st_mtime_ns for p in (part / "staging").glob("unit-*.json")}
    assert done.items() <= again.items()


def test_work_of_other_options_or_changed_files_is_thrown_away(pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("HEPDIST_SALT", SALT)
    source, part = tmp_path / "source", tmp_path / "cohort.part"
    shutil.copytree(pictures, source)
    assert kill_when(start(source, tmp_path / "cohort"), part, 20, 0.0)
    Image.fromarray(np.zeros((192, 192), np.uint8)).save(source / "ill/0.png")
    changed = ingest(str(source), str(tmp_path / "cohort"), ["size=96,96"])
    assert changed.tensors["image"]["shape"] == [1, 96, 96]
    assert contents(tmp_path / "cohort") == contents_of_fresh(source, tmp_path / "fresh/cohort")


def contents_of_fresh(source: Path, cohort: Path) -> dict[str, bytes]:
    ingest(str(source), str(cohort), ["size=96,96"])
    return contents(cohort)


def test_no_name_of_a_file_waits_on_disk_between_reading_and_writing(tmp_path):
    for i in range(200):
        path = tmp_path / f"source/{'ill' if i % 2 else 'well'}/Zacharias-{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (64, 64), dtype=np.uint8)).save(path)
    part = tmp_path / "cohort.part"
    assert kill_when(start(tmp_path / "source", tmp_path / "cohort"), part, 10, 0.0)
    assert not [name for name, content in contents(part).items() if b"Zacharias" in content]


@pytest.mark.slow
def test_several_processes_write_the_bytes_that_one_writes(pictures, tmp_path, monkeypatch, ray_cluster):
    monkeypatch.setenv("HEPDIST_SALT", SALT)
    ingest(str(pictures), str(tmp_path / "1/cohort"), ["workers=1"])
    ingest(str(pictures), str(tmp_path / "3/cohort"), ["workers=3"])
    assert contents(tmp_path / "1/cohort") == contents(tmp_path / "3/cohort")
