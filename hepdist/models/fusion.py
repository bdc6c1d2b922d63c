"""Late fusion of an image encoder and an EMR encoder: side by side, by FiLM, or gated; either input may be missing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hepdist.models.inputs import Inputs
from hepdist.models.mlp import MLP
from hepdist.models.resnet import ResNet
from hepdist.models.specs import FusionSpec


class Fusion(nn.Module):
    """image float[b, C, *spatial], emr float[b, F], emr_missing uint8[b, F] -> logits float[b, classes].

    A constant image, and an EMR row with every value missing, hold nothing: their features are replaced by a learned vector. In
    training `modality_dropout` of the samples lose one of the two that way, never both, so that this vector is learned.
    FiLM: Perez et al., 2018. Gated: Arevalo et al., 2017 (gated multimodal unit).
    """

    inputs = ("image", "emr", "emr_missing")

    def __init__(self, spec: FusionSpec, inputs: Inputs, classes: int) -> None:
        super().__init__()
        self.modality_dropout = spec.modality_dropout
        self.image = ResNet(spec.image, inputs, classes)
        self.emr = MLP(spec.emr, inputs, classes)
        del self.image.head, self.emr.head  # unused parameters would have no gradient, which ZeRO refuses
        image_size, emr_size = self.image.feature_size, self.emr.feature_size
        self.absent_image = nn.Parameter(torch.zeros(image_size))
        self.absent_emr = nn.Parameter(torch.zeros(emr_size))
        joins: dict[str, type[Concat | FiLM | Gated]] = {"concat": Concat, "film": FiLM, "gated": Gated}
        join = joins[spec.join](image_size, emr_size)
        self.join = join
        self.dropout = nn.Dropout(spec.image.dropout)
        self.head = nn.Linear(join.feature_size, classes)

    def forward(self, image: Tensor, emr: Tensor, emr_missing: Tensor) -> Tensor:
        flat = image.flatten(1)
        no_image = flat.amax(1) == flat.amin(1)
        no_emr = emr_missing.bool().all(1)
        if self.training and self.modality_dropout:
            draw = torch.rand(len(image), device=image.device)
            no_image = no_image | ((draw < self.modality_dropout / 2) & ~no_emr)
            no_emr = no_emr | ((draw > 1 - self.modality_dropout / 2) & ~no_image)
        seen = torch.where(no_image[:, None], self.absent_image, self.image.features(image))
        told = torch.where(no_emr[:, None], self.absent_emr, self.emr.features(emr, emr_missing))
        return self.head(self.dropout(self.join(seen, told)))


class Concat(nn.Module):
    """Both feature vectors side by side."""

    def __init__(self, image_size: int, emr_size: int) -> None:
        super().__init__()
        self.feature_size = image_size + emr_size

    def forward(self, seen: Tensor, told: Tensor) -> Tensor:
        return torch.cat((seen, told), dim=1)


class FiLM(nn.Module):
    """EMR features scale and shift the image features; starts as the identity."""

    def __init__(self, image_size: int, emr_size: int) -> None:
        super().__init__()
        self.feature_size = image_size
        self.modulation = nn.Linear(emr_size, 2 * image_size)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, seen: Tensor, told: Tensor) -> Tensor:
        scale, shift = self.modulation(told).chunk(2, dim=1)
        return torch.relu(seen * (1 + scale) + shift)


class Gated(nn.Module):
    """A mixture of both, projected to one size, with weights per feature that depend on both."""

    def __init__(self, image_size: int, emr_size: int) -> None:
        super().__init__()
        self.feature_size = max(image_size, emr_size)
        self.project_image = nn.Linear(image_size, self.feature_size)
        self.project_emr = nn.Linear(emr_size, self.feature_size)
        self.gate = nn.Linear(image_size + emr_size, self.feature_size)

    def forward(self, seen: Tensor, told: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(torch.cat((seen, told), dim=1)))
        return gate * torch.tanh(self.project_image(seen)) + (1 - gate) * torch.tanh(self.project_emr(told))
