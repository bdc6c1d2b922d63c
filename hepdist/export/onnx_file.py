"""A program as an ONNX file, with what ONNX has no operators for written out, and that file run by onnxruntime."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from hepdist.errors import RunError

LIMIT = 2_000_000_000
"""Bytes of a protobuf message, which an ONNX file is."""


def write(program: ExportedProgram, path: Path, names: Sequence[str], output: str, metadata: Mapping[str, str]) -> None:
    """names: of the inputs, in order; metadata: goes into the file's metadata_props. Raises RunError where the file would be too large."""
    size = sum(values.numel() * values.element_size() for values in program.state_dict.values())
    if size > LIMIT:
        raise RunError(f"the weights take {size / 2**30:.1f} GiB, and an ONNX file holds at most 2; use --format torch or bundle")
    with torch.no_grad(), _quiet():
        lacking = {node.target for node in program.graph.nodes} & set(WRITTEN_OUT)
        plain = program.run_decompositions({operator: WRITTEN_OUT[operator] for operator in lacking}) if lacking else program
        found = torch.onnx.export(plain, dynamo=True, input_names=list(names), output_names=[output], external_data=False, verbose=False)
    assert found is not None
    found.model.metadata_props.update(metadata)
    found.save(path, external_data=False)


def runner(path: Path) -> Any:
    """The file in an onnxruntime session on the CPU, called with arrays in the order of its inputs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(arrays: Sequence[np.ndarray]) -> np.ndarray:
        return np.asarray(session.run(None, dict(zip(names, arrays, strict=True)))[0])

    return run


def _erfinv(x: Tensor) -> Tensor:
    """Winitzki's approximation (2008), then three steps of Halley's method, which cubes the error each time."""
    a = 0.147
    low = torch.log1p(-x * x)
    first = 2 / (math.pi * a) + low / 2
    y = x.sign() * (((first * first - low / a).sqrt() - first).clamp(min=0)).sqrt()
    for _ in range(3):
        miss = (torch.erf(y) - x) / (2 / math.sqrt(math.pi) * torch.exp(-y * y))
        y = y - miss / (1 + y * miss)
    return y


def _cummax(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Over an axis of fixed length: value by value, as torch gives it, of equal ones the last index."""
    best, where = [], []
    for index, values in enumerate(x.unbind(dim)):
        if not index:
            best, where = [values], [torch.zeros_like(values, dtype=torch.int64)]
            continue
        better = values >= best[-1]
        best.append(torch.where(better, values, best[-1]))
        where.append(torch.where(better, index, where[-1]))
    return torch.stack(best, dim), torch.stack(where, dim)


def _searchsorted(sorted_sequence: Tensor, values: Tensor, *, right: bool = False, **_: Any) -> Tensor:
    """[N, K] and [N, n] -> int64[N, n], by counting: an axis of K, which is at most a few dozen here."""
    knots, each = sorted_sequence[:, None, :], values[:, :, None]
    return ((knots <= each) if right else (knots < each)).to(torch.int64).sum(-1)


WRITTEN_OUT: dict[Any, Any] = {
    torch.ops.aten.erfinv.default: _erfinv,
    torch.ops.aten.cummax.default: _cummax,
    torch.ops.aten.searchsorted.Tensor: _searchsorted,
}
"""What hepdist's networks use and ONNX lacks, by torch operator."""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's progress lines and its word that torchvision is not there."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
