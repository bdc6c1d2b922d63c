"""From stored units to what networks read: image intensities and EMR numbers with mean 0 and standard deviation 1."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CLIP = (0.005, 0.995)
"""Quantiles to which an image is clipped before its own mean and deviation are taken: MR has single voxels 1000 times the rest."""
QUANTILE_VOXELS = 1 << 15
"""Most voxels that quantiles are taken from, evenly spaced: sorting a volume whole would cost more than training on it."""
LARGEST = {torch.uint8: 255.0, torch.int16: 32767.0, torch.uint16: 65535.0, torch.int32: 65535.0}
"""Of the types in which images are stored (docs/format.md). No image is stored as int32: that is how batches hold uint16 (hepdist.shards.tensors)."""


def normalise(batch: dict[str, Tensor], mode: str, stats: dict[str, dict[str, Any]]) -> dict[str, Tensor]:
    """The batch with `image` as float32 in the units that DataSpec.normalise names, and `emr` and `sequence` normalised.

    image: [b, C, *spatial] of any dtype. mode: 'cohort', 'image' or 'none'. stats: Manifest.normalisation, from train rows only; emr
    has mean 0 and std 1 for a category, which so stays an index. Missing EMR values are 0. An image without `image_missing` uint8[b, 1]
    gets it with zeros, since most cohorts have an image in every row. Other entries are passed on as they are.
    """
    out = dict(batch)
    if "image" in batch:
        image = batch["image"]
        if mode == "cohort":
            out["image"] = _standardise(image, stats["image"])
        else:
            out["image"] = _by_image(image.to(torch.float32)) if mode == "image" else _unit_range(image)
        if "image_missing" not in batch:
            out["image_missing"] = torch.zeros(image.shape[0], 1, dtype=torch.uint8, device=image.device)
    for name in ("emr", "sequence"):
        if name in batch:
            values = _standardise(batch[name], stats[name], axis=-1)
            out[name] = values.masked_fill(batch[f"{name}_missing"].bool(), 0.0)
    return out


def denormalise(image: Tensor, mode: str, stats: dict[str, dict[str, Any]], dtype: str) -> Tensor:
    """A normalised image float32[b, C, *spatial] in the unit in which the cohort stores it, as `dtype`; neither rounded nor clipped.

    The inverse of `normalise`; mode: 'cohort' or 'none', since what 'image' took from each image is not kept.
    """
    if mode == "none":
        return image * (1.0 if dtype.startswith("float") else LARGEST[getattr(torch, dtype)])
    shape = (1, -1, *(1,) * (image.ndim - 2))
    mean, std = (torch.tensor(stats["image"][name], dtype=torch.float32, device=image.device).reshape(shape) for name in ("mean", "std"))
    return image * torch.where(std > 0, std, 1.0) + mean


def _standardise(values: Tensor, stats: dict[str, Any], axis: int = 1) -> Tensor:
    """(values - mean) / std along an axis; a constant channel or column becomes 0."""
    shape = [1] * values.ndim
    shape[axis] = -1
    mean = torch.tensor(stats["mean"], dtype=torch.float32, device=values.device).reshape(shape)
    std = torch.tensor(stats["std"], dtype=torch.float32, device=values.device).reshape(shape)
    return (values.to(torch.float32) - mean) / torch.where(std > 0, std, 1.0)


def _unit_range(image: Tensor) -> Tensor:
    """Integers divided by the largest value of the type in which they are stored; floats as they are."""
    return image.to(torch.float32) / (1.0 if image.dtype.is_floating_point else LARGEST[image.dtype])


def _by_image(image: Tensor) -> Tensor:
    """Each channel of each image clipped to CLIP and standardised, both over voxels above its minimum, which is where padding lies."""
    flat = image.flatten(2)
    step = (flat.shape[2] + QUANTILE_VOXELS - 1) // QUANTILE_VOXELS  # rounded up without a negative number, which ONNX rounds to 0
    ordered = flat[:, :, ::step].sort(dim=2).values
    padding = (ordered == ordered[:, :, :1]).sum(2, keepdim=True)
    rest = ordered.shape[2] - padding
    low, high = (ordered.gather(2, (padding + (rest - 1).clamp(min=0) * q).long().clamp(max=ordered.shape[2] - 1)) for q in CLIP)
    inside = (flat > flat.amin(2, keepdim=True)).to(torch.float32)
    flat = flat.clamp(low, high)
    # float64 sums: the same to the last float32 bit however the batch is cut.
    count = inside.sum(2, keepdim=True, dtype=torch.float64).clamp(min=1)
    mean = (flat * inside).sum(2, keepdim=True, dtype=torch.float64) / count
    centred = flat - mean.to(torch.float32)
    variance = (centred.square() * inside).sum(2, keepdim=True, dtype=torch.float64) / count
    std = variance.sqrt().to(torch.float32)
    return torch.where(std > 0, centred / std, 0.0).reshape(image.shape)
