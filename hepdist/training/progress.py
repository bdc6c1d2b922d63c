"""What a person sees while workers train: the run's own metrics.jsonl, followed from the driver."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hepdist.console import err, plain, progress
from hepdist.recipe import Recipe
from hepdist.training.metrics_file import read_metrics

POLL_S = 0.5


@contextmanager
def follow(folder: Path, recipe: Recipe, samples: int) -> Iterator[None]:
    """Show a bar over `samples` and a line for every validation, until the block ends."""
    stop = threading.Event()
    thread = threading.Thread(target=_watch, args=(folder, recipe, samples, stop), daemon=True)
    fewest, most = recipe.train.fewest, recipe.train.most
    workers = f"{most}" if fewest == most else f"{fewest} to {most}"
    plain(
        f"training {recipe.name}: {recipe.model.family}, {recipe.train.epochs} epochs, {workers} workers, ZeRO {recipe.train.zero_stage}, {recipe.train.precision}"
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _watch(folder: Path, recipe: Recipe, samples: int, stop: threading.Event) -> None:
    shown = len(read_metrics(folder))  # lines of an earlier attempt have been seen
    with progress("train") as report:
        while True:
            last_look = stop.wait(POLL_S)
            lines = read_metrics(folder)
            shown = min(shown, len(lines))
            for line in lines[shown:]:
                report(line["samples"], samples)
                if warning := line.get("warning"):
                    told = f"the checkpoint at sample {line['checkpoint']} was not written: {warning}" if "checkpoint" in line else warning
                    (err.print if err.is_terminal else plain)(f"warning: {told}")
                scores = {k: v for k, v in line.items() if k.startswith("val_")}
                if scores:
                    text = "  ".join(f"{k} {v:.4f}" for k, v in scores.items() if isinstance(v, int | float))
                    (err.print if err.is_terminal else plain)(
                        f"epoch {line['epoch']:g} of {recipe.train.epochs}  {text}  ({line['wall_s']:.0f} s)"
                    )
            shown = len(lines)
            if last_look:
                return
