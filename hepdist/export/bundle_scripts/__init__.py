"""The code that travels inside an exported MONAI bundle, as its `scripts`: the network from its program, and inference over files.

It needs torch and numpy alone, so that a bundle runs where hepdist is not installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Exported(torch.nn.Module):
    """A torch.export program as a module: stored inputs in the order of metadata.json -> float32[b, ...]."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.program = torch.export.load(path).module()

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.program(*inputs)
        return found

    def train(self, mode: bool = True) -> Exported:
        """Nothing to switch: a program was traced for inference."""
        return self


def infer(network: torch.nn.Module, files: Sequence[str], inputs: Sequence[dict[str, Any]], output: str, folder: str, batch: int) -> None:
    """Write `<name>.npy` into the folder for each file `<name>.npz`, which holds one array for each input under its name, without a batch axis.

    A network of one input also takes `<name>.npy`. Raises ValueError where an array is missing or not of the dtype of metadata.json.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    for first in range(0, len(files), batch):
        some = list(files[first : first + batch])
        rows = [_read(Path(file), inputs) for file in some]
        stacked = [torch.from_numpy(np.stack([row[entry["name"]] for row in rows])) for entry in inputs]
        with torch.no_grad():
            found = network(*stacked).numpy()
        for file, values in zip(some, found, strict=True):
            np.save(Path(folder) / f"{Path(file).stem}.npy", values)
    print(f"{output} of {len(files)} files in {folder}")


def _read(file: Path, inputs: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    loaded = np.load(file)
    row = {inputs[0]["name"]: loaded} if file.suffix == ".npy" else {name: loaded[name] for name in loaded.files}
    for entry in inputs:
        name, dtype = entry["name"], entry["dtype"]
        if name not in row:
            raise ValueError(f"{file.name} holds no array '{name}'")
        if row[name].dtype != np.dtype(dtype):
            raise ValueError(f"{file.name}: '{name}' is {row[name].dtype}, the network reads {dtype}")
    return row
