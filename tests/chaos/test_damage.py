"""Flip or cut bytes anywhere in checkpoints, models and shards: each is noticed, none is loaded, and the error names the file."""

from __future__ import annotations

import random
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from chaos import evidence
from chaos.runs import values
from cohorts import tiny_classification_cohort
from hepdist.errors import CohortError, RunError
from hepdist.failure import worker_story
from hepdist.ingest.check import check_cohort
from hepdist.recipe import Recipe
from hepdist.shards.manifest import Manifest, Shard
from hepdist.shards.read import SplitReader
from hepdist.spec import parse
from hepdist.training.checkpoint import intact, load, newest_first
from hepdist.training.launch import train
from hepdist.training.metrics_file import read_metrics
from hepdist.training.saved_model import load_model

DAMAGES = 100


def damage(path: Path, draw: random.Random) -> None:
    """Flip a byte, or every fourth time cut the file off, at a random place."""
    data = bytearray(path.read_bytes())
    place = draw.randrange(len(data))
    if draw.random() < 0.25:
        del data[place:]
    else:
        data[place] ^= draw.randrange(1, 256)
    path.write_bytes(data)


def refused(cohort: Path, manifest: Manifest, shard: Shard) -> bool:
    """Whether the check before training names the shard; it reads footers and two columns, no pixels."""
    try:
        check_cohort(cohort, manifest)
    except CohortError as error:
        return shard.path in str(error)
    return False


def test_damaged_checkpoints_are_never_loaded_and_the_one_before_is(undisturbed, tmp_path, capsys):
    draw, newest, before = random.Random(1), *newest_first(undisturbed / "checkpoints")[:2]
    names = sorted(path.name for path in newest.iterdir())
    assert len(names) == 7
    for number in range(DAMAGES):
        name, folder = names[number % len(names)], tmp_path / str(number)
        for checkpoint in (newest, before):
            shutil.copytree(checkpoint, folder / checkpoint.name)
        damage(folder / newest.name / name, draw)
        with pytest.raises(RunError, match=r"is missing or damaged") as refused:
            load(folder / newest.name)
        assert name in str(refused.value) or name == "sha256.json"
        assert intact(folder) == folder / before.name
        assert f"{newest.name}/" in capsys.readouterr().out
        assert (folder / f"damaged-{newest.name}").is_dir()
        shutil.rmtree(folder)


def test_a_damaged_model_is_never_loaded(undisturbed, tmp_path):
    draw, names = random.Random(2), sorted(path.name for path in (undisturbed / "model").iterdir())
    for number in range(5 * len(names)):
        run = tmp_path / str(number)
        shutil.copytree(undisturbed / "model", run / "model")
        damage(run / "model" / names[number % len(names)], draw)
        with pytest.raises(RunError, match=r"'model/.*' is missing or damaged"):
            load_model(run)


def test_damaged_shards_are_never_trained_on(cohort, tmp_path):
    draw, manifest, refused_by_check = random.Random(3), Manifest.load(cohort), 0
    for number in range(DAMAGES):
        shard = manifest.shards[number % len(manifest.shards)]
        shutil.copytree(cohort, tmp_path / str(number))
        damage(tmp_path / str(number) / shard.path, draw)
        refused_by_check += refused(tmp_path / str(number), manifest, shard)
        reader = SplitReader(tmp_path / str(number), manifest, shard.split)
        with pytest.raises(CohortError, match=f"shard '{shard.path}' (is damaged|has .* bytes instead of)"):
            reader.arrays(np.arange(len(reader)), ("image", "label"))
    assert refused_by_check < DAMAGES / 2  # what lies in pixels is seen only by who reads them


def test_a_shard_that_changes_under_its_reader_is_named(cohort, tmp_path):
    shutil.copytree(cohort, tmp_path / "c")
    manifest = Manifest.load(tmp_path / "c")
    reader, path = SplitReader(tmp_path / "c", manifest, "train"), tmp_path / "c" / manifest.of("train")[0].path
    rows, whole = np.arange(len(reader)), path.read_bytes()
    before = reader.arrays(rows, ("image",))["image"]
    for change, sentence in ((whole[:-1] + b"x", "is damaged"), (whole[:100], "has 100 bytes instead of"), (None, "is missing")):
        path.unlink()
        if change is not None:
            path.write_bytes(change)
        with pytest.raises(CohortError, match=f"shard 'shards/{path.name}' {sentence}"):
            reader.arrays(rows, ("image",))
    path.write_bytes(whole)
    assert np.array_equal(reader.arrays(rows, ("image",))["image"], before)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_shard_that_is_damaged_while_training_runs_stops_it_with_its_name(tmp_path):
    manifest = tiny_classification_cohort(tmp_path / "c", {"train": 75, "val": 21, "test": 21})
    changed = values(tmp_path / "c", tmp_path, "damaged")
    recipe = parse(Recipe, changed | {"train": changed["train"] | {"epochs": 500, "checkpoint_every": 0}})
    shard = tmp_path / "c" / manifest.of("train")[1].path

    def flip_once_trained() -> None:
        until = time.monotonic() + 300
        while time.monotonic() < until and not any("val_auroc" in line for line in read_metrics(recipe.folder)):
            time.sleep(0.05)
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 1
        shard.with_suffix(".new").write_bytes(data)
        shard.with_suffix(".new").replace(shard)

    thread = threading.Thread(target=flip_once_trained)
    thread.start()
    with pytest.raises(Exception, match="damaged") as stopped:
        train(recipe)
    thread.join()
    assert worker_story(stopped.value) == (
        f"error: shard 'shards/{shard.name}' is damaged (its sha256 is not the manifest's); restore it from a copy or ingest the cohort again"
    )
    assert not evidence.settled(evidence.left_in_ray)  # though the error is still held
