"""The same bits in every run: torch's switches for `train.deterministic`, and the sentence for an operation that has no such form."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hepdist.errors import RecipeError

LACKING = re.compile(r"(\S+) does not have a deterministic implementation")
"""How torch begins its refusal."""


def switch_on() -> None:
    """Let this process use only operations that give the same bits each time; call it before anything is computed on a GPU.

    torch.use_deterministic_algorithms raises where there is none, which `named` turns into a sentence. cuBLAS is deterministic with a
    workspace of fixed size alone, cuDNN without its search for the fastest algorithm. TF32, which rounds to 10 bits, goes off as well.
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True)
    # Filling new tensors with NaN is for finding whoever reads them unwritten, and every tensor would be written twice.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


@contextmanager
def named() -> Iterator[None]:
    """Inside the block, torch's refusal of an operation is a RecipeError that names the operation, the key and the way out."""
    try:
        yield
    except RuntimeError as error:
        found = LACKING.search(str(error))
        if not found:
            raise
        raise RecipeError(
            f"recipe key 'train.deterministic' is true, but torch's {found[1]} gives other bits in each run on this device;"
            " set train.deterministic=false, or use another model or loss"
        ) from error
