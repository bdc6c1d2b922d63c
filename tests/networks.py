"""What tests of networks share: building one from its spec, fitting it, and copying the weights of a reference."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hepdist.models import Inputs, build
from hepdist.models.specs import ModelSpec
from hepdist.shards.manifest import EMRColumn

EMR = (
    EMRColumn("age", "number", "a"),
    EMRColumn("sex", "category", categories=("female", "male")),
    EMRColumn("alt", "number", "U/l"),
    EMRColumn("site", "category", categories=("a", "b", "c")),
)


def network(spec: ModelSpec, shape: tuple[int, ...] = (1, 28, 28), classes: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return build(spec, Inputs(shape, EMR), classes)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def fit(model: nn.Module, loss_of: Callable[[], Tensor], steps: int = 60) -> float:
    """The loss after some steps on one batch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        optimizer.step()
    return loss.item()


def copy_layer_by_layer(source: nn.Module, target: nn.Module, image: Tensor) -> None:
    """Copy the weights of layers in the order in which they are called, which does not depend on how modules are named."""
    called: dict[nn.Module, list[nn.Module]] = {source: [], target: []}
    hooks = [
        layer.register_forward_pre_hook(lambda m, _, model=model: called[model].append(m))
        for model in (source, target)
        for layer in model.modules()
        if next(layer.children(), None) is None and next(layer.parameters(), None) is not None
    ]
    with torch.no_grad():
        source(image), target(image)
    for hook in hooks:
        hook.remove()
    by_shape = [sorted(called[m], key=lambda layer: [tuple(p.shape) for p in layer.parameters()]) for m in (source, target)]
    assert [[p.shape for p in layer.parameters()] for layer in by_shape[0]] == [
        [p.shape for p in layer.parameters()] for layer in by_shape[1]
    ]
    with torch.no_grad():
        for theirs, ours in zip(*by_shape, strict=True):
            for a, b in zip(theirs.parameters(), ours.parameters(), strict=True):
                b.copy_(a)
