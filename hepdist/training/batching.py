"""How a worker's part of a global batch becomes weighted micro-batches of one shape."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from hepdist.shards.manifest import Manifest

Batch = dict[str, torch.Tensor]


def weigh(batch: Batch) -> Batch:
    """Add `weight` float32[b]: 1 for a row that counts, 0 for one without the class label or the follow-up that it should have."""
    weight = torch.ones(len(batch["row"]), device=batch["row"].device)
    if "followup" in batch:
        weight = (batch["followup"][:, 0] > 0).to(weight.dtype)
    elif "label" in batch and batch["label"].ndim == 1:
        weight = (batch["label"] >= 0).to(weight.dtype)
    return {**batch, "weight": weight}


def every_row_counts(columns: Collection[str], manifest: Manifest) -> bool:
    """Whether `weigh` gives 1 to each train row with these columns, as far as the manifest tells."""
    if "followup" in columns:
        return False
    train = manifest.counts["train"]
    return "label" not in columns or manifest.multilabel or sum(train["classes"].values()) == train["rows"]


def micro_batches(batch: Batch, largest_part: int, micro_batch: int | None) -> list[Batch]:
    """Cut a worker's part into equally long micro-batches, the same number on every worker.

    largest_part: rows of the largest worker's part of this global batch. Missing rows repeat the last one (or are zero
    where the part is empty) with weight 0, so that no worker is left out of a collective.
    """
    count = -(-largest_part // micro_batch) if micro_batch else 1
    size = -(-largest_part // count)
    missing = count * size - len(batch["row"])
    if missing:
        batch = {name: torch.cat([tensor, _filler(tensor, missing)]) for name, tensor in batch.items()}
        batch["weight"][-missing:] = 0.0
    return [{name: tensor[i * size : (i + 1) * size] for name, tensor in batch.items()} for i in range(count)]


def _filler(tensor: torch.Tensor, rows: int) -> torch.Tensor:
    if len(tensor):
        return tensor[-1:].expand(rows, *tensor.shape[1:])
    return tensor.new_zeros((rows, *tensor.shape[1:]))
