"""Multi-layer perceptron over a patient's EMR columns: numbers, one-hot categories, and which of them are missing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hepdist.models.inputs import Inputs
from hepdist.models.specs import MLPSpec


class MLP(nn.Module):
    """emr float[b, F] (numbers normalised, categories as index, missing = 0), emr_missing uint8[b, F] -> logits float[b, classes].

    The missing-mask is an input of its own: in an EMR, not having measured says something. A linear layer on one-hot categories is
    an embedding, so the first layer embeds; an index outside the known categories is a row of zeros.
    """

    inputs = ("emr", "emr_missing")

    def __init__(self, spec: MLPSpec, inputs: Inputs, classes: int) -> None:
        super().__init__()
        columns = inputs.emr
        self.numbers = [i for i, column in enumerate(columns) if column.kind != "category"]
        self.categories = [(i, len(column.categories)) for i, column in enumerate(columns) if column.kind == "category"]
        width = len(self.numbers) + sum(size for _, size in self.categories) + len(columns)
        layers: list[nn.Module] = []
        for _ in range(spec.depth):
            layers += [nn.Linear(width, spec.width), nn.LayerNorm(spec.width), nn.ReLU(inplace=True), nn.Dropout(spec.dropout)]
            width = spec.width
        self.layers = nn.Sequential(*layers)
        self.feature_size = width
        self.head = nn.Linear(width, classes)

    def features(self, emr: Tensor, emr_missing: Tensor) -> Tensor:
        """float[b, feature_size]: the last hidden layer."""
        there = 1 - emr_missing.to(emr.dtype)
        parts = [(emr * there)[:, self.numbers]]
        for index, size in self.categories:
            hot = emr[:, index, None].round() == torch.arange(size, device=emr.device)
            parts.append(hot.to(emr.dtype) * there[:, index, None])
        return self.layers(torch.cat((*parts, 1 - there), dim=1))

    def forward(self, emr: Tensor, emr_missing: Tensor) -> Tensor:
        return self.head(self.features(emr, emr_missing))
