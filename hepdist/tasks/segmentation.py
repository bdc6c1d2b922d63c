"""Segmentation: soft Dice and cross-entropy per sample for training, Dice, volumes and surface distances per case for scoring."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, interpolate, one_hot

from hepdist.tasks import forward, selected
from hepdist.tasks.surface import surface_distance_95

if TYPE_CHECKING:
    from hepdist.recipe import Recipe
    from hepdist.shards.manifest import Manifest

SMOOTH = 1e-5
"""Added above and below the soft Dice fraction, as MONAI does: a class that is neither there nor predicted has Dice 1."""


class Segmentation:
    """mask uint8[b, 1, *spatial] holds class indices; index 0 is background and has no Dice of its own."""

    def __init__(self, recipe: Recipe, manifest: Manifest) -> None:
        self.classes = manifest.fields["mask"].classes
        self.sigmoid = recipe.task.activation == "sigmoid"
        self.dice_weight = recipe.task.dice_weight
        self.test_flip = recipe.augment.test_flip
        self.select, self.higher_is_better = selected(recipe, "dice", ("dice", *(f"dice_{name}" for name in self.classes[1:]), "loss"))

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """dice_weight * soft Dice loss + (1 - dice_weight) * cross-entropy; coarser outputs count half of the one before."""
        logits = forward(model, batch)
        outputs = logits if isinstance(logits, list) else [logits]
        shares = [0.5**level for level in range(len(outputs))]
        losses = [share * self._loss(output.float(), batch["mask"]) for share, output in zip(shares, outputs, strict=True)]
        return torch.stack(losses).sum(0) / sum(shares)

    def _loss(self, logits: Tensor, mask: Tensor) -> Tensor:
        if logits.shape[2:] != mask.shape[2:]:
            mask = interpolate(mask.float(), size=logits.shape[2:], mode="nearest-exact")
        truth = mask[:, 0].long()
        hot = _hot(truth, len(self.classes))
        if self.sigmoid:
            probability = logits.sigmoid()
            entropy = binary_cross_entropy_with_logits(logits, hot, reduction="none").mean(1)
        else:
            probability = logits.softmax(1)
            entropy = cross_entropy(logits, truth, reduction="none")
        entropy = entropy.flatten(1).mean(1)
        return self.dice_weight * soft_dice_loss(probability, hot) + (1 - self.dice_weight) * entropy

    @torch.no_grad()
    def predict(self, model: nn.Module, batch: dict[str, Tensor], extras: Collection[str] = ()) -> dict[str, np.ndarray]:
        """Per case and foreground class; the mean probability over the mirrored images of recipe.augment.test_flip decides.

        dice float32[b, classes-1] (nan where the class is in neither), volume_ml and true_volume_ml float32[b, classes-1] (nan without
        `spacing`). extras: `loss` float32[b]; `hd95` float32[b, classes-1] in mm (voxels without `spacing`);
        `mask` uint8[b, *spatial], class indices. A batch without `mask` gives only volume_ml and the predicted mask.
        """
        found = self._decide(self.probability(model, batch))
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
            if "hd95" in extras:
                rows["hd95"] = _surface(found, truth, batch.get("spacing"))
            if "loss" in extras or self.select == "loss":
                rows["loss"] = self.loss(model, batch)
        return {name: (v.float() if v.is_floating_point() else v).cpu().numpy() for name, v in rows.items()}

    @torch.no_grad()
    def probability(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """float32[b, classes, *spatial]: the mean over the mirrored images of recipe.augment.test_flip."""
        total = self._probability(model, batch)
        for axis in self.test_flip:
            total = total + self._probability(model, {**batch, "image": batch["image"].flip(axis + 2)}).flip(axis + 2)
        return total / (1 + len(self.test_flip))

    def _probability(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        logits = forward(model, batch)
        assert isinstance(logits, Tensor), "put the model into evaluation mode first"
        return logits.float().sigmoid() if self.sigmoid else logits.float().softmax(1)

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


def _hot(index: Tensor, classes: int) -> Tensor:
    """index int64[b, *spatial] as float32[b, classes, *spatial]."""
    return one_hot(index, classes).movedim(-1, 1).float()


def _voxels(region: Tensor) -> Tensor:
    """float64[b, classes]: voxels in each region."""
    return region.flatten(2).sum(2).double().cpu()


def _surface(found: Tensor, truth: Tensor, spacing: Tensor | None) -> Tensor:
    """float64[b, classes]: surface_distance_95 of each case and class."""
    mm = torch.ones(len(found), found.ndim - 2) if spacing is None else spacing.cpu()
    pairs = zip(found.cpu().numpy(), truth.cpu().numpy(), mm.tolist(), strict=True)
    return torch.tensor([[surface_distance_95(p, t, sides) for p, t in zip(ps, ts, strict=True)] for ps, ts, sides in pairs])


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean of the finite values along axis 0; nan where there is none."""
    finite = np.isfinite(values)
    count = finite.sum(0)
    return np.where(count > 0, np.where(finite, values, 0).sum(0) / np.maximum(count, 1), np.nan)
