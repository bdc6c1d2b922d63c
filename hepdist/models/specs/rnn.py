"""The configuration of the recurrent network over visits."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Le
from pydantic import PositiveInt

from hepdist.models.specs.common import Choice, ModelSpec, Range, Share
from hepdist.models.specs.mlp import Members, Numbers


class RNNSpec(ModelSpec):
    """GRU or LSTM over a patient's visits, with what was missing at each and the days between them, beside the static EMR columns."""

    tasks = ("classification", "survival")
    network = "hepdist.models.rnn:RNN"
    search: ClassVar = {
        "cell": Choice(("gru", "lstm")),
        "width": Range(16, 128, log=True),
        "dropout": Range(0.0, 0.5),
        "numbers": Choice(("linear", "quantile", "piecewise")),
    }

    family: Literal["rnn"] = "rnn"
    cell: Literal["gru", "lstm"] = "gru"
    """Cho et al., 2014; Hochreiter & Schmidhuber, 1997."""
    width: PositiveInt = 32
    """Features of the state."""
    layers: Annotated[int, Ge(1), Le(4)] = 1
    numbers: Numbers = "linear"
    carry: bool = True
    """A value that was not measured at a visit enters as the patient's last known one; the mask still says that it is old."""
    last_visit: bool = True
    """The last visit's own values go to the output beside the state: the state need only say what they don't."""
    static: bool = True
    """Also read the EMR columns that don't change between visits, where the cohort has any."""
    members: Members = 1
    """Independent networks (Lakshminarayanan et al., 2017); each costs as much as one alone."""
    hide: Share = 0.0
    """Share of the values that are there which training hides at random, as if they had not been measured."""
    dropout: Share = 0.1

    @property
    def reads(self) -> tuple[str, ...]:
        return ("sequence",)

    @property
    def also_reads(self) -> tuple[str, ...]:
        return ("emr",) if self.static else ()
