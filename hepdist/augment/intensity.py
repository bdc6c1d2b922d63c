"""What happens to an image's intensities: gamma, contrast, brightness, blur and noise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hepdist.augment.random import BLUR, BRIGHTNESS, CONTRAST, GAMMA_CURVE, NOISE, NOISE_LEVEL, Key, column, normal, signed, uniform

if TYPE_CHECKING:
    from hepdist.sections import AugmentSpec

BLUR_REACH = 3.0
"""Standard deviations after which the kernel of a blur ends."""


def intensity(image: Tensor, spec: AugmentSpec, key: Key) -> Tensor:
    """In the order of the list above, so that noise is neither amplified nor blurred; each at a strength of its own per sample."""
    flat = image.flatten(1)
    if spec.gamma:
        low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
        span = torch.where(high > low, high - low, 1.0)
        flat = ((flat - low) / span) ** (1 + signed(key, GAMMA_CURVE, 1) * spec.gamma) * span + low
    if spec.contrast:
        mean = flat.mean(1, keepdim=True, dtype=torch.float64).to(torch.float32)
        flat = (flat - mean) * (1 + signed(key, CONTRAST, 1) * spec.contrast) + mean
    if spec.brightness:
        flat = flat + signed(key, BRIGHTNESS, 1) * spec.brightness
    if spec.blur:
        sigma = uniform(*key, BLUR, 1)[:, 0] * spec.blur
        flat = blur(flat.reshape(image.shape), sigma, math.ceil(BLUR_REACH * spec.blur)).flatten(1)
    if spec.noise:
        n = flat.shape[1]
        flat = flat + normal(*key, NOISE, n) * (uniform(*key, NOISE_LEVEL, 1) * spec.noise)
    return flat.reshape(image.shape)


def blur(image: Tensor, sigma: Tensor, reach: int) -> Tensor:
    """image float32[b, C, *spatial] under a Gaussian of standard deviation sigma float32[b] voxels, cut off after `reach` voxels.

    Continued by its border. One axis after another, by sums and products only: exact whatever the batch; sigma 0 changes nothing.
    """
    spread = 2 * sigma.clamp(min=1e-3).square()  # below, the neighbours' weights are 0 as well
    weights = [(-(step**2) / spread).exp() for step in range(reach + 1)]
    total = weights[0] + 2 * sum(weights[1:], torch.zeros_like(sigma))
    shares = [column(weight / total, image.ndim - 1) for weight in weights]
    for axis in range(2, image.ndim):
        voxel = torch.arange(image.shape[axis], device=image.device)
        out = shares[0] * image
        for step in range(1, reach + 1):
            before, after = ((voxel + way).clamp(0, image.shape[axis] - 1) for way in (-step, step))
            out = out + shares[step] * (image.index_select(axis, before) + image.index_select(axis, after))
        image = out
    return image
