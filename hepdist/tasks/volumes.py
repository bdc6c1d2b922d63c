"""Whole volumes from the predictions of their bricks: blended where bricks overlap, decided plane by plane, scored once a volume.

Bricks come layer by layer along the first axis, so planes above the current layer are final. Besides the decided volume only one layer
is held: for 512 x 512 x 600 voxels, 2 classes and bricks 96 voxels high, 0.3 GiB of float32 and 0.3 GiB of decision and truth.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from hepdist.tasks.surface import surface_agreement

if TYPE_CHECKING:
    from hepdist.tasks.segmentation import Segmentation

PLANES = 16
"""Decided at a time."""


def predict_volumes(
    task: Segmentation, model: nn.Module, batches: Iterable[dict[str, Tensor]], extras: Collection[str] = ()
) -> Iterator[dict[str, np.ndarray]]:
    """What Segmentation.predict gives for a row, for each volume that the bricks in `batches` make up; entries have length 1.

    batches: as for Segmentation.predict, with `brick`, `offset`, `original_shape` and `row`; bricks of one volume follow each other in the
    order of their index. Probabilities are blended with a Gaussian of 1/8 of the brick's sides (MONAI's sliding window). `row` is the
    number of the first brick; `loss` the mean over bricks; `mask` the whole volume's.
    """
    importance: Tensor | None = None
    for batch in batches:
        probability = task.probability(model, batch)
        with torch.no_grad():
            wanted = "mask" in batch and ("loss" in extras or task.select == "loss")
            loss = task.loss(model, batch).cpu().numpy() if wanted else None
        if importance is None:
            importance = importance_of(tuple(probability.shape[2:]), probability.device)
        places = zip(*(batch[name].tolist() for name in ("row", "brick", "offset", "original_shape")), strict=True)
        for i, (row, (index, bricks), offset, shape) in enumerate(places):
            if index == 0:
                assembly = Assembly(len(task.classes), task.sigmoid, tuple(shape), importance)
                first, losses = row, []
            mask = batch["mask"][i, 0] if "mask" in batch else None
            assembly.add(probability[i], mask, offset)
            losses += [] if loss is None else [loss[i]]
            if index + 1 == bricks:
                spacing = batch["spacing"][i].tolist() if "spacing" in batch else None
                scores = assembly.scores(spacing, extras, task.tolerance_mm)
                yield {"row": np.array([first]), **scores, **({"loss": np.array([np.mean(losses)])} if losses else {})}


class Assembly:
    """One volume, growing brick by brick."""

    def __init__(
        self, classes: int, overlapping: bool, shape: tuple[int, ...], importance: Tensor, total: np.ndarray | None = None
    ) -> None:
        """overlapping: a voxel may have several classes, each decided above one half; else the most probable one.

        total: float32[classes - 1, *shape] that the foreground's probabilities are added to, where they are wanted later.
        """
        self._total = total
        self._overlapping, self._shape, self._importance = overlapping, shape, importance
        layer = (min(importance.shape[0], shape[0]), *shape[1:])
        self._layer = torch.zeros(classes, *layer, device=importance.device)
        self._weight = torch.zeros(layer, device=importance.device)
        self._top = 0
        """Plane of the volume where the layer begins; all planes before it are decided."""
        self.found = np.zeros((classes - 1 if overlapping else 1, *shape), np.uint8)
        """Whether each foreground class is there, or the class index."""
        self.truth: np.ndarray | None = None
        self._foreground = range(1, classes)

    def add(self, probability: Tensor, mask: Tensor | None, offset: list[int]) -> None:
        """Take in the next brick: probability float32[classes, *brick], mask uint8[*brick]; offset: of its voxel 0, negative = padded."""
        low = [max(0, o) for o in offset]
        high = [min(o + side, n) for o, side, n in zip(offset, self._importance.shape, self._shape, strict=True)]
        assert low[0] >= self._top, "bricks of a volume must come layer by layer along the first axis"
        self._decide_before(low[0])
        inside = tuple(slice(a - o, b - o) for a, b, o in zip(low, high, offset, strict=True))
        place = (slice(0, high[0] - low[0]), *(slice(a, b) for a, b in zip(low[1:], high[1:], strict=True)))
        weight = self._importance[inside]
        self._layer[(slice(None), *place)] += probability[(slice(None), *inside)] * weight
        self._weight[place] += weight
        if mask is not None:
            if self.truth is None:
                self.truth = np.zeros(self._shape, np.uint8)
            self.truth[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = mask[inside].cpu().numpy()

    def decided(self) -> np.ndarray:
        """uint8[*shape]: `classes`, once all bricks are there."""
        self._decide_before(self._shape[0])
        return self.classes

    def scores(self, spacing: list[float] | None, extras: Collection[str], tolerance_mm: float) -> dict[str, np.ndarray]:
        """The entries of Segmentation.predict, once all bricks are there. tolerance_mm: of nsd."""
        self._decide_before(self._shape[0])
        self._layer, self._weight = self._layer[:, :0].clone(), self._weight[:0].clone()  # distances need the memory
        found = [np.count_nonzero(self.region(k)) for k in self._foreground]
        voxel_ml = np.prod(spacing, dtype=np.float64) / 1000 if spacing is not None else np.nan
        rows = {"volume_ml": np.array(found) * voxel_ml}
        if self.truth is not None:
            truth = [np.count_nonzero(self.truth == k) for k in self._foreground]
            rows["true_volume_ml"] = np.array(truth) * voxel_ml
            overlap = np.array([np.count_nonzero(self.region(k) & (self.truth == k)) for k in self._foreground])
            both = np.array(found) + np.array(truth)
            rows["dice"] = np.divide(2 * overlap, both, out=np.full(len(both), np.nan), where=both > 0)
            if {"hd95", "nsd"} & set(extras):
                sides = spacing or [1.0] * len(self._shape)
                surfaces = [surface_agreement(self.region(k), self.truth == k, sides, tolerance_mm) for k in self._foreground]
                measured = dict(zip(("hd95", "nsd"), np.array(surfaces).T, strict=True))
                rows |= {name: values for name, values in measured.items() if name in extras}
        answer = {name: values[None].astype(np.float32) for name, values in rows.items()}
        if "mask" in extras:
            answer["mask"] = self.classes[None]
        return answer

    @property
    def classes(self) -> np.ndarray:
        """uint8[*shape]: the class index of each voxel, the highest one where classes overlap."""
        if not self._overlapping:
            return self.found[0]
        index = np.zeros(self._shape, np.uint8)
        for k in self._foreground:
            index[self.region(k)] = k
        return index

    def region(self, k: int) -> np.ndarray:
        """bool[*shape]: where foreground class k was found."""
        return self.found[k - 1] > 0 if self._overlapping else self.found[0] == k

    def _decide_before(self, plane: int) -> None:
        """Decide the planes up to `plane`, which no further brick touches, and move the layer there."""
        done = plane - self._top
        if not done:
            return
        for first in range(0, done, PLANES):
            some = slice(first, min(first + PLANES, done))
            probability = self._layer[:, some] / self._weight[some]
            if self._total is not None:
                self._total[:, self._top + some.start : self._top + some.stop] += probability[1:].cpu().numpy()
            decided = probability[1:] > 0.5 if self._overlapping else probability.argmax(0, keepdim=True)
            self.found[:, self._top + some.start : self._top + some.stop] = decided.to(torch.uint8).cpu().numpy()
        left = self._weight.shape[0] - done
        for tensor in (*self._layer, self._weight):
            tensor[:left] = tensor[done:].clone()
            tensor[left:] = 0
        self._top = plane


def importance_of(size: tuple[int, ...], device: torch.device) -> Tensor:
    """float32[*size]: the weight of each voxel of a brick, highest at its centre."""
    from monai.data.utils import compute_importance_map  # MONAI takes seconds to import

    return compute_importance_map(size, mode="gaussian", sigma_scale=0.125, device=device)
