"""MedMNIST .npz files, 2D and 3D: arrays of all images with official splits; each image is its own patient, since none is named.

Yang et al., "MedMNIST v2", Scientific Data 10, 41, 2023. Images are streamed out of the archive one at a time.
"""

from __future__ import annotations

import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import IO

import numpy as np

from hepdist.errors import IngestError
from hepdist.ingest.files import Files
from hepdist.ingest.sample import Finding, Sample
from hepdist.ingest.spec import IngestSpec
from hepdist.shards.manifest import SPLITS

# Class names are not in the files; from the medmnist package's info.py
NAMES = {
    "pneumoniamnist": ("normal", "pneumonia"),
    "breastmnist": ("malignant", "normal, benign"),
    "adrenalmnist3d": ("normal", "hyperplasia"),
}

AT_A_TIME = 1 << 20
"""Bytes of the archive that are read at once."""
AT_ONCE = 500
"""Images of one item; an item skips those before it, which a compressed archive must unpack."""

LARGEST = 1 << 30
"""Bytes of one image."""
# RuntimeError, NotImplementedError: encrypted, or packed in a way that Python doesn't know; SyntaxError, tokenize: a damaged header
UNREADABLE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, KeyError, RuntimeError, SyntaxError, TypeError,
    tokenize.TokenError, OverflowError, struct.error,
)  # fmt: skip


class MedMNISTSource:
    """`{train,val,test}_{images,labels}`: images (n, H, W), (n, H, W, 3) or (n, D, H, W); labels (n,), (n, 1) or 0/1 (n, K)."""

    kind = "medmnist"
    mask_classes: tuple[str, ...] = ()

    def __init__(self, files: Files, spec: IngestSpec):
        self._files, self._file = files, files.names[0]
        self._labels = {split: self._read_labels(split) for split in SPLITS}
        self.multilabel = any(labels.ndim == 2 for labels in self._labels.values())
        self.label_names = spec.label_names or self._names()
        self.items = [(s, n, min(n + AT_ONCE, len(labels))) for s, labels in self._labels.items() for n in range(0, len(labels), AT_ONCE)]
        self.findings = [Finding(self._file, "quarantined", "truncated", "no image could be read")]  # until one is

    def read(self, item: tuple[str, int, int]) -> Iterator[Sample | Finding]:
        split, first, last = item
        done = 0
        try:
            for image in self._images(split, first, last):
                yield self._sample(split, first + done, image)
                done += 1
        except UNREADABLE as error:
            reason = f"the rest of {split}_images can't be read ({type(error).__name__})"
            yield Finding(f"{self._file}#{split}", "quarantined", "truncated", reason)
        if done:
            yield Finding(self._file, "ingested")

    def _sample(self, split: str, index: int, image: np.ndarray) -> Sample:
        key, label = f"{split}/{index}", self._labels[split][index]
        sample = Sample(key, patient=key, image=image, image_unit="display 0..255" if image.dtype == np.uint8 else "raw", split=split)
        if self.multilabel:
            sample.labels = label.astype(np.uint8)
        else:
            sample.label = int(label)
        return sample

    def _names(self) -> tuple[str, ...]:
        stem = PurePosixPath(self._file).stem.lower()
        for name, classes in NAMES.items():
            if stem == name or stem.startswith(f"{name}_"):  # NAME_64.npz: the same images at another size
                return classes
        return tuple(str(k) for k in range(max(labels.shape[1] for labels in self._labels.values()))) if self.multilabel else ()

    def _read_labels(self, split: str) -> np.ndarray:
        """int[n], or uint8[n, K] for multi-label."""
        try:
            with self._member(f"{split}_labels") as (file, shape, dtype):
                if dtype.kind not in "iub" or len(shape) not in (1, 2):
                    raise IngestError(
                        f"source's array '{split}_labels' is {dtype}{list(shape)}; expected whole numbers (n,), (n, 1) or (n, K)"
                    )
                labels = np.frombuffer(file.read(), dtype).reshape(shape)
        except UNREADABLE:
            raise IngestError(f"source has no readable array '{split}_labels', which a MedMNIST .npz holds; download it again") from None
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.ndim == 2 and not np.isin(labels, (0, 1)).all():
            raise IngestError(f"source's array '{split}_labels' has several columns that are not all 0 or 1; multi-label classes must be")
        return labels

    def _images(self, split: str, first: int, last: int) -> Iterator[np.ndarray]:
        """The images [first, last) channel first, without holding the others: a 64^3 set unpacks to hundreds of megabytes."""
        with self._member(f"{split}_images") as (file, shape, dtype):
            if len(shape) not in (3, 4) or dtype.kind not in "iuf" or len(self._labels[split]) != shape[0]:
                raise ValueError(f"{split}_images is {dtype}{list(shape)}")
            size = math.prod(shape[1:]) * dtype.itemsize
            file.seek(file.tell() + first * size)
            for _ in range(first, last):
                data = file.read(size)
                if len(data) != size:
                    raise EOFError
                image = np.frombuffer(data, dtype).reshape(shape[1:])
                yield np.moveaxis(image, -1, 0) if image.ndim == 3 and image.shape[-1] == 3 else image[None]

    @contextmanager
    def _member(self, name: str) -> Iterator[tuple[IO[bytes], tuple[int, ...], np.dtype]]:
        """An array of the archive, open at its first value, with its shape and type; raises ValueError where it can't be that large."""
        with self._files.open(self._file, AT_A_TIME) as packed, zipfile.ZipFile(packed) as archive:
            info = archive.getinfo(f"{name}.npy")
            with archive.open(info) as file:
                version = np.lib.format.read_magic(file)
                read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, fortran, dtype = read_header(file)
                if fortran or dtype.hasobject or min(shape, default=0) < 0:
                    raise ValueError(f"{name} is {dtype}{list(shape)}")
                if file.tell() + math.prod(shape) * dtype.itemsize != info.file_size:
                    raise EOFError  # the header promises more than the archive holds, or less
                if math.prod(shape[1:]) * dtype.itemsize > LARGEST:
                    raise ValueError(f"{name} has images of more than {LARGEST} bytes")
                yield file, shape, dtype
