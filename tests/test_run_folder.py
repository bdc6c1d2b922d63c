"""A run's folder under kills: one writer at a time, whose right ends with its process, and nothing half-made that stays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hepdist.errors import RunError
from hepdist.training.run_folder import LOCK, Writer, sweep

HOLD = "import sys; from pathlib import Path; from hepdist.training.run_folder import Writer; w = Writer(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"


def holder(folder: Path) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_second_writer_is_refused_with_the_first_ones_name_until_that_is_killed(tmp_path):
    first = holder(tmp_path)
    with pytest.raises(RunError, match=rf"run '{tmp_path.name}' is being written by another process \(process {first.pid} on .*\)"):
        Writer(tmp_path, patience_s=0.0)
    first.kill()
    first.wait()
    Writer(tmp_path).release()
    assert not (tmp_path / LOCK).exists()


def test_a_lock_that_its_holder_took_away_protects_nobody(tmp_path):
    first = Writer(tmp_path)
    first.release()
    second = Writer(tmp_path, patience_s=0.0)
    with pytest.raises(RunError, match="is being written"):
        Writer(tmp_path, patience_s=0.0)
    second.release()


def test_half_made_files_of_killed_processes_are_swept_and_whole_ones_stay(tmp_path):
    for name in (".model.part", "checkpoints/.samples-000000000008.part", "checkpoints/samples-000000000004", ".model.old", "samples"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / ".model.old" / "model.safetensors").write_bytes(b"the best so far")
    for name in (".recipe.yaml.0a1b2c3d.part", ".metrics.jsonl.part", "samples/.rank-00000.jsonl.part", "metrics.jsonl"):
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "checkpoints", "checkpoints/samples-000000000004", "metrics.jsonl", "model", "model/model.safetensors", "samples",
    ]  # fmt: skip
    sweep(tmp_path)
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == b"the best so far"
