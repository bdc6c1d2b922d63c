"""Restoration of degraded images: absolute error and SSIM for training, PSNR and SSIM beside those of the degraded input for scoring."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv3d

from hepdist.augment.degrade import Scale, degraded_unit
from hepdist.errors import RecipeError
from hepdist.tasks import forward, selected

if TYPE_CHECKING:
    from hepdist.recipe import Recipe
    from hepdist.shards.manifest import Manifest

HELD_OUT = (0, -1)
"""Seed and epoch of the degradations that validation and test rows get: the same in every run, and in none of training."""
WINDOW = 11
"""Pixels a side of SSIM's window."""
DEVIATION = 1.5
"""Pixels: standard deviation of the Gaussian in it."""
LUMINANCE, CONTRAST = 0.01**2, 0.03**2
"""SSIM's constants against a division by zero, for a range of 1."""
HIGHEST_PSNR = 100.0
"""Decibels that an exact copy is given, where the formula gives infinity."""


class Restoration:
    """The model's output is compared with the image before it was degraded, between black and white.

    In training the batch holds the degraded `image` and the `target` that hepdist.augment.degrade made. In validation and test every row is
    degraded in each of recipe.degrade.kinds, as its `row` alone decides, so that all models of a cohort are scored on the same pictures.
    """

    condition = "image"

    def __init__(self, recipe: Recipe, manifest: Manifest) -> None:
        """Raises RecipeError where the cohort's images have no common black and white, or a side below SSIM's window."""
        self.classes: tuple[str, ...] = recipe.degrade.kinds
        self.kinds = self.classes
        self.spec = recipe.degrade
        self.scale = Scale.of(recipe, manifest)
        self.ssim_weight = recipe.task.ssim_weight
        self.test_flip = recipe.augment.test_flip
        smallest = min(manifest.fields["image"].shape[1:])
        if smallest < WINDOW:
            raise RecipeError(
                f"recipe key 'task.kind' is 'restoration', but the images have a side of {smallest} pixels and SSIM needs {WINDOW}"
            )
        self.select, self.higher_is_better = selected(recipe, "psnr", ("psnr", "ssim", *(f"psnr_{kind}" for kind in self.kinds)))

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """ssim_weight * (1 - SSIM) + (1 - ssim_weight) * mean absolute error, on intensities from 0 to 1."""
        output = forward(model, batch)
        assert isinstance(output, Tensor)
        restored, target = self.scale.to_unit(output.float()), self.scale.to_unit(batch["target"])
        loss = (1 - self.ssim_weight) * (restored - target).abs().flatten(1).mean(1)
        return loss + self.ssim_weight * (1 - ssim(restored, target)) if self.ssim_weight else loss

    def claim(self, output: Tensor | list[Tensor]) -> Tensor:
        """float32[b, C, *spatial]: the restored image, for a critic."""
        assert isinstance(output, Tensor)
        return output.float()

    def truth(self, batch: dict[str, Tensor]) -> Tensor:
        return batch["target"]

    @torch.no_grad()
    def predict(self, model: nn.Module, batch: dict[str, Tensor], extras: Collection[str] = ()) -> dict[str, np.ndarray]:
        """psnr, ssim, psnr_input and ssim_input float32[b, kinds] of the restored and of the degraded image, both clipped to black and white.

        batch: with `row` int64[b]. The restored image is the mean over the mirrored images of recipe.augment.test_flip. extras: `image`,
        the degraded, the restored and the original image, float32[b, kinds, 3, C, *spatial] between 0 and 1.
        """
        clean = self.scale.to_unit(batch["image"])
        original = clean.clamp(0, 1)
        rows: dict[str, list[Tensor]] = {name: [] for name in ("psnr", "ssim", "psnr_input", "ssim_input")}
        pictures = []
        for kind in self.kinds:
            degraded = self.degraded(batch, kind)
            restored = self.restored(model, degraded)
            pair = [self.scale.to_unit(image).clamp(0, 1) for image in (degraded, restored)]
            for suffix, image in zip(("_input", ""), pair, strict=True):
                rows[f"psnr{suffix}"].append(psnr(image, original))
                rows[f"ssim{suffix}"].append(ssim(image, original))
            pictures.append(torch.stack([*pair, original], dim=1))
        found = {name: torch.stack(values, dim=1) for name, values in rows.items()}
        if "image" in extras:
            found["image"] = torch.stack(pictures, dim=1)
        return {name: values.float().cpu().numpy() for name, values in found.items()}

    def degraded(self, batch: dict[str, Tensor], kind: str) -> Tensor:
        """The normalised `image` float32[b, C, *spatial] degraded in one way, as each `row` decides."""
        unit = degraded_unit(self.scale.to_unit(batch["image"]), kind, self.spec, (batch["row"], *HELD_OUT))
        return self.scale.from_unit(unit)

    @torch.no_grad()
    def restored(self, model: nn.Module, degraded: Tensor) -> Tensor:
        """The model's answer to normalised degraded images, without gradients."""
        total = forward(model, {"image": degraded})
        assert isinstance(total, Tensor)
        total = total.float()
        for axis in self.test_flip:
            mirrored = forward(model, {"image": degraded.flip(axis + 2)})
            assert isinstance(mirrored, Tensor)
            total = total + mirrored.float().flip(axis + 2)
        return total / (1 + len(self.test_flip))

    def score(self, rows: dict[str, np.ndarray]) -> dict[str, float]:
        """psnr (decibels) and ssim, the mean over rows and kinds, psnr_<kind> and ssim_<kind>; `_input` for the degraded images."""
        scores = {}
        for name in ("psnr", "ssim", "psnr_input", "ssim_input"):
            by_kind = rows[name].astype(np.float64).mean(axis=0)
            scores[name] = float(by_kind.mean())
            scores |= {f"{name}_{kind}": float(value) for kind, value in zip(self.kinds, by_kind, strict=True)}
        return scores


def psnr(image: Tensor, original: Tensor) -> Tensor:
    """float32[b]: peak signal-to-noise ratio in decibels, of float32[b, C, *spatial] whose peak is 1; at most HIGHEST_PSNR."""
    error = (image - original).double().square().flatten(1).mean(1)
    return (-10 * error.log10()).clamp(max=HIGHEST_PSNR).float()


def ssim(image: Tensor, original: Tensor) -> Tensor:
    """float32[b]: structural similarity of float32[b, C, *spatial] whose range is 1, as Wang et al. (2004) and scikit-image define it.

    Means, variances and covariance under a Gaussian window, at the places where it lies wholly inside; torchmetrics also counts
    the mirrored border, which lifts the score.
    """
    dims, rows = image.ndim - 2, len(image)
    distance = torch.arange(WINDOW, dtype=image.dtype, device=image.device) - WINDOW // 2
    window = torch.exp(-0.5 * (distance / DEVIATION).square())
    window = window / window.sum()
    seen = torch.cat((image, original, image * image, original * original, image * original)).flatten(0, 1)[:, None]
    for axis in range(dims):
        shape = [1, 1, *(1,) * dims]
        shape[axis + 2] = WINDOW
        seen = (conv2d if dims == 2 else conv3d)(seen, window.reshape(shape))
    mean_a, mean_b, square_a, square_b, product = seen.reshape(5, rows, -1)
    covariance = product - mean_a * mean_b
    variances = square_a - mean_a.square() + square_b - mean_b.square()
    luminance = (2 * mean_a * mean_b + LUMINANCE) / (mean_a.square() + mean_b.square() + LUMINANCE)
    return (luminance * (2 * covariance + CONTRAST) / (variances + CONTRAST)).mean(1)
