"""Dropout at prediction (Gal & Ghahramani, 2016): which layers of a network drop something, and passes in which they alone are as in training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from hepdist.tasks import forward


def dropout_layers(model: nn.Module, batch: dict[str, Tensor]) -> list[nn.Module]:
    """Those that a forward pass of `batch` in evaluation mode goes through.

    Found by doing one: a network also owns layers that its answer does not use, such as those of auxiliary heads, or the encoder's own last
    one in a fusion.
    """
    met: list[nn.Module] = []
    hooks = [layer.register_forward_pre_hook(lambda layer, _: met.append(layer)) for layer in model.modules() if _drops(layer)]
    try:
        with torch.no_grad():
            forward(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return list(dict.fromkeys(met))


@contextmanager
def dropping(layers: Sequence[nn.Module], seed: int, device: torch.device) -> Iterator[None]:
    """One pass, or several at once: `layers` in training mode, what they drop drawn from `seed`. Without layers nothing changes.

    The seed is the pass's own and not the case's, so that a case has the same numbers alone and among others, after a restart, and as a file
    and as a row of a cohort. torch's global generators are given back as they were.
    """
    if not layers:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for layer in layers:
            layer.train()
        try:
            yield
        finally:
            for layer in layers:
                layer.eval()


def _drops(layer: nn.Module) -> bool:
    if isinstance(layer, nn.RNNBase):  # between its layers
        return layer.dropout > 0 and layer.num_layers > 1
    return isinstance(layer, _DropoutNd) and layer.p > 0
