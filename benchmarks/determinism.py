"""What train.deterministic costs: a step of a ResNet and of a 3D U-Net with torch's switches on and off, by turns, on this machine's device.

One process, the model of the recipe, forward, loss, backward, AdamW. On a CPU a step's time is the CPU time of this process on one thread,
which other work on the machine disturbs little; on a GPU it is the time until the GPU is done.

    python benchmarks/determinism.py [--steps 20]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from common import machine, markdown, median, spread
from torch import nn

from hepdist.models import Inputs, build
from hepdist.recipe import load_recipe
from hepdist.training import determinism

CASES = {"pneumonia-resnet": ((1, 28, 28), 32), "hippocampus-unet": ((1, 32, 48, 32), 2)}
"""By recipe: the image and the samples of a step, those of one of two workers."""


def switch_off() -> None:
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False
    torch.backends.cudnn.allow_tf32 = True


def step_of(name: str, device: torch.device) -> Callable[[], float]:
    """A function that takes a step of the recipe's network and returns its milliseconds."""
    shape, rows = CASES[name]
    recipe = load_recipe(name)
    torch.manual_seed(0)
    model = build(recipe.model, Inputs(shape), 2).to(device)
    adamw = torch.optim.AdamW(model.parameters(), fused=True)
    image = torch.randn(rows, *shape, device=device)
    truth = torch.randint(0, 2, (rows, *shape[1:]) if recipe.task.kind == "segmentation" else (rows,), device=device)

    def step() -> float:
        began = clock(device)
        nn.functional.cross_entropy(model(image), truth).backward()
        adamw.step()
        adamw.zero_grad()
        return 1000 * (clock(device) - began)

    return step


def clock(device: torch.device) -> float:
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="of each kind")
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = []
    for name in CASES:
        step = step_of(name, device)
        step(), step()
        off, on = [], []
        for _ in range(steps):
            switch_off()
            off.append(step())
            determinism.switch_on()
            on.append(step())
        rows.append((name, spread(off, 1), spread(on, 1), f"{median(on) / median(off):.3f}"))
    print(machine())
    print(markdown(("recipe", "ms a step", "ms deterministic", "ratio"), rows))


if __name__ == "__main__":
    main()
