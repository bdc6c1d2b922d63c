"""A restoration run against scikit-image's filters on the same degraded images, and what a reader of the images gets back.

    python benchmarks/restore.py runs/restore-gan [--reader runs/pneumonia-resnet] [--rows 624]

Non-local means and total variation are tuned on validation rows, by PSNR, for each degradation. The reader is a classifier or a segmenter
of the same cohort: its AUROC or Dice on original, degraded and restored test images. 95 % intervals are bootstraps over patients.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine, markdown
from scipy.ndimage import convolve
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle
from torch import Tensor

from hepdist.augment import normalise
from hepdist.augment.degrade import stored_ends
from hepdist.evaluation.bootstrap import intervals
from hepdist.recipe import Recipe
from hepdist.shards.manifest import Manifest
from hepdist.shards.read import SplitReader, columns_of
from hepdist.tasks import build as build_task
from hepdist.tasks.restoration import Restoration, psnr, ssim
from hepdist.training.saved_model import load_model

TUNING_ROWS = 64
"""Validation rows that each setting of a filter is tried on, evenly spaced."""
STRENGTHS = (0.4, 0.6, 0.8, 1.0, 1.3, 1.7)
"""Non-local means: `h` as a multiple of the image's estimated noise; tried with patches of 3 and of 5 pixels."""
WEIGHTS = (0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.2)
"""Total variation: weights of the variation, the same for all images."""
SHARES = (0.3, 0.5, 0.7, 1.0, 1.4, 2.0)
"""Total variation: weights as a multiple of the image's estimated noise."""
LEAST = 5e-3
"""Least strength that is asked of a filter: a picture without noise leaves non-local means weights of 0."""
Picture = np.ndarray
Filter = Callable[[Picture], Picture]


@dataclass
class Images:
    """The rows of a split: the batch as it is stored, originals float32[n, C, *spatial] between 0 and 1, and their patients."""

    stored: dict[str, Tensor]
    original: Tensor
    patient: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--reader", type=Path, help="run of a classifier or segmenter of the same cohort")
    parser.add_argument("--rows", type=int, help="test rows, the first ones; all by default")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(machine(), "\n")
    model, recipe, _ = load_model(arguments.run)
    manifest = Manifest.load(recipe.data.cohort)
    task = build_task(recipe, manifest)
    assert isinstance(task, Restoration), "give a run with task.kind=restoration"
    reader = load_model(arguments.reader) if arguments.reader else None
    columns = tuple(dict.fromkeys((*columns_of(recipe, manifest), *(columns_of(reader[1], manifest) if reader else ()))))
    val = images(recipe, manifest, task, "val", columns, None)
    test = images(recipe, manifest, task, "test", columns, arguments.rows)
    rows, read = [], {}
    for kind in task.kinds:
        degraded = {split: unit(task, found, kind) for split, found in (("val", val), ("test", test))}
        best = {family: tuned(options, degraded["val"], val.original) for family, options in filters().items()}
        restored = restore(task, model, test, kind)
        outcomes = {"degraded": degraded["test"].clamp(0, 1), "hepdist": restored}
        outcomes |= {family: apply(method, degraded["test"]) for family, (_, method) in best.items()}
        for name, found in outcomes.items():
            setting = best[name][0] if name in best else ""
            rows.append([kind, name, setting, *compared(found, restored, test)])
        read[kind] = outcomes["degraded"], restored
    header = ("degradation", "method", "tuned to", "PSNR, dB", "SSIM", "hepdist's PSNR minus this", "hepdist's SSIM minus this")
    print(markdown(header, rows))
    if reader:
        print(
            "\n"
            + markdown(
                ("degradation", "original", "degraded", "restored", "share of the loss recovered"),
                readings(reader, task, test, read, manifest),
            )
        )


def images(recipe: Recipe, manifest: Manifest, task: Restoration, split: str, columns: tuple[str, ...], most: int | None) -> Images:
    source = SplitReader(recipe.data.cohort, manifest, split)
    rows = np.arange(len(source))[:most]
    stored = {name: torch.from_numpy(values) for name, values in source.arrays(rows, columns).items()}
    stored["row"] = torch.from_numpy(rows)
    original = task.scale.to_unit(normalise(stored, recipe.data.normalise, manifest.normalisation)["image"]).clamp(0, 1)
    return Images(stored, original, source.strings(["patient"])["patient"].to_numpy(zero_copy_only=False)[rows])


def unit(task: Restoration, found: Images, kind: str) -> Tensor:
    """The degraded images on the scale from 0 to 1, not clipped: what the model is given."""
    batch = {"image": task.scale.from_unit(found.original), "row": found.stored["row"]}
    return task.scale.to_unit(task.degraded(batch, kind))


@torch.no_grad()
def restore(task: Restoration, model: torch.nn.Module, found: Images, kind: str, size: int = 32) -> Tensor:
    parts = [task.restored(model, part) for part in task.scale.from_unit(unit(task, found, kind)).split(size)]
    return task.scale.to_unit(torch.cat(parts)).clamp(0, 1)


def filters() -> dict[str, list[tuple[str, Filter]]]:
    """Each family of filters with its settings, by name."""
    means = [(f"h = {s:g} σ, patch {p}", partial(non_local_means, strength=s, patch=p)) for s in STRENGTHS for p in (3, 5)]
    fixed = [(f"weight {w:g}", partial(denoise_tv_chambolle, weight=w)) for w in WEIGHTS]
    relative = [(f"weight {s:g} σ", partial(total_variation, share=s)) for s in SHARES]
    return {"non-local means": means, "total variation": [*fixed, *relative]}


def non_local_means(picture: Picture, strength: float, patch: int) -> Picture:
    """Buades et al., 2005."""
    sigma = estimated_noise(picture)
    return denoise_nl_means(picture, h=max(strength * sigma, LEAST), sigma=sigma, patch_size=patch, patch_distance=6, fast_mode=False)


def total_variation(picture: Picture, share: float) -> Picture:
    """Chambolle, 2004."""
    return denoise_tv_chambolle(picture, weight=max(share * estimated_noise(picture), LEAST))


def estimated_noise(picture: Picture) -> float:
    """Standard deviation of the noise of a picture [*spatial], from its second differences along the last two axes (Immerkær, 1996)."""
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float64).reshape(*(1,) * (picture.ndim - 2), 3, 3)
    return float(np.abs(convolve(picture, mask)[..., 1:-1, 1:-1]).mean() * np.sqrt(np.pi / 2) / 6)


def apply(method: Filter, degraded: Tensor) -> Tensor:
    """The filter on every channel of every image, clipped to 0 and 1."""
    flat = degraded.flatten(0, 1).double().numpy()
    return torch.from_numpy(np.stack([method(picture) for picture in flat])).reshape(degraded.shape).float().clamp(0, 1)


def tuned(options: list[tuple[str, Filter]], degraded: Tensor, original: Tensor) -> tuple[str, Filter]:
    """The setting with the highest mean PSNR on validation."""
    chosen = slice(None, None, max(1, len(degraded) // TUNING_ROWS))
    return max(options, key=lambda option: float(psnr(apply(option[1], degraded[chosen]), original[chosen]).mean()))


def compared(found: Tensor, ours: Tensor, test: Images) -> list[str]:
    """PSNR and SSIM with intervals, and ours minus these, paired by image."""
    cells = []
    for measure, digits in ((psnr, 2), (ssim, 4)):
        cells.append(interval(measure(found, test.original), test.patient, digits))
    for measure, digits in ((psnr, 2), (ssim, 4)):
        cells.append("" if found is ours else interval(measure(ours, test.original) - measure(found, test.original), test.patient, digits))
    return cells


def interval(values: Tensor, patient: np.ndarray, digits: int) -> str:
    """'mean [low, high]'."""
    flat = values.double().numpy()
    bound = intervals(lambda weight: {"mean": weight @ flat / weight.sum(axis=1)}, patient.astype(str), 1000, 0)["mean"]
    return f"{flat.mean():.{digits}f} [{bound.low:.{digits}f}, {bound.high:.{digits}f}]"


def readings(
    reader: Any, task: Restoration, test: Images, read: dict[str, tuple[Tensor, Tensor]], manifest: Manifest
) -> Iterator[list[str]]:
    """A row a degradation: the reader's score on the original, the degraded and the restored test images."""
    model, recipe, signature = reader
    judge = build_task(recipe, manifest)
    measure = "auroc" if recipe.task.kind == "classification" else "dice"

    def score(image: Tensor) -> float:
        given = test.stored | normalise({"image": as_stored(image, manifest)}, recipe.data.normalise, signature.normalisation)
        parts = []
        for first in range(0, len(image), recipe.evaluation.batch):
            part = {name: values[first : first + recipe.evaluation.batch] for name, values in given.items()}
            found = judge.predict(model, part)
            parts.append(found | ({"label": part["label"].numpy()} if "label" in part else {}))
        return judge.score({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})[measure]

    original = score(test.original)
    for kind, (degraded, restored) in read.items():
        before, after = score(degraded), score(restored)
        share = f"{100 * (after - before) / (original - before):.0f} %" if original > before else "nothing was lost"
        yield [kind, *(f"{measure} {value:.4f}" for value in (original, before, after)), share]


def as_stored(image: Tensor, manifest: Manifest) -> Tensor:
    """An image between 0 and 1 as the cohort would hold it."""
    low, high = stored_ends(manifest)
    values = low + image * (high - low)
    dtype = manifest.fields["image"].dtype
    return values if dtype.startswith("float") else values.round().to(getattr(torch, dtype.replace("uint16", "int32")))


if __name__ == "__main__":
    main()
