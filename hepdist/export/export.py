"""`hepdist export`: from a run to its files, each held against the live model on real rows, with metadata, a record and a model card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from hepdist.errors import ExportError, RunError
from hepdist.evaluation.provenance import versions
from hepdist.evaluation.result import RESULT, read_result
from hepdist.export import bundle, describe, onnx_file, program
from hepdist.export.card import model_card
from hepdist.export.card_pages import as_html, as_markdown
from hepdist.export.deployable import Deployable
from hepdist.export.samples import Samples, draw
from hepdist.export.verify import Agreement, Decision, compare
from hepdist.shards.manifest import SPLITS, Manifest, sha256_of
from hepdist.training.saved_model import load_model

if TYPE_CHECKING:
    from torch.export import ExportedProgram

Format = Literal["onnx", "torch", "bundle"]
FORMATS: tuple[Format, ...] = get_args(Format)
FILES = {"onnx": "model.onnx", "torch": "model.pt2", "bundle": "bundle"}
NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch": (), "bundle": ("fire",)}
"""Packages of the extra `export`, by format."""
RECORD = "export.json"
SAMPLES = 50
TOLERANCE = {"segmentation": 1e-3}
"""Of a trained hippocampus-unet ONNX Runtime's sums within its norms, in another order, moved one of 6 million voxels by 1.9e-4 and no decision."""
USUAL_TOLERANCE = 1e-4
Step = Callable[[str], None]


@dataclass(frozen=True)
class Wish:
    """What is asked of an export."""

    formats: tuple[Format, ...] = FORMATS
    split: str = "val"
    samples: int = SAMPLES
    tolerance: float | None = None
    """Largest difference of a probability from the live model's; of restored images as a share of black to white. None: as TOLERANCE has it."""
    free_sides: bool = False
    """Let segmentation and restoration take images of other sizes than the cohort's; tracing takes many times as long."""


def export(run: str | Path, out: str | Path, wish: Wish | None = None, step: Step = lambda _: None) -> dict[str, Any]:
    """Write OUT and return its export.json. Files beyond the tolerance are removed again; `failed` in the record names them.

    Raises ExportError before anything is written where a package, the cohort or the split is missing or OUT holds other files, and RunError
    for a damaged run.
    """
    wish, run, out = wish or Wish(), Path(run).resolve(), Path(out)
    _check(wish, out)
    model, recipe, signature = load_model(run)
    manifest = Manifest.load(recipe.data.cohort)
    _same_cohort(run, manifest)
    tolerance = TOLERANCE.get(recipe.task.kind, USUAL_TOLERANCE) if wish.tolerance is None else wish.tolerance
    wish = replace(wish, split=_split(manifest, wish.split))
    result = read_result(run) if (run / RESULT).is_file() else {}
    step(f"live model on {min(wish.samples, manifest.rows(wish.split))} rows of {wish.split}")
    samples = draw(model, recipe, signature, manifest, wish.split, wish.samples)

    step("trace")
    module = Deployable(load_model(run)[0], recipe, signature, manifest)
    grid = program.grid_of(module) if wish.free_sides else ()
    example = [torch.from_numpy(values[[0, -1]]) for values in samples.inputs.values()]
    traced = program.trace(module, example, grid)
    identity = {
        "run": run.name, "model_sha256": sha256_of(run / "model" / "model.safetensors"), "cohort": manifest.name, "cohort_sha256": manifest.sha256(),
    }  # fmt: skip
    facts = describe.describe(module.names, recipe, signature, manifest, result, grid, identity)
    decision = describe.decision_of(recipe, signature, manifest, result)

    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    card = model_card(run, recipe, signature, manifest, result, facts)
    record: dict[str, Any] = {
        **identity,
        "split": wish.split,
        "tolerance": tolerance,
        "files": {},
        "failed": [],
        "versions": _versions(),
    }
    for form in wish.formats:
        step(f"{FILES[form]}: write and check")
        agreement = _make(form, part, traced, facts, as_markdown(card), card.lead, samples, decision, tolerance)
        record["files"][form] = {**asdict(agreement), "within": agreement.within, **_identity(part, form)}
        if not agreement.within:
            _remove(part / FILES[form])
            record["failed"].append(form)
    whole = card.with_files(record)
    (part / "model_card.md").write_text(as_markdown(whole), encoding="utf-8")
    (part / "model_card.html").write_text(as_html(whole), encoding="utf-8")
    if (part / FILES["bundle"]).is_dir():
        shutil.copy(part / "model_card.md", part / FILES["bundle"] / "docs" / "README.md")
    for name, values in (("metadata.json", facts), (RECORD, record)):
        (part / name).write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)
    return record


def _make(
    form: Format,
    part: Path,
    traced: ExportedProgram,
    facts: dict[str, Any],
    card: str,
    lead: str,
    samples: Samples,
    decision: Decision,
    tolerance: float,
) -> Agreement:
    path = part / FILES[form]
    if form == "onnx":
        onnx_file.write(traced, path, list(samples.inputs), facts["outputs"][0]["name"], describe.properties(facts))
        return compare(onnx_file.runner(path), samples, decision, tolerance)
    if form == "torch":
        program.save(traced, path, json.dumps(facts, ensure_ascii=False))
        return compare(program.runner(path), samples, decision, tolerance)
    bundle.write(traced, path, facts, card, lead)
    return compare(bundle.answers_in_order(bundle.run_on(path, samples)), samples, decision, tolerance)


def _check(wish: Wish, out: Path) -> None:
    for form in wish.formats:
        if form not in FORMATS:
            raise ExportError(f"format '{form}' is unknown; choose from {', '.join(FORMATS)}")
        for package in NEEDS[form]:
            if find_spec(package) is None:
                raise ExportError(f"format '{form}' needs the package {package}, which is not installed: pip install 'hepdist[export]'")
    if wish.samples < 2:
        raise ExportError(f"--samples is {wish.samples}; a check needs 2 rows or more")
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / RECORD).is_file())):
        raise ExportError(f"'{out}' holds other files; give a new folder")


def _same_cohort(run: Path, manifest: Manifest) -> None:
    recorded = run / "cohort.sha256"
    if recorded.is_file() and recorded.read_text().strip() != manifest.sha256():
        raise ExportError(
            f"run '{run.name}' was trained on another state of cohort '{manifest.name}' (its sha256 differs);"
            " export checks on the run's own cohort, so put that one back"
        )


def _split(manifest: Manifest, wanted: str) -> str:
    """The split whose rows are run: the wanted one, or where the cohort has none in val those of test or train."""
    if wanted not in SPLITS:
        raise ExportError(f"--split is '{wanted}': choose one of {', '.join(SPLITS)}")
    for split in (wanted, *(("test", "train") if wanted == "val" else ())):
        if manifest.rows(split) > 1:
            return split
    raise ExportError(f"cohort '{manifest.name}' has fewer than 2 rows in split '{wanted}'; choose another --split")


def _identity(part: Path, form: Format) -> dict[str, Any]:
    path = part / FILES[form]
    weights = path / "models" / "model.pt2" if form == "bundle" else path
    return {"file": str(weights.relative_to(part)), "bytes": weights.stat().st_size, "sha256": sha256_of(weights)}


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _versions() -> dict[str, str]:
    packages = [package for needed in NEEDS.values() for package in needed if find_spec(package)]
    return versions() | {package: version(package) for package in packages}


def refusal(record: dict[str, Any]) -> RunError:
    """What to say of files that were removed."""
    worst = {form: record["files"][form]["largest_difference"] for form in record["failed"]}
    told = ", ".join(f"{FILES[form]} differs by {value:.3g}" for form, value in worst.items())
    return RunError(f"{told} from the live model, more than the tolerance of {record['tolerance']:g}; removed")
