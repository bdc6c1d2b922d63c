"""The contestants of stream.py: each loader set up as its documentation advises, over the same images, as an endless iterator.

A contestant is a pair of functions of (folder, cohort): `prepare` writes its own format once, `batches` is the call whose
first batch is timed. `batches` yields (images, last): uint8[b, 1, 224, 224], and whether the batch ends an epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from hepdist.shards.format import as_fixed_shape_tensor, encode
from hepdist.shards.manifest import Manifest
from hepdist.shards.plan import Plan
from hepdist.shards.read import SplitReader

BATCH = 64
WORKERS = 2
WINDOW = 1280
"""Rows of a shuffle buffer, where a loader has one: as many as our 64 MiB window holds."""
PLANNED_EPOCHS = 20
"""Epochs that our one pipeline plans for; the consumer stops earlier."""

Batches = Iterator[tuple[torch.Tensor, bool]]


@dataclass(frozen=True)
class Contestant:
    name: str
    settings: str
    module: str
    """The import without which it is skipped."""
    prepare: Callable[[Path, Path], None]
    batches: Callable[[Path, Path], Batches]
    on_ray: bool = False
    """Ray is started before the clock."""


def arrays(cohort: Path) -> tuple[np.ndarray, np.ndarray]:
    """All images and labels of the cohort's train split, in memory."""
    manifest = Manifest.load(cohort)
    found = SplitReader(cohort, manifest, "train").arrays(np.arange(manifest.rows("train")), ("image", "label"))
    return found["image"], found["label"]


def nothing(folder: Path, cohort: Path) -> None:
    """Read from the cohort as it is."""


def _again(loader: Iterable[Any], images: Callable[[Any], torch.Tensor]) -> Batches:
    """Epoch after epoch of a loader that is iterated anew for each, with one batch of look-ahead to know the last."""
    while True:
        batch = None
        for following in loader:
            if batch is not None:
                yield images(batch), False
            batch = following
        yield images(batch), True


# --- hepdist ---


def plan_of(cohort: Path) -> Plan:
    """Images and labels in shuffle windows of 64 MiB, as `hepdist train` reads them."""
    manifest = Manifest.load(cohort)
    groups = tuple(rows for shard in manifest.of("train") for rows in shard.row_groups)
    return Plan(
        cohort=str(cohort), columns=("image", "label"), train_group_rows=groups, val_rows=0, row_bytes=manifest.row_bytes(), seed=0,
        epochs=PLANNED_EPOCHS, global_batch=BATCH, validate_every=1, validation_batch=BATCH, window_mib=64.0,
    )  # fmt: skip


def hepdist_batches(folder: Path, cohort: Path) -> Batches:
    from hepdist.shards.stream import Stream  # with Ray Data, which other contestants need not import

    stream = Stream(plan_of(cohort), Manifest.load(cohort), 0, 0, 1, torch.device("cpu"))
    try:
        for _ in range(PLANNED_EPOCHS):
            for batch in stream.epoch():
                yield batch["image"], stream.cursor % stream.plan.order.rows == 0
    finally:
        stream.close()


# --- torch DataLoader over a memory-mapped array ---


def save_arrays(folder: Path, cohort: Path) -> None:
    images, labels = arrays(cohort)
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", labels)


class MappedArray(torch.utils.data.Dataset):
    """A memory-mapped .npy file as a map-style dataset."""

    def __init__(self, folder: Path) -> None:
        self.images, self.labels = np.load(folder / "images.npy", mmap_mode="r"), np.load(folder / "labels.npy")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(self.images[index]), int(self.labels[index])


def torch_batches(folder: Path, cohort: Path) -> Batches:
    loader = torch.utils.data.DataLoader(MappedArray(folder), BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True)
    return _again(loader, lambda batch: batch[0])


# --- MONAI ---

_cache: list[Any] = []


def fill_cache(folder: Path, cohort: Path) -> None:
    """The cache is filled before the clock starts: what is measured is delivery from memory."""
    from monai.data import CacheDataset

    images, labels = arrays(cohort)
    items = [{"image": torch.from_numpy(image), "label": int(label)} for image, label in zip(images, labels, strict=True)]
    _cache.append(CacheDataset(items, lambda item: item, num_workers=None, copy_cache=False, progress=False))


def monai_batches(folder: Path, cohort: Path) -> Batches:
    from monai.data import ThreadDataLoader

    return _again(ThreadDataLoader(_cache[0], batch_size=BATCH, shuffle=True, num_workers=0), lambda batch: batch["image"])


# --- LitData ---


def write_litdata(folder: Path, cohort: Path) -> None:
    from litdata.streaming.writer import BinaryWriter

    if (folder / "litdata" / "index.json").exists():
        return
    images, labels = arrays(cohort)
    writer = BinaryWriter(str(folder / "litdata"), chunk_bytes="64MB")
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        writer[index] = {"image": torch.from_numpy(image), "label": int(label)}
    writer.done()
    writer.merge()


def litdata_batches(folder: Path, cohort: Path, **options: Any) -> Batches:
    from litdata import StreamingDataLoader, StreamingDataset

    dataset = StreamingDataset(str(folder / "litdata"), shuffle=True, drop_last=False, **options)
    loader = StreamingDataLoader(dataset, batch_size=BATCH, num_workers=WORKERS, persistent_workers=True)
    return _again(loader, lambda batch: batch["image"])


# --- WebDataset ---


def write_webdataset(folder: Path, cohort: Path) -> None:
    import webdataset

    if (folder / "webdataset").exists():
        return
    (folder / "webdataset").mkdir()
    images, labels = arrays(cohort)
    # Whole seconds: the writer's own fractions of them put a second header before every file, which takes long to read.
    with webdataset.ShardWriter(str(folder / "webdataset" / "%05d.tar"), maxcount=750, verbose=0, mtime=0) as sink:
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            sink.write({"__key__": f"{index:06d}", "image.bin": image.tobytes(), "label.cls": int(label)})


def _from_bytes(sample: dict[str, Any]) -> tuple[torch.Tensor, int]:
    return torch.frombuffer(bytearray(sample["image.bin"]), dtype=torch.uint8).view(1, 224, 224), int(sample["label.cls"])


def webdataset_batches(folder: Path, cohort: Path) -> Batches:
    import webdataset

    urls = sorted(map(str, (folder / "webdataset").glob("*.tar")))
    dataset = webdataset.WebDataset(urls, shardshuffle=len(urls), nodesplitter=None, seed=0)
    pipeline = dataset.shuffle(WINDOW // WORKERS).map(_from_bytes).batched(BATCH, collation_fn=torch.utils.data.default_collate)
    loader = webdataset.WebLoader(pipeline, batch_size=None, num_workers=WORKERS, persistent_workers=True)
    return _again(loader, lambda batch: batch[0])


# --- Ray Data's own reader of Arrow tensors ---


def write_fixed_shape_tensor(folder: Path, cohort: Path) -> None:
    target = folder / "tensors"
    if target.exists():
        return
    target.mkdir()
    field = Manifest.load(cohort).fields["image"]
    images, labels = arrays(cohort)
    for part, first in enumerate(range(0, len(images), 1000)):
        rows = slice(first, first + 1000)
        columns = {"image": as_fixed_shape_tensor(field, encode(field, images[rows])), "label": labels[rows]}
        pq.write_table(pa.table(columns), target / f"{part:05d}.parquet", row_group_size=250)


def read_parquet_batches(folder: Path, cohort: Path) -> Batches:
    import ray.data

    dataset = ray.data.read_parquet(str(folder / "tensors"), shuffle="files")

    class Epochs:
        def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
            return iter(dataset.iter_torch_batches(batch_size=BATCH, local_shuffle_buffer_size=WINDOW, prefetch_batches=2))

    return _again(Epochs(), lambda batch: batch["image"])


_LITDATA = "StreamingDataset(shuffle=True), 64 MB chunks, 2 persistent workers"
CONTESTANTS = (
    Contestant("hepdist", "one pipeline over all epochs, window 64 MiB, 1 reader", "ray", nothing, hepdist_batches, on_ray=True),
    Contestant("torch DataLoader", "memory-mapped .npy, 2 persistent workers, shuffle=True", "torch", save_arrays, torch_batches),
    Contestant("MONAI cache", "CacheDataset(copy_cache=False), filled before; ThreadDataLoader(num_workers=0)", "monai", fill_cache, monai_batches),
    Contestant("LitData", _LITDATA, "litdata", write_litdata, litdata_batches),
    # Its default decodes 28 images to deliver one where samples are shuffled (0.2.76): this is its best setting, the first its default.
    Contestant("LitData tuned", f"{_LITDATA}, batch_decode=0", "litdata", write_litdata, partial(litdata_batches, batch_decode=0)),
    Contestant("WebDataset", "8 shards of raw bytes, batched in 2 persistent workers, buffer 1280", "webdataset", write_webdataset, webdataset_batches),
    Contestant(
        "Ray read_parquet", "fixed_shape_tensor column, shuffle='files', iter_torch_batches, buffer 1280", "ray",
        write_fixed_shape_tensor, read_parquet_batches, on_ray=True,
    ),
)  # fmt: skip
