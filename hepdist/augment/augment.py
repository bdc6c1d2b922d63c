"""Random augmentation of a batch: geometry, intensities, erasing and mixing, each drawn per sample from its position."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from hepdist.augment.geometry import move
from hepdist.augment.intensity import intensity
from hepdist.augment.mixing import erase, mix

if TYPE_CHECKING:
    from hepdist.sections import AugmentSpec


def augment(batch: dict[str, Tensor], spec: AugmentSpec, seed: int, epoch: int) -> dict[str, Tensor]:
    """The batch with changed `image`, and with `mask` moved and cropped along where there is one.

    image: normalised float32[b, C, *spatial]; mask: uint8[b, 1, *spatial]; position: int64[b]. A sample's change depends only on (seed,
    epoch, position), never on its neighbours, the worker count or torch's generator; the partner in mixup and cutmix is the one exception
    (see `mix`). With these the batch also holds `mixed_label` (the partner's label) and `mixed_share` float32[b] (the own image's share,
    0.5 to 1).
    """
    out = dict(batch)
    if "image" not in batch or not len(batch["image"]):
        return out
    key = (batch["position"], seed, epoch)
    move(out, spec, key)
    out["image"] = intensity(out["image"], spec, key)
    if spec.erase:
        out["image"] = erase(out["image"], spec.erase, key)
    if spec.mixup or spec.cutmix:
        mix(out, spec, key)
    return out
