"""Recurrent network over a patient's visits: GRU or LSTM on packed sequences, with the days between visits and what was not measured."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from hepdist.models.columns import ColumnEncoder, hide
from hepdist.models.inputs import Inputs
from hepdist.models.specs import RNNSpec

CELLS: dict[str, type[nn.GRU | nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}
DAYS = 365.0
"""Of one unit of time inside the network."""


class RNN(nn.Module):
    """sequence float[b, T, F], sequence_missing uint8[b, T, F], sequence_gap float[b, T] (days), sequence_length int32[b, 1], and emr
    float[b, G], emr_missing uint8[b, G] where static columns are read -> logits float[b, classes].

    With more than one member: float[b, members, classes]. Padding after the last visit, and what is stored where a value is missing,
    have no influence. A patient without a visit has the state zero, so that static columns decide alone.
    """

    def __init__(self, spec: RNNSpec, inputs: Inputs, classes: int) -> None:
        super().__init__()
        self.inputs: tuple[str, ...] = ("sequence", "sequence_missing", "sequence_gap", "sequence_length")
        if spec.static and inputs.emr:
            self.inputs += ("emr", "emr_missing")
        self.networks = nn.ModuleList(Member(spec, inputs) for _ in range(spec.members))
        self.feature_size: int = spec.width
        self.heads = nn.ModuleList(nn.Linear(self.feature_size, classes) for _ in self.networks)

    def features(self, *inputs: Tensor) -> Tensor:
        """float[b, feature_size]: the hidden layer of the only member."""
        features: Tensor = self.networks[0](*inputs)
        return features

    def forward(self, *inputs: Tensor) -> Tensor:
        logits = [head(network(*inputs)) for head, network in zip(self.heads, self.networks, strict=True)]
        return logits[0] if len(logits) == 1 else torch.stack(logits, dim=1)


class Member(nn.Module):
    """One network: what `RNN` reads -> float[b, feature_size]."""

    def __init__(self, spec: RNNSpec, inputs: Inputs) -> None:
        super().__init__()
        self.carry, self.last_visit, self.hide = spec.carry, spec.last_visit, spec.hide
        self.packed = True
        """False: the cell also runs over the padding, and its state is read at the last visit: the same, for graphs that know no packing."""
        self.columns = ColumnEncoder(inputs.sequence, inputs.sequence_quantiles, spec.numbers)
        visit = self.columns.width + 2
        between = spec.dropout if spec.layers > 1 else 0.0
        self.cell = CELLS[spec.cell](visit, spec.width, spec.layers, batch_first=True, dropout=between)
        width = spec.width + (visit if spec.last_visit else 0)
        if spec.static and inputs.emr:
            self.static = ColumnEncoder(inputs.emr, inputs.emr_quantiles, spec.numbers)
            width += self.static.width
        self.feature_size = spec.width
        self.layers = nn.Sequential(nn.Linear(width, spec.width), nn.LayerNorm(spec.width), nn.ReLU(inplace=True), nn.Dropout(spec.dropout))

    def forward(self, sequence: Tensor, missing: Tensor, gap: Tensor, length: Tensor, *static: Tensor) -> Tensor:
        length = length[:, 0].long()
        if self.training and self.hide:
            missing, static = hide(missing, self.hide), (*static[:1], *(hide(mask, self.hide) for mask in static[1:]))
        visits = self.visits(sequence, missing, gap)
        state = self.state(visits, length)
        seen = (length > 0).to(state.dtype)[:, None]
        parts = [state * seen]
        if self.last_visit:
            parts.append(at_last(visits, length) * seen)
        if static:
            parts.append(self.static(*static))
        features: Tensor = self.layers(torch.cat(parts, dim=1))
        return features

    def state(self, visits: Tensor, length: Tensor) -> Tensor:
        """float[b, width]: the last layer's state after the last visit; of a patient without a visit, that after the first padded one."""
        if not self.packed:
            return at_last(self.cell(visits)[0], length)
        packed = pack_padded_sequence(visits, length.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
        _, state = self.cell(packed)
        return (state[0] if isinstance(state, tuple) else state)[-1]

    def visits(self, sequence: Tensor, missing: Tensor, gap: Tensor) -> Tensor:
        """float[b, T, features]: what each visit tells the cell; the last two are the time since the visit before and since the first."""
        gap = gap.to(sequence.dtype)
        encoded = self.columns(*(carried(sequence, missing) if self.carry else (sequence, missing)), told=missing)
        since = torch.log1p(gap.cumsum(1) / DAYS)
        return torch.cat((encoded, torch.log1p(gap / DAYS)[..., None], since[..., None]), dim=-1)


def at_last(visits: Tensor, length: Tensor) -> Tensor:
    """float[b, F] of float[b, T, F] at the last visit, or at the first padded one where there is none."""
    last = (length - 1).clamp(min=0)[:, None, None].expand(-1, 1, visits.shape[2])
    return visits.gather(1, last)[:, 0]


def carried(sequence: Tensor, missing: Tensor) -> tuple[Tensor, Tensor]:
    """Each missing value replaced by the last known one of the visits before, and what is missing then: nothing known so far.

    sequence: float[b, T, F]; missing: [b, T, F], 1 where missing.
    """
    order = torch.arange(sequence.shape[1], device=sequence.device)[None, :, None]
    latest = torch.where(missing.bool(), -1, order).cummax(1).values
    return sequence.gather(1, latest.clamp(min=0)), (latest < 0).to(missing.dtype)
