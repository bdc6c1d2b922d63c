"""Transfer: a fresh run that starts from the best weights of another one, as far as they fit."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from hepdist.errors import RunError
from hepdist.training.checkpoint import verify

TRANSFER = "transfer.json"


def start_from(model: nn.Module, run: str | Path) -> dict[str, list[str]]:
    """Copy into `model` each tensor of the run's best model that has the same name and shape there.

    Returns the names of the model's tensors: `taken`, and `anew` for those that keep their random start, as a head with other classes
    does. Raises RunError where the model is damaged or nothing but single numbers fits.
    """
    folder = Path(run) / "model"
    verify(folder)
    own, source = model.state_dict(), load_file(folder / "model.safetensors")
    fitting = {name: tensor for name, tensor in source.items() if name in own and own[name].shape == tensor.shape}
    if not any(tensor.ndim for tensor in fitting.values()):  # a counter of batches fits everywhere
        raise RunError(
            f"recipe key 'train.init_from': none of the {len(source)} tensors of run '{Path(run).name}' has the name and shape of one of this"
            " model; use the same model.family and the same sizes, or leave init_from out"
        )
    model.load_state_dict(fitting, strict=False)
    return {"taken": sorted(fitting), "anew": sorted(set(own) - set(fitting))}


def record(folder: Path, run: str | Path, names: dict[str, list[str]]) -> None:
    """Say how much was taken, and keep the names in the new run's folder."""
    print(f"hepdist: {len(names['taken'])} of {sum(map(len, names.values()))} tensors start from run '{Path(run).name}'", flush=True)
    (folder / TRANSFER).write_text(json.dumps({"run": str(run), **names}, indent=1), encoding="utf-8")
