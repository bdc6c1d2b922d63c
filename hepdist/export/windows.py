"""Sliding windows as plain tensor operations: MONAI's, written out for images of one size, so that a graph can hold them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hepdist.tasks.segmentation import OVERLAP, Segmentation

SIGMA = 0.125
"""Deviation of the windows' Gaussian weights, as a share of their sides: MONAI's default."""


class Unrolled(Segmentation):
    """Segmentation whose windows go through the network as one batch; their places are those of the traced image."""

    def _windowed(self, model: nn.Module, image: Tensor) -> Tensor:
        from monai.data.utils import dense_patch_slices

        sides = tuple(int(side) for side in image.shape[2:])
        window = tuple(min(side, most) for side, most in zip(sides, self.window, strict=True))
        steps = [most if most == side else max(int(most * (1 - OVERLAP)), 1) for side, most in zip(sides, window, strict=True)]
        places: list[tuple[Any, ...]] = [(..., *place) for place in dense_patch_slices(sides, window, steps)]
        weight = _gaussian(window)
        parts = model(torch.cat([image[place] for place in places])).float()
        batch = image.shape[0]
        total = parts.new_zeros(batch, parts.shape[1], *sides)
        weights = torch.zeros(sides)
        for number, place in enumerate(places):
            total[place] += parts[number * batch : (number + 1) * batch] * weight
            weights[place] += weight
        return total / weights


def _gaussian(sides: tuple[int, ...]) -> Tensor:
    """float32[*sides]: MONAI's importance map, at least .001, so that no voxel is without a weight."""
    weight = np.ones((), np.float32)
    for side in sides:
        distance = np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2)
        weight = weight[..., None] * np.exp(distance**2 / np.float32(-2 * (side * SIGMA) ** 2))
    return torch.from_numpy(np.maximum(weight, max(float(weight.min()), 1e-3)))
