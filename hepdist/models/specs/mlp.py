"""The configuration of the MLP."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Le
from pydantic import PositiveInt

from hepdist.models.specs.common import ModelSpec, Range, Share


class MLPSpec(ModelSpec):
    """Multi-layer perceptron over EMR columns with their missing-mask as further inputs."""

    tasks = ("classification",)
    network = "hepdist.models.mlp:MLP"
    search: ClassVar = {"width": Range(16, 256, log=True), "depth": Range(1, 4), "dropout": Range(0.0, 0.5)}

    family: Literal["mlp"] = "mlp"
    width: PositiveInt = 64
    depth: Annotated[int, Ge(1), Le(8)] = 2
    """Hidden layers."""
    dropout: Share = 0.1

    @property
    def reads(self) -> tuple[str, ...]:
        return ("emr",)
