"""Checkpoints that are written beside training: which states are kept waiting, what a full disk does, and a second place for all of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch
from test_training import recipe

from cohorts import tiny_classification_cohort
from hepdist.errors import RunError, StoreError
from hepdist.place import place_of
from hepdist.training.checkpoint import Checkpoint, Progress, digest, load, newest_first, save, write_sums
from hepdist.training.launch import train
from hepdist.training.metrics_file import read_metrics
from hepdist.training.mirror import Mirror
from hepdist.training.saver import Save, Saver


def state(cursor: int, best_cursor: int = -1) -> Checkpoint:
    weights = {"w": torch.full((1000,), float(cursor))}
    return Checkpoint(Progress(cursor, best_cursor=best_cursor), weights, {"exp_avg.w": weights["w"] / 2}, None)


def test_while_one_is_written_the_newest_and_the_newest_best_wait_and_no_others():
    begun, go, written = threading.Event(), threading.Event(), []

    def write(checkpoint: Checkpoint, best: bool) -> int:
        begun.set()
        go.wait(30)
        written.append((checkpoint.progress.cursor, best))
        return 7

    saver = Saver(write)
    saver.put(Save(state(1), best=False, step=1, copy_s=0.0))
    assert begun.wait(30)
    for cursor, best in ((2, False), (3, True), (4, False), (5, True), (6, False), (7, False)):
        saver.put(Save(state(cursor), best, step=cursor, copy_s=0.0))
    go.set()
    news = saver.close()
    assert written == [(1, False), (5, True), (7, False)]
    assert [(saved.facts()["checkpoint"], saved.facts()["bytes"]) for saved in news] == [(1, 7), (5, 7), (7, 7)]


def test_what_can_not_be_written_is_told_and_the_next_one_is_written():
    answers = iter([StoreError("'s3://b' can't be reached"), OSError(28, "No space left on device"), None])

    def write(checkpoint: Checkpoint, best: bool) -> int:
        if error := next(answers):
            raise error
        return 1

    saver = Saver(write)
    told: list[str] = []
    for cursor in (1, 2, 3):
        saver.put(Save(state(cursor), best=False, step=cursor, copy_s=0.0))
        while not (news := saver.news()):
            pass
        told.append(news[0].problem)
    assert told == ["'s3://b' can't be reached", "No space left on device", ""]
    assert saver.close() == []


def test_a_last_checkpoint_that_can_not_be_written_is_an_error():
    def write(checkpoint: Checkpoint, best: bool) -> int:
        raise OSError(28, "No space left on device")

    saver = Saver(write)
    saver.put(Save(state(1), best=False, step=1, copy_s=0.0))
    with pytest.raises(
        RunError, match=r"the last checkpoint could not be written: No space left on device; mend that, and the same command"
    ):
        saver.close()


def test_a_mistake_in_writing_is_raised_as_it_is():
    saver = Saver(lambda checkpoint, best: len(checkpoint))  # type: ignore[arg-type]
    saver.put(Save(state(1), best=False, step=1, copy_s=0.0))
    with pytest.raises(TypeError):
        saver.close()


@pytest.fixture
def small_disk(tmp_path: Path):
    """A disk of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs the right to mount")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_leaves_the_older_checkpoint_and_nothing_half_written(small_disk):
    older = save(small_disk, state(1), {})
    (small_disk / "ballast").write_bytes(bytes(8 * 2**20 - 60_000))
    with pytest.raises(Exception, match="No space left on device"):
        save(small_disk, Checkpoint(Progress(2), {"w": torch.zeros(100_000)}, {}, None), {})
    assert [path.name for path in newest_first(small_disk)] == [older.name]
    assert not list(small_disk.glob(".*"))
    (small_disk / "ballast").unlink()
    save(small_disk, Checkpoint(Progress(2), {"w": torch.zeros(100_000)}, {}, None), {})
    assert load(newest_first(small_disk)[0]).progress.cursor == 2


def fill_until_warned(run: Path, disk: Path) -> None:
    """Fill the disk once there is a checkpoint, and make room once the run has said that it could not save."""
    until, ballast = time.monotonic() + 120, disk / "ballast"
    while time.monotonic() < until and not newest_first(run / "checkpoints"):
        time.sleep(0.01)
    with open(ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while time.monotonic() < until:
            file.write(bytes(4096))
    while time.monotonic() < until and not warnings(run):
        time.sleep(0.01)
    ballast.unlink()


def warnings(run: Path) -> list[str]:
    return [line["warning"] for line in read_metrics(run) if "warning" in line]


@pytest.mark.usefixtures("ray_cluster")
def test_a_run_goes_on_while_the_disk_is_full_and_saves_again_when_there_is_room(tmp_path, small_disk):
    tiny_classification_cohort(tmp_path / "c", {"train": 75, "val": 10, "test": 10})
    slow = recipe(tmp_path / "c", tmp_path, "full", train={"epochs": 40, "validate_every": 40, "checkpoint_every": 2, "workers": 1})
    slow.folder.mkdir()
    (slow.folder / "checkpoints").symlink_to(small_disk)
    filler = threading.Thread(target=fill_until_warned, args=(slow.folder, small_disk))
    filler.start()
    folder = train(slow)
    filler.join()
    assert {"No space left on device" in warning for warning in warnings(folder)} == {True}
    saved = [line["checkpoint"] for line in read_metrics(folder) if "bytes" in line]
    failed = [line["checkpoint"] for line in read_metrics(folder) if "warning" in line]
    assert saved[0] < failed[0] < failed[-1] + 1 <= saved[-1] == 40 * 75
    assert load(newest_first(folder / "checkpoints")[0]).progress.finished
    assert not list(small_disk.glob(".*"))


def test_a_mirror_holds_what_the_run_keeps_and_a_new_machine_takes_it_over(tmp_path, bucket):
    run = tmp_path / "here" / "r"
    (run / "model").mkdir(parents=True)
    (run / "recipe.yaml").write_text("name: r\n")
    (run / "model" / "model.safetensors").write_bytes(b"weights")
    write_sums(run / "model")
    mirror = Mirror(f"{bucket}/runs", run)
    for cursor in (1, 2, 3):
        mirror.upload(save(run / "checkpoints", state(cursor, best_cursor=2), {}), samples=cursor if cursor < 3 else None)
    shutil.rmtree(run / "checkpoints" / "samples-000000000001")
    mirror.upload(run / "checkpoints" / "samples-000000000003", samples=None)
    names = sorted(place_of(f"{bucket}/runs/r").names())
    assert [name for name in names if name.endswith("sha256.json")] == [
        "checkpoints/samples-000000000002/sha256.json", "checkpoints/samples-000000000003/sha256.json", "model/samples-000000000002/sha256.json",
    ]  # fmt: skip
    place_of(f"{bucket}/runs/r").write("checkpoints/samples-000000000004/model.safetensors", b"half of an upload that was killed")

    there = Mirror(f"{bucket}/runs", tmp_path / "there" / "r")
    assert there.fetch()
    assert [path.name[-1] for path in newest_first(there.run / "checkpoints")] == ["3", "2"]
    assert digest(load(newest_first(there.run / "checkpoints")[0]).weights) == digest(state(3).weights)
    assert (there.run / "recipe.yaml").read_text() == "name: r\n"
    assert (there.run / "model" / "model.safetensors").read_bytes() == (run / "model" / "model.safetensors").read_bytes()
    assert not there.fetch(), "it is not behind any more"
    place_of(f"{bucket}/runs/r").write("checkpoints/samples-000000000003/model.safetensors", b"damaged")
    third = Mirror(f"{bucket}/runs", tmp_path / "third" / "r")
    assert third.fetch()
    assert [path.name[-1] for path in newest_first(third.run / "checkpoints")] == ["2"]
    mirror.clear()
    assert not list(place_of(f"{bucket}/runs/r").names())
