"""The graph of a run: torch.export's program of the deployable module, whose batch is free, and whose image's sides may be."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

if TYPE_CHECKING:
    from hepdist.export.deployable import Deployable

Side = int | str
"""Of an image: fixed, or what it may be for whole n from 2 on, such as '8n' or '8n + 3'."""


def trace(module: Deployable, example: Sequence[Tensor], grid: Sequence[int] = ()) -> ExportedProgram:
    """example: two stored rows of each input. grid: the image's sides are free in steps of it (`grid_of`); empty: they are fixed.

    A graph takes the branches that the example took, so a free side keeps the remainder by which it misses a multiple of the grid.
    """
    shapes: list[dict[int, Any]] = []
    for name, values in zip(module.names, example, strict=True):
        free: dict[int, Any] = {0: Dim("batch")}
        if name == "image":
            for axis, (side, step) in enumerate(zip(values.shape[2:], grid, strict=False)):
                if side // step > 1:
                    times = Dim(f"n{axis}", min=2)
                    multiple = step * times if step > 1 else times
                    free[axis + 2] = multiple + side % step if side % step else multiple
        shapes.append(free)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about its internals
        return torch.export.export(module, tuple(example), dynamic_shapes=(tuple(shapes),), strict=False)


def grid_of(module: Deployable) -> tuple[int, ...]:
    """The steps in which the network takes other sides than its cohort's; empty where they are fixed.

    Classifiers have fixed sides, since what they find depends on the scale; windows lie where the traced image has them.
    """
    fixed = not hasattr(module.model, "grid") or module.recipe.evaluation.window
    grid: Any = () if fixed else module.model.grid
    return tuple(grid)


def sides(shape: Sequence[int], grid: Sequence[int]) -> list[Side]:
    """Each side of the image that a program takes, as a number or as a rule."""
    if not grid:
        return list(shape)
    found: list[Side] = []
    for side, step in zip(shape, grid, strict=True):
        rest = f" + {side % step}" if side % step else ""
        found.append(f"{step if step > 1 else ''}n{rest}" if side // step > 1 else side)
    return found


def save(program: ExportedProgram, path: Path, metadata: str) -> None:
    """model.pt2, with the metadata inside as `metadata.json`."""
    torch.export.save(program, path, extra_files={"metadata.json": metadata})


def runner(path: Path) -> Any:
    """The saved program, called with arrays in the order of its inputs."""
    module = torch.export.load(path).module()

    def run(arrays: Sequence[np.ndarray]) -> np.ndarray:
        with torch.no_grad():
            found: Tensor = module(*(torch.from_numpy(values) for values in arrays))
        return found.numpy()

    return run
