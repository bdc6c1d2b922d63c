"""On a CUDA device: steps/s of our engine against a plain PyTorch loop, with data at hand and while streaming.

3D U-Net at nnU-Net's size (128^3 patches, batch 2, 32 to 320 channels, six levels, deep supervision) and ResNet-50 at 224 pixels
(batch 64), bf16, channels last, compiled and not. Both loops do the same: forward, loss, backward, clip, AdamW. They take turns.
The share of the peak divides the operations that FlopCounterMode counts in a step by those of a large bf16 matrix product.

    python benchmarks/gpu.py [--steps 30] [--rounds 3]
    python benchmarks/gpu.py --smoke      the same code on a CPU with tiny sizes: that it works, not how fast
"""

from __future__ import annotations

import argparse
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from common import machine, markdown, median, random_cohort
from torch.utils.flop_counter import FlopCounterMode

from hepdist.augment import normalise
from hepdist.cluster import connect
from hepdist.recipe import Recipe
from hepdist.shards.manifest import Manifest
from hepdist.shards.plan import plan_of
from hepdist.shards.stream import Batch, Stream
from hepdist.spec import parse
from hepdist.tasks import build as build_task
from hepdist.training.engine import build_engine
from hepdist.training.saved_model import Signature, build_model

CASES: dict[str, dict[str, Any]] = {
    "3D U-Net 128^3": {
        "image": (1, 128, 128, 128), "dtype": "int16", "rows": 48, "batch": 2, "classes": 3, "task": {"kind": "segmentation"},
        "model": {"family": "unet", "width": 32, "max_width": 320, "depth": 6, "deep_supervision": True},
    },
    "ResNet-50 224": {
        "image": (3, 224, 224), "dtype": "uint8", "rows": 4096, "batch": 64, "classes": 2, "task": {"kind": "classification"},
        "model": {"family": "resnet", "depth": 50, "width": 64, "preactivation": False, "stem": "large"},
    },
}  # fmt: skip
SMOKE: dict[str, dict[str, Any]] = {
    "3D U-Net 128^3": {"image": (1, 16, 16, 16), "rows": 12, "model": {"family": "unet", "width": 8, "depth": 3, "deep_supervision": True}},
    "ResNet-50 224": {"image": (3, 32, 32), "rows": 64, "batch": 8, "model": {"family": "resnet", "depth": 50, "width": 8}},
}


@dataclass
class Setting:
    """One case, ready to run."""

    recipe: Recipe
    manifest: Manifest
    task: Any
    device: torch.device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30, help="timed steps a run, after 10 that are not")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if not torch.cuda.is_available() and not arguments.smoke:
        print("gpu.py: skipped, torch sees no CUDA device (--smoke runs its code on a CPU)")
        return
    if arguments.smoke:
        arguments.steps, arguments.rounds = 2, 1
    device = torch.device("cpu" if arguments.smoke else "cuda")
    _one_process_group(device)
    peak = matmul_flops(device, 256 if arguments.smoke else 8192)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU, smoke run"
    print(f"{machine()}\nDevice: {name}; bf16 matrix product {peak / 1e12:.1f} TFLOP/s", flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder, connect():
        for case, facts in CASES.items():
            for compiled in (False,) if arguments.smoke else (False, True):
                setting = prepare(Path(folder), case, facts | (SMOKE[case] if arguments.smoke else {}), device)
                rows.append([case, "yes" if compiled else "no", *compare(setting, compiled, arguments.steps, arguments.rounds, peak)])
                print(f"  {' | '.join(rows[-1])}", flush=True)
    header = [
        "model", "compiled", "engine, steps/s", "plain, steps/s", "engine / plain", "streaming, steps/s", "waits for data", "peak GiB",
        "share of bf16 peak",
    ]  # fmt: skip
    print(markdown(header, rows))
    dist.destroy_process_group()


def prepare(folder: Path, case: str, facts: dict[str, Any], device: torch.device) -> Setting:
    cohort = folder / case.split()[0]
    mask = facts["task"]["kind"] == "segmentation"
    manifest = random_cohort(
        cohort, {"train": facts["rows"]}, facts["image"], dtype=facts["dtype"], mask=mask, classes=facts["classes"]
    )  # fmt: skip
    values = {
        "name": "gpu", "data": {"cohort": str(cohort)}, "task": facts["task"], "model": facts["model"],
        "train": {"workers": 1, "epochs": 1000, "precision": "bf16", "global_batch": facts["batch"], "zero_stage": 1},
    }  # fmt: skip
    recipe = parse(Recipe, values)
    return Setting(recipe, manifest, build_task(recipe, manifest), device)


def compare(setting: Setting, compiled: bool, steps: int, rounds: int, peak: float) -> list[str]:
    """A row of the table after its first two columns."""
    plain, engine, streaming, waits = [], [], [], []
    operations = flops(setting)
    for _ in range(rounds):
        plain.append(steps_per_s(plain_step(setting, compiled), one_batch(setting), steps, setting.device))
        ours = engine_step(setting, compiled)
        engine.append(steps_per_s(ours, one_batch(setting), steps, setting.device))
        stream = Stream(plan_of(setting.recipe, setting.manifest), setting.manifest, 0, 0, 1, setting.device)
        waited: list[float] = []
        streaming.append(steps_per_s(ours, streamed(setting, stream, waited), steps, setting.device, waited))
        waits.append((waited[1] - waited[0]) * streaming[-1] / steps)
        stream.close()
    memory = torch.cuda.max_memory_allocated() / 2**30 if setting.device.type == "cuda" else 0.0
    return [
        f"{median(engine):.2f}", f"{median(plain):.2f}", f"{median(engine) / median(plain):.2f}", f"{median(streaming):.2f}",
        f"{median(waits):.1%}", f"{memory:.1f}", f"{operations * median(engine) / peak:.0%}",
    ]  # fmt: skip


def steps_per_s(
    step: Callable[[Batch], None], batches: Iterator[Batch], steps: int, device: torch.device, waited: list[float] | None = None
) -> float:
    """Steps a second over `steps` steps after 10 that are not timed (compilation, algorithms, allocator).

    waited: where given, its last entry is kept at both ends of the timed steps, so that [first, last] remain.
    """
    for _ in range(10):
        step(next(batches))
    _finish(device)
    if waited is not None:
        del waited[:-1]
    began = time.perf_counter()
    for _ in range(steps):
        step(next(batches))
    _finish(device)
    if waited is not None:
        del waited[1:-1]
    return steps / (time.perf_counter() - began)


def one_batch(setting: Setting) -> Iterator[Batch]:
    """The same random batch, on the device, for ever."""
    size, fields = setting.recipe.train.global_batch, setting.manifest.fields
    batch: Batch = {"image": torch.randn(size, *fields["image"].shape, device=setting.device)}
    if "mask" in fields:
        batch["mask"] = torch.randint(0, 3, (size, *fields["mask"].shape), dtype=torch.uint8, device=setting.device)
        batch["spacing"] = torch.ones(size, *fields["spacing"].shape, device=setting.device)
    else:
        batch["label"] = torch.randint(0, 2, (size,), device=setting.device)
    while True:
        yield batch


def streamed(setting: Setting, stream: Stream, waited: list[float]) -> Iterator[Batch]:
    """Normalised batches of our stream; appends the stream's waiting time after each."""
    while True:
        for batch in stream.epoch():
            if len(batch["row"]) == setting.recipe.train.global_batch:  # one shape, so that nothing is compiled twice
                waited.append(stream.waited_s)
                yield normalise(batch, "cohort", setting.manifest.normalisation)


def model_of(setting: Setting, compiled: bool) -> torch.nn.Module:
    torch.manual_seed(0)
    model = build_model(setting.recipe, Signature.of(setting.manifest)).to(setting.device)
    if compiled:
        model.compile()
    return model


def plain_step(setting: Setting, compiled: bool) -> Callable[[Batch], None]:
    model = model_of(setting, compiled)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=setting.device.type == "cuda")

    def step(batch: Batch) -> None:
        with torch.autocast(setting.device.type, torch.bfloat16):
            loss = setting.task.loss(model, batch).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def engine_step(setting: Setting, compiled: bool) -> Callable[[Batch], None]:
    """What hepdist/training/loop.py does with a batch, on one process."""
    engine = build_engine(model_of(setting, compiled), setting.recipe, setting.recipe.train.global_batch, setting.device)

    def step(batch: Batch) -> None:
        engine.set_gradient_accumulation_boundary(True)
        engine.backward(setting.task.loss(engine, batch).mean(), scale_wrt_gas=False)
        engine.step()

    return step


def flops(setting: Setting) -> float:
    """Floating-point operations of a forward and backward pass over a batch."""
    step = plain_step(setting, compiled=False)
    batch = next(one_batch(setting))
    with FlopCounterMode(display=False) as counter:
        step(batch)
    return float(counter.get_total_flops())


def matmul_flops(device: torch.device, side: int) -> float:
    """Floating-point operations a second of a square bf16 matrix product."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    _finish(device)
    began, repeats = time.perf_counter(), 20
    for _ in range(repeats):
        a @ b
    _finish(device)
    return 2 * side**3 * repeats / (time.perf_counter() - began)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _one_process_group(device: torch.device) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=0, world_size=1)


if __name__ == "__main__":
    main()
