"""The restoration part of the report: quality before and after, and triplets of degraded, restored and original images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hepdist.evaluation.images import data_uri, displayed, slice_of
from hepdist.evaluation.plots_restoration import before_and_after_plot
from hepdist.evaluation.result import by_class
from hepdist.evaluation.wording import number, span

if TYPE_CHECKING:
    from hepdist.evaluation.score import Scorer

EXAMPLES = "examples.npz"
"""Triplets of a few cases, uint8 [3, C, H, W] (degraded, restored, original) under '<sample_id>/<degradation>'."""
PANELS = ("degraded", "restored", "original")


@dataclass(frozen=True)
class Triplet:
    """One image and degradation as it is shown."""

    sample_id: str
    kind: str
    rank: int
    """1 has the lowest PSNR after restoration."""
    of: int
    psnr_input: str
    psnr: str
    ssim_input: str
    ssim: str
    panels: dict[str, str]


def restoration_sentence(block: dict[str, Any], noun: str) -> str:
    """The result in words."""
    parts = []
    for kind, restored in block["psnr_per_class"].items():
        before, after = number(block["psnr_input_per_class"][kind], " dB"), number(restored, " dB")
        parts.append(f"{kind}: {before} to {after} (gain {span(block['psnr_gain_per_class_ci'][kind], ' dB')})")
    return f"Mean PSNR of {block['n']:,} {noun}s, degraded and restored: {'; '.join(parts)}."


def restoration_part(block: dict[str, Any], predictions: pd.DataFrame, run_folder: Path) -> dict[str, Any]:
    """`figures` [(svg, title, caption)] and `examples` of one split, for the template."""
    kinds = tuple(block["psnr_per_class"])
    figures = []
    for name, measure in (("psnr", "PSNR (dB)"), ("ssim", "SSIM")):
        before, after = by_class(predictions, f"{name}_input", kinds), by_class(predictions, name, kinds)
        assert before is not None, "summarise has read it"
        assert after is not None, "summarise has read it"
        caption = f"Mean gain {number(block[f'{name}_gain'])} ({span(block[f'{name}_gain_ci'])})."
        figures.append((before_and_after_plot(before, after, kinds, measure), measure, caption))
    return {"figures": figures, "examples": _examples(predictions, kinds, run_folder)}


def chosen_rows(table: pd.DataFrame, kinds: tuple[str, ...]) -> Iterator[tuple[str, int, int]]:
    """(degradation, row of the table, rank) of the lowest, the middle and the highest PSNR after restoration."""
    for kind in kinds:
        order = np.argsort(table[f"psnr_{kind}"].to_numpy(), kind="stable")
        for rank in dict.fromkeys((0, len(order) // 2, len(order) - 1)):
            yield kind, int(order[rank]), rank + 1


def keep_triplets(run: Path, table: pd.DataFrame, kinds: tuple[str, ...], scorer: Scorer) -> None:
    """Write the pictures of `chosen_rows` of the test split to run/examples.npz; volumes by their middle slice."""
    kept: dict[str, Any] = {}
    for kind, row, _ in chosen_rows(table, kinds):
        images = scorer.predict("test", np.array([row]), ("image",))["image"][0, kinds.index(kind)]
        kept[f"{table['sample_id'][row]}/{kind}"] = np.stack([(slice_of(image) * 255).round().astype(np.uint8) for image in images])
    np.savez_compressed(run / EXAMPLES, **kept)


def _examples(predictions: pd.DataFrame, kinds: tuple[str, ...], run_folder: Path) -> list[Triplet]:
    """The cases of examples.npz that belong to these predictions, by degradation, worst first."""
    path = run_folder / EXAMPLES
    if not path.is_file():
        return []
    with np.load(path) as stored:
        pictures = {key: stored[key] for key in stored.files}
    ids = predictions["sample_id"].tolist()
    examples = []
    for kind, row, rank in chosen_rows(predictions, kinds):
        planes = pictures.get(f"{ids[row]}/{kind}")
        if planes is None:
            continue
        measured = {name: number(float(predictions[f"{name}_{kind}"].iloc[row])) for name in ("ssim_input", "ssim")}
        measured |= {name: number(float(predictions[f"{name}_{kind}"].iloc[row]), " dB") for name in ("psnr_input", "psnr")}
        panels = {title: data_uri(displayed(plane)) for title, plane in zip(PANELS, planes, strict=True)}
        examples.append(Triplet(ids[row], kind, rank, len(ids), panels=panels, **measured))
    return examples
