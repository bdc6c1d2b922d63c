"""The configuration of the MLP, and of how a table's columns enter any network."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Le
from pydantic import PositiveInt

from hepdist.models.specs.common import Choice, ModelSpec, Range, Share

Numbers = Literal["linear", "quantile", "piecewise"]
"""How a number enters. linear: normalised; quantile: its normal score among the train rows, which tames the long tails of laboratory
values; piecewise: one feature a bin between train quantiles, filled from left to right (Gorishniy et al., 2022, section 3.1)."""
Members = Annotated[int, Ge(1), Le(64)]
"""Networks trained side by side, each with a loss of its own; their probabilities are averaged."""


class MLPSpec(ModelSpec):
    """Multi-layer perceptron over EMR columns with their missing-mask as further inputs."""

    tasks = ("classification", "survival")
    network = "hepdist.models.mlp:MLP"
    search: ClassVar = {
        "width": Range(16, 256, log=True),
        "depth": Range(1, 4),
        "dropout": Range(0.0, 0.5),
        "numbers": Choice(("linear", "quantile", "piecewise")),
    }

    family: Literal["mlp"] = "mlp"
    width: PositiveInt = 64
    depth: Annotated[int, Ge(1), Le(8)] = 2
    """Hidden layers."""
    numbers: Numbers = "linear"
    embedding: Annotated[int, Ge(0), Le(128)] = 0
    """Features that each column becomes by a layer of its own before all columns meet; 0: columns enter as they are, categories one-hot."""
    residual: bool = False
    """Each hidden layer after the first adds to its input instead of replacing it."""
    members: Members = 1
    """As BatchEnsemble (Wen et al., 2020): one set of weights, and scales of inputs and outputs of each member's own (TabM, Gorishniy
    et al., 2025); a layer of 64 costs 32 members little more than one."""
    hide: Share = 0.0
    """Share of the values that are there which training hides at random, as if they had not been measured."""
    dropout: Share = 0.1

    @property
    def reads(self) -> tuple[str, ...]:
        return ("emr",)
