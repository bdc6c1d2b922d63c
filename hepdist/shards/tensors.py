"""From stored values to tensors that torch can compute with: the same wherever a model is trained, scored, explained, measured or asked."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def tensor_of(values: np.ndarray) -> Tensor:
    """The values, not copied; uint16 as int32, since torch has few operations on uint16.

    `hepdist.augment.normalise` takes an image of int32 for one that was stored as uint16.
    """
    return torch.from_numpy(values.astype(np.int32) if values.dtype == np.uint16 else values)
