"""Multi-layer perceptron over a patient's EMR columns; with `members` an ensemble of them in one set of weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hepdist.models.columns import ColumnEncoder, hide
from hepdist.models.inputs import Inputs
from hepdist.models.specs import MLPSpec


class MLP(nn.Module):
    """emr float[b, F] (numbers normalised, categories as index, missing = 0), emr_missing uint8[b, F] -> logits float[b, classes].

    With more than one member: float[b, members, classes]. What is stored where a value is missing has no influence.
    """

    inputs = ("emr", "emr_missing")

    def __init__(self, spec: MLPSpec, inputs: Inputs, classes: int) -> None:
        super().__init__()
        self.columns = ColumnEncoder(inputs.emr, inputs.emr_quantiles, spec.numbers, spec.embedding)
        self.members, self.residual, self.hide = spec.members, spec.residual, spec.hide
        width, layers = self.columns.width, []
        for index in range(spec.depth):
            layers.append(Hidden(width, spec.width, spec.members, spec.dropout, first=not index))
            width = spec.width
        self.layers = nn.ModuleList(layers)
        self.feature_size = width
        self.head: nn.Module = nn.Linear(width, classes) if spec.members == 1 else Heads(width, classes, spec.members)

    def features(self, emr: Tensor, emr_missing: Tensor) -> Tensor:
        """float[b, feature_size], or float[b, members, feature_size]: the last hidden layer."""
        x = self.columns(emr, hide(emr_missing, self.hide) if self.training and self.hide else emr_missing)
        if self.members > 1:
            x = x[:, None].expand(-1, self.members, -1)
        for index, layer in enumerate(self.layers):
            x = x + layer(x) if self.residual and index else layer(x)
        return x

    def forward(self, emr: Tensor, emr_missing: Tensor) -> Tensor:
        return self.head(self.features(emr, emr_missing))


class Hidden(nn.Module):
    """Linear, layer norm, ReLU, dropout; several members share the matrix and scale its inputs and outputs each in their own way.

    float[b, (members,) inputs] -> float[b, (members,) outputs]. Wen et al., 2020 (BatchEnsemble), with TabM's start: random signs at the
    first layer's inputs tell the members apart, every other scale begins at 1.
    """

    def __init__(self, inputs: int, outputs: int, members: int, dropout: float, first: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=members == 1)
        self.several = members > 1
        if self.several:
            signs = torch.randint(0, 2, (members, inputs)).float() * 2 - 1
            self.scale_in = nn.Parameter(signs if first else torch.ones(members, inputs))
            self.scale_out = nn.Parameter(torch.ones(members, outputs))
            self.bias = nn.Parameter((torch.rand(members, outputs) * 2 - 1) * inputs**-0.5)
        self.norm = nn.LayerNorm(outputs)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x * self.scale_in) * self.scale_out + self.bias if self.several else self.linear(x)
        return self.dropout(torch.relu(self.norm(x)))


class Heads(nn.Module):
    """A linear layer for each member: float[b, members, inputs] -> float[b, members, outputs]."""

    def __init__(self, inputs: int, outputs: int, members: int) -> None:
        super().__init__()
        limit = inputs**-0.5
        self.weight = nn.Parameter((torch.rand(members, inputs, outputs) * 2 - 1) * limit)
        self.bias = nn.Parameter((torch.rand(members, outputs) * 2 - 1) * limit)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bmi,mio->bmo", x, self.weight) + self.bias
