"""Segmentation: soft Dice, cross-entropy and boundary loss per sample for training, Dice, volumes and surfaces per case for scoring."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, interpolate, one_hot, pad

from hepdist.tasks import forward, selected
from hepdist.tasks.surface import signed_distance, surface_agreement

if TYPE_CHECKING:
    from hepdist.recipe import Recipe
    from hepdist.shards.manifest import Manifest

SMOOTH = 1e-5
"""Added above and below the soft Dice fraction, as MONAI does: a class that is neither there nor predicted has Dice 1."""
OVERLAP = 0.5
"""Share of a window's side that the next one sees again, as in nnU-Net."""


class Segmentation:
    """mask uint8[b, 1, *spatial] holds class indices; index 0 is background and has no Dice of its own."""

    def __init__(self, recipe: Recipe, manifest: Manifest) -> None:
        self.classes = manifest.fields["mask"].classes
        self.sigmoid = recipe.task.activation == "sigmoid"
        self.dice_weight, self.boundary_weight = recipe.task.dice_weight, recipe.task.boundary_weight
        self.test_flip, self.test_shift = recipe.augment.test_flip, recipe.augment.test_shift
        self.tolerance_mm = recipe.evaluation.tolerance_mm
        self.window, self.windows_at_once = recipe.evaluation.window, recipe.evaluation.batch
        self.select, self.higher_is_better = selected(recipe, "dice", ("dice", *(f"dice_{name}" for name in self.classes[1:]), "loss"))

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """dice_weight * soft Dice loss + (1 - dice_weight) * cross-entropy; coarser outputs count half of the one before.

        Added to it: boundary_weight * boundary loss of the finest output.
        """
        return self._loss(forward(model, batch), batch)

    def _loss(self, logits: Tensor | list[Tensor], batch: dict[str, Tensor]) -> Tensor:
        outputs = [output.float() for output in (logits if isinstance(logits, list) else [logits])]
        shares = [0.5**level for level in range(len(outputs))]
        losses = [share * self._region_loss(output, batch["mask"]) for share, output in zip(shares, outputs, strict=True)]
        loss = torch.stack(losses).sum(0) / sum(shares)
        if self.boundary_weight:
            hot = _hot(batch["mask"][:, 0].long(), len(self.classes))
            loss = loss + self.boundary_weight * boundary_loss(self._probabilities(outputs[0]), hot, batch.get("spacing"))
        return loss

    def _region_loss(self, logits: Tensor, mask: Tensor) -> Tensor:
        if logits.shape[2:] != mask.shape[2:]:
            mask = interpolate(mask.float(), size=logits.shape[2:], mode="nearest-exact")
        truth = mask[:, 0].long()
        hot = _hot(truth, len(self.classes))
        if self.sigmoid:
            entropy = binary_cross_entropy_with_logits(logits, hot, reduction="none").mean(1)
        else:
            entropy = cross_entropy(logits, truth, reduction="none")
        entropy = entropy.flatten(1).mean(1)
        return self.dice_weight * soft_dice_loss(self._probabilities(logits), hot) + (1 - self.dice_weight) * entropy

    def _probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() if self.sigmoid else logits.softmax(1)

    @torch.no_grad()
    def predict(self, model: nn.Module, batch: dict[str, Tensor], extras: Collection[str] = ()) -> dict[str, np.ndarray]:
        """Per case and foreground class; `probability` decides.

        dice float32[b, classes-1] (nan where the class is in neither), volume_ml and true_volume_ml float32[b, classes-1] (nan without
        `spacing`). extras: `loss` float32[b]; `hd95` and `nsd` float32[b, classes-1], in and at a tolerance of mm (voxels without `spacing`);
        `mask` uint8[b, *spatial], class indices. A batch without `mask` gives only volume_ml and the predicted mask.
        """
        logits = self._logits(model, batch)
        found = self._decide(self._mean_probability(model, batch, logits))
        voxel_ml = batch["spacing"].double().prod(1)[:, None].cpu() / 1000 if "spacing" in batch else torch.tensor(float("nan"))
        rows = {"volume_ml": _voxels(found) * voxel_ml}
        if "mask" in extras:
            index = torch.arange(1, len(self.classes), device=found.device).reshape(-1, *(1,) * (found.ndim - 2))
            rows["mask"] = (found * index).amax(1).to(torch.uint8)
        if "mask" in batch:
            truth = _hot(batch["mask"][:, 0].long(), len(self.classes))[:, 1:].bool()
            rows["true_volume_ml"] = _voxels(truth) * voxel_ml
            overlap, both = _voxels(found & truth), _voxels(found) + _voxels(truth)
            rows["dice"] = 2 * overlap / both  # 0 / 0 is nan: nothing to find and nothing found
            if {"hd95", "nsd"} & set(extras):
                measured = _surface(found, truth, batch.get("spacing"), self.tolerance_mm)
                rows |= {name: values for name, values in measured.items() if name in extras}
            if "loss" in extras or self.select == "loss":
                rows["loss"] = self._loss(logits, batch)
        return {name: (v.float() if v.is_floating_point() else v).cpu().numpy() for name, v in rows.items()}

    @torch.no_grad()
    def probability(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """float32[b, classes, *spatial]: the mean over the images of augment.test_flip, and over these moved by augment.test_shift."""
        return self._mean_probability(model, batch, self._logits(model, batch))

    def _mean_probability(self, model: nn.Module, batch: dict[str, Tensor], logits: Tensor) -> Tensor:
        """`probability`, where the logits of the image as it is are there already."""
        mean = self._with_mirrored(model, batch, logits)
        if not self.test_shift:
            return mean
        before = (self.test_shift, 0) * (batch["image"].ndim - 2)
        moved = {**batch, "image": pad(batch["image"], before, mode="replicate")}
        found = self._with_mirrored(model, moved, self._logits(model, moved))
        inside: tuple[Any, ...] = (..., *(slice(self.test_shift, None),) * (found.ndim - 2))
        return (mean + found[inside]) / 2

    def _with_mirrored(self, model: nn.Module, batch: dict[str, Tensor], logits: Tensor) -> Tensor:
        """The mean over an image and its mirrored selves."""
        total = self._probabilities(logits)
        for axis in self.test_flip:
            mirrored = {**batch, "image": batch["image"].flip(axis + 2)}
            total = total + self._probabilities(self._logits(model, mirrored)).flip(axis + 2)
        return total / (1 + len(self.test_flip))

    def _logits(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """float32[b, classes, *spatial] of whole images; those larger than evaluation.window by windows."""
        sides = batch["image"].shape[2:]
        if self.window and any(side > window for side, window in zip(sides, self.window, strict=True)):
            return self._windowed(model, batch["image"])
        logits = forward(model, batch)
        assert isinstance(logits, Tensor), "put the model into evaluation mode first"
        return logits.float()

    def _windowed(self, model: nn.Module, image: Tensor) -> Tensor:
        """Logits of overlapping windows, each weighted by a Gaussian about its centre (Isensee et al., 2021); as many at once as
        evaluation.batch."""
        from monai.inferers import sliding_window_inference

        sides = [min(side, window) for side, window in zip(image.shape[2:], self.window, strict=True)]  # MONAI would pad with zeros
        logits = sliding_window_inference(
            image, sides, self.windows_at_once, lambda part: model(part).float(), overlap=OVERLAP, mode="gaussian"
        )
        assert isinstance(logits, Tensor)
        return logits

    def _decide(self, probability: Tensor) -> Tensor:
        """bool[b, classes-1, *spatial]: the most probable class, or every class above one half."""
        if self.sigmoid:
            return probability[:, 1:] > 0.5
        return _hot(probability.argmax(1), len(self.classes))[:, 1:].bool()

    def score(self, rows: dict[str, np.ndarray]) -> dict[str, float]:
        """dice: the mean over classes of the mean over cases that have or were given the class; dice_<class> for each.

        Also hd95 (mean over finite distances) and loss where rows hold them.
        """
        per_class = _mean(rows["dice"])
        scores = {"dice": float(_mean(per_class))}
        scores |= {f"dice_{name}": float(value) for name, value in zip(self.classes[1:], per_class, strict=True)}
        if "hd95" in rows:
            scores["hd95"] = float(_mean(_mean(rows["hd95"])))
        if "loss" in rows:
            scores["loss"] = float(rows["loss"].mean())
        return scores


def soft_dice_loss(probability: Tensor, truth: Tensor) -> Tensor:
    """float[b]: 1 - soft Dice, the mean over foreground classes, each sample by itself.

    probability, truth: float[b, classes, *spatial], class 0 is left out. Milletari et al., 2016, with plain sums below as MONAI's DiceLoss.
    """
    p, t = probability[:, 1:].flatten(2), truth[:, 1:].flatten(2)
    overlap = (p * t).sum(2)
    return 1 - ((2 * overlap + SMOOTH) / (p.sum(2) + t.sum(2) + SMOOTH)).mean(1)


def boundary_loss(probability: Tensor, truth: Tensor, spacing: Tensor | None) -> Tensor:
    """float[b]: the mean over voxels and foreground classes of probability * signed distance to the true region (Kervadec et al., 2019).

    probability, truth: float[b, classes, *spatial], class 0 is left out; spacing: mm [b, axes], None: voxels are cubes. Distances are exact
    ones of scipy on the CPU, in voxels (of the finest axis); below zero inside, so that the loss of a good prediction is negative.
    """
    sides = torch.ones(len(truth), truth.ndim - 2) if spacing is None else spacing.cpu()
    regions = zip(truth[:, 1:].bool().cpu().numpy(), sides.tolist(), strict=True)
    maps = np.stack([[signed_distance(region, mm) for region in classes] for classes, mm in regions])
    return (probability[:, 1:] * torch.from_numpy(maps).to(probability.device)).flatten(1).mean(1)


def _hot(index: Tensor, classes: int) -> Tensor:
    """index int64[b, *spatial] as float32[b, classes, *spatial]."""
    return one_hot(index, classes).movedim(-1, 1).float()


def _voxels(region: Tensor) -> Tensor:
    """float64[b, classes]: voxels in each region."""
    return region.flatten(2).sum(2).double().cpu()


def _surface(found: Tensor, truth: Tensor, spacing: Tensor | None, tolerance_mm: float) -> dict[str, Tensor]:
    """hd95 and nsd float64[b, classes]: surface_agreement of each case and class."""
    mm = torch.ones(len(found), found.ndim - 2) if spacing is None else spacing.cpu()
    pairs = zip(found.cpu().numpy(), truth.cpu().numpy(), mm.tolist(), strict=True)
    both = [[surface_agreement(p, t, sides, tolerance_mm) for p, t in zip(ps, ts, strict=True)] for ps, ts, sides in pairs]
    return dict(zip(("hd95", "nsd"), torch.tensor(both, dtype=torch.float64).unbind(-1), strict=True))


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean of the finite values along axis 0; nan where there is none."""
    finite = np.isfinite(values)
    count = finite.sum(0)
    return np.where(count > 0, np.where(finite, values, 0).sum(0) / np.maximum(count, 1), np.nan)
