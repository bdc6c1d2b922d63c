"""The columns of a table as features of a network: numbers by one of three encodings, categories, and which of them are missing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hepdist.errors import RecipeError

if TYPE_CHECKING:
    from hepdist.models.specs.mlp import Numbers
    from hepdist.shards.manifest import EMRColumn

BINS = 8
"""Of a piecewise encoding, at most: fewer than in the paper, whose tables have thousands of rows."""


class ColumnEncoder(nn.Module):
    """values float[..., F] (normalised, categories as index) and missing [..., F] -> float[..., width].

    What is stored where a value is missing has no influence. The missing-mask is an input of its own: in an EMR, not having measured
    says something. A category outside the known ones is neither of them nor missing.
    """

    knots: Tensor
    width: int

    def __init__(self, columns: Sequence[EMRColumn], quantiles: Sequence[Sequence[float]], numbers: Numbers, embedding: int = 0) -> None:
        """quantiles: of each column among the train rows, in normalised units, evenly spaced from the least to the largest; empty where the
        cohort doesn't say them, which only linear numbers can do without. embedding: features a column; 0: as they are, categories
        one-hot. Raises RecipeError where quantiles are needed and not there.
        """
        super().__init__()
        self.numbers = [i for i, column in enumerate(columns) if column.kind != "category"]
        self.categories = [(i, len(column.categories)) for i, column in enumerate(columns) if column.kind == "category"]
        self.encoding, self.embedding = numbers, embedding
        if numbers != "linear":
            if not quantiles:
                raise RecipeError(
                    f"recipe key 'model.numbers' is '{numbers}', but the cohort doesn't hold the quantiles of its columns; ingest it again"
                )
            knots = torch.tensor(quantiles, dtype=torch.float32).reshape(len(quantiles), -1)[self.numbers]
            self.register_buffer("knots", knots[:, :: max(1, (knots.shape[1] - 1) // BINS)] if numbers == "piecewise" else knots)
        each = self.knots.shape[1] - 1 if numbers == "piecewise" else 1
        hot = sum(size for _, size in self.categories)
        self.width = len(self.numbers) * each + hot + len(columns)
        if embedding:
            self.of_numbers = nn.Parameter(torch.randn(len(self.numbers), each + 2, embedding) / math.sqrt(each + 2))
            self.of_categories = nn.Parameter(torch.randn(hot + 2 * len(self.categories), embedding) / math.sqrt(embedding))
            self.width = len(columns) * embedding

    def forward(self, values: Tensor, missing: Tensor, told: Tensor | None = None) -> Tensor:
        """told [..., F]: what the mask among the features says, where that is not `missing` itself."""
        there = 1 - missing.to(values.dtype)
        known = there[..., self.numbers, None]
        numbers = self._encoded(values.masked_fill(there == 0, 0.0)[..., self.numbers]) * known
        if self.embedding:
            return self._embedded(numbers, known, values, there)
        parts = [numbers.flatten(-2)]
        for index, size in self.categories:
            hot = values[..., index, None].round() == torch.arange(size, device=values.device)
            parts.append(hot.to(values.dtype) * there[..., index, None])
        return torch.cat((*parts, 1 - there if told is None else told.to(values.dtype)), dim=-1)

    def _encoded(self, numbers: Tensor) -> Tensor:
        """float[..., N] -> float[..., N, features of each]."""
        if self.encoding == "linear":
            return numbers[..., None]
        if self.encoding == "quantile":
            return normal_score(numbers, self.knots)[..., None]
        low, high = self.knots[:, :-1], self.knots[:, 1:]
        value, width = numbers[..., None], high - low
        filled = ((value - low) / torch.where(width > 0, width, 1.0)).clamp(0, 1)
        return torch.where(width > 0, filled, (value >= low).to(filled.dtype))

    def _embedded(self, numbers: Tensor, known: Tensor, values: Tensor, there: Tensor) -> Tensor:
        """Each column by a linear layer and ReLU of its own, side by side; of a category, one vector each, and for missing and unknown."""
        features = torch.cat((numbers, known, 1 - known), dim=-1)
        parts = [torch.relu(torch.einsum("...nd,nde->...ne", features, self.of_numbers))]
        first = 0
        for index, size in self.categories:
            code = values[..., index].round().long()
            row = torch.where((code >= 0) & (code < size), code, size + 1)
            row = torch.where(there[..., index] > 0, row, size) + first
            parts.append(self.of_categories[row][..., None, :])
            first += size + 2
        return torch.cat(parts, dim=-2).flatten(-2)


def hide(missing: Tensor, share: float) -> Tensor:
    """The mask with a random `share` of the known values taken as missing too; drawn from torch's generator."""
    return ((missing > 0) | (torch.rand(missing.shape, device=missing.device) < share)).to(missing.dtype)


def normal_score(numbers: Tensor, knots: Tensor) -> Tensor:
    """The normal quantile of each value's rank among the train rows, as scikit-learn's QuantileTransformer gives it.

    numbers: float[..., N]; knots: float[N, K], each row rising from the least to the largest train value. Values of a run of equal knots
    get the middle of their ranks. Ranks end a quarter of a step from 0 and 1, so that no value is further out than its rank can tell.
    """
    if not len(knots):
        return numbers
    steps = knots.shape[1] - 1
    rows = numbers.reshape(-1, len(knots)).T.contiguous()
    ranks = torch.stack([_rank(rows, knots, right) for right in (False, True)]).mean(0) / steps
    edge = 1 / (4 * steps)
    score = math.sqrt(2) * torch.erfinv(2 * ranks.clamp(edge, 1 - edge) - 1)
    return score.T.reshape(numbers.shape)


def _rank(rows: Tensor, knots: Tensor, right: bool) -> Tensor:
    """float[N, n] in [0, K - 1]: where each value lies among its knots, by linear interpolation; after (right) or before equal ones."""
    last = knots.shape[1] - 1
    above = torch.searchsorted(knots, rows, right=right).clamp(1, last)
    low, high = knots.gather(1, above - 1), knots.gather(1, above)
    tied = ((rows >= high) if right else (rows > high)).to(rows.dtype)  # equal knots can only be the first or the last ones here
    share = torch.where(high > low, (rows - low) / torch.where(high > low, high - low, 1.0), tied)
    return above - 1 + share.clamp(0, 1)
