"""Outlining against a critic: segmentation, with what the critic sees of a prediction and of the truth."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import one_hot

from hepdist.tasks.segmentation import Segmentation


class Outlining(Segmentation):
    """Segmentation whose probabilities a critic compares with true masks, on (image, mask) pairs (Luc et al., 2016; SegAN, Xue et al., 2018).

    The critic sees true masks as they are, exactly 0 and 1: Luc et al.'s basic variant.
    """

    condition = "image"

    def claim(self, output: Tensor | list[Tensor]) -> Tensor:
        """float32[b, classes, *spatial]: the probabilities of the finest output."""
        logits = (output[0] if isinstance(output, list) else output).float()
        return logits.sigmoid() if self.sigmoid else logits.softmax(1)

    def truth(self, batch: dict[str, Tensor]) -> Tensor:
        """float32[b, classes, *spatial] of 0 and 1."""
        return one_hot(batch["mask"][:, 0].long(), len(self.classes)).movedim(-1, 1).float()
