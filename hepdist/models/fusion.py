"""Late fusion of an image encoder with encoders of EMR columns and visits: side by side, by FiLM, or gated; any input may be missing."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from hepdist.models.inputs import Inputs
from hepdist.models.mlp import MLP
from hepdist.models.rnn import RNN
from hepdist.models.specs import FusionSpec

OUTPUTS = ("head", "heads", "auxiliary")
"""What an encoder has for its own logits: unused parameters would have no gradient, which ZeRO refuses."""


class Fusion(nn.Module):
    """image float[b, C, *spatial], image_missing uint8[b, 1], and what the encoders of the record read -> logits float[b, classes].

    An image that is missing, an EMR row with every value missing and a patient without a visit hold nothing: their features are
    replaced by a learned vector. In training `modality_dropout` of the samples lose one of their inputs that way, never the last one, so
    that this vector is learned. FiLM: Perez et al., 2018. Gated: Arevalo et al., 2017 (gated multimodal unit).
    """

    def __init__(self, spec: FusionSpec, inputs: Inputs, classes: int) -> None:
        super().__init__()
        self.modality_dropout = spec.modality_dropout
        module, _, name = spec.image.network.partition(":")
        encoders: dict[str, Any] = {"image": getattr(import_module(module), name)(spec.image, inputs, classes)}
        if spec.emr is not None:
            encoders["emr"] = MLP(spec.emr, inputs, classes)
        if spec.visits is not None:
            visits = spec.visits if spec.emr is None else spec.visits.model_copy(update={"static": False})  # the MLP reads them
            encoders["visits"] = RNN(visits, inputs, classes)
        self.reads = {name: tuple(encoder.inputs) for name, encoder in encoders.items()}
        self.inputs = ("image_missing", *(column for columns in self.reads.values() for column in columns))
        for encoder in encoders.values():
            for output in OUTPUTS:
                if hasattr(encoder, output):
                    delattr(encoder, output)
        sizes = [int(encoder.feature_size) for encoder in encoders.values()]
        self.encoders = nn.ModuleDict(encoders)
        self.absent = nn.ParameterList(torch.zeros(size) for size in sizes)
        joins: dict[str, type[Concat | FiLM | Gated]] = {"concat": Concat, "film": FiLM, "gated": Gated}
        join = joins[spec.join](sizes)
        self.join = join
        self.dropout = nn.Dropout(getattr(spec.image, "dropout", 0.0) if spec.dropout is None else spec.dropout)
        self.head = nn.Linear(join.feature_size, classes)

    def forward(self, *inputs: Tensor) -> Tensor:
        batch = dict(zip(self.inputs, inputs, strict=True))
        there = torch.stack([self.has(name, batch) for name in self.reads], dim=1)
        if self.training and self.modality_dropout:
            there = lose_one(there, self.modality_dropout)
        features = []
        for index, (name, columns) in enumerate(self.reads.items()):
            encoder: Any = self.encoders[name]
            found = encoder.features(*(batch[column] for column in columns))
            features.append(torch.where(there[:, index, None], found, self.absent[index]))
        return self.head(self.dropout(self.join(features)))

    def has(self, name: str, batch: dict[str, Tensor]) -> Tensor:
        """bool[b]: whether a sample holds anything that an encoder reads."""
        if name == "image":
            return batch["image_missing"][:, 0] == 0
        columns = self.reads[name]
        there = torch.zeros(batch[columns[0]].shape[0], dtype=torch.bool, device=batch[columns[0]].device)
        if "emr_missing" in columns:
            there = there | ~batch["emr_missing"].bool().all(1)
        if "sequence_length" in columns:
            there = there | (batch["sequence_length"][:, 0] > 0)
        return there


def lose_one(there: Tensor, share: float) -> Tensor:
    """bool[b, inputs]: in a `share` of the samples one of their inputs is gone, each as likely; a sample's only one stays."""
    draw = torch.rand(there.shape, device=there.device).masked_fill(~there, -1.0)
    chosen = torch.zeros_like(there).scatter(1, draw.argmax(1, keepdim=True), True)
    loses = (torch.rand(len(there), 1, device=there.device) < share) & (there.sum(1, keepdim=True) > 1)
    return there & ~(chosen & loses)


class Concat(nn.Module):
    """All feature vectors side by side."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.feature_size = sum(sizes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(features), dim=1)


class FiLM(nn.Module):
    """The features of the record scale and shift those of the image; starts as the identity."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.feature_size = sizes[0]
        self.modulation = nn.Linear(sum(sizes[1:]), 2 * sizes[0])
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        scale, shift = self.modulation(torch.cat(list(features[1:]), dim=1)).chunk(2, dim=1)
        return torch.relu(features[0] * (1 + scale) + shift)


class Gated(nn.Module):
    """A mixture of all, projected to one size, with weights per feature that depend on all and sum to 1."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.feature_size = max(sizes)
        self.projections = nn.ModuleList(nn.Linear(size, self.feature_size) for size in sizes)
        self.gate = nn.Linear(sum(sizes), len(sizes) * self.feature_size)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        gates = self.gate(torch.cat(list(features), dim=1)).unflatten(1, (len(self.projections), -1)).softmax(1)
        projected = torch.stack([torch.tanh(p(x)) for p, x in zip(self.projections, features, strict=True)], dim=1)
        return (gates * projected).sum(1)
