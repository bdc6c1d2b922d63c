"""What the specs of all families share: the fields' types, what a spec says of itself, and the ranges that a search may try."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from hepdist.spec import Spec

Share = Annotated[float, Ge(0), Le(0.9)]
Norm = Literal["instance", "group", "syncbatch"]
Stem = Literal["auto", "small", "medium", "large", "patch"]
Activation = Literal["relu", "leaky_relu", "prelu", "elu", "gelu", "silu"]


@dataclass(frozen=True)
class Choice:
    """A search tries these values."""

    options: tuple[Any, ...]


@dataclass(frozen=True)
class Range:
    """A search tries values from low to high, both included; whole numbers where both are whole."""

    low: float
    high: float
    log: bool = False
    """Uniform in the logarithm."""


class ModelSpec(Spec):
    """Base of every family's spec. A subclass has a field `family` with its name as the only value."""

    tasks: ClassVar[tuple[str, ...]]
    """Values of task.kind that the family serves."""
    network: ClassVar[str]
    """Where the network is, as 'module:class'; the module is imported when it is built, since a worker pays for the one it trains.
    The class is called with (spec, Inputs, number of classes)."""
    search: ClassVar[dict[str, Choice | Range]]
    """What a search varies by default, by field."""

    @property
    def reads(self) -> tuple[str, ...]:
        """What the network needs of a cohort: some of 'image', 'emr', 'sequence'."""
        return ("image",)

    @property
    def also_reads(self) -> tuple[str, ...]:
        """What it takes besides, where the cohort has it."""
        return ()


class ClassifierSpec(ModelSpec):
    """What all networks have that classify an image."""

    tasks = ("classification",)

    norm: Norm = "group"
    """Group norm by default: exact on any number of workers, since it needs no statistics across the batch."""
    activation: Activation = "relu"
    dropout: Share = 0.0
    """Share of features dropped before the last layer."""
