"""`runs/<name>/model/`: the best weights with all that is needed to run them, loadable without Ray, DeepSpeed or the cohort."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

from hepdist.errors import RunError
from hepdist.models import Inputs, build
from hepdist.recipe import Recipe
from hepdist.shards.format import TensorField
from hepdist.shards.manifest import EMRColumn, Manifest
from hepdist.spec import parse
from hepdist.training.checkpoint import verify, write_sums


@dataclass(frozen=True)
class Signature:
    """What a model expects and answers: taken from the cohort it was trained on."""

    tensors: dict[str, dict[str, Any]]
    label_names: tuple[str, ...]
    multilabel: bool
    emr: tuple[EMRColumn, ...]
    sequence: tuple[EMRColumn, ...]
    normalisation: dict[str, dict[str, Any]]
    origin: dict[str, Any] = field(default_factory=dict)
    """How the cohort was made, as its manifest says it: `name`, `source`, `sha256`, `fingerprint`, `label_rule`, and of `frozen` the `options`
    and the `layout`; what is read for prediction must be brought to the same form. Empty in models saved before there was this field."""

    @classmethod
    def of(cls, manifest: Manifest) -> Signature:
        origin = {
            "name": manifest.name, "source": manifest.source, "sha256": manifest.sha256(), "fingerprint": manifest.fingerprint,
            "label_rule": manifest.label_rule, "options": manifest.frozen.get("options", {}),
            "layout": manifest.frozen.get("form", {}).get("layout"),
        }  # fmt: skip
        return cls(
            manifest.tensors, manifest.label_names, manifest.multilabel, manifest.emr, manifest.sequence, manifest.normalisation, origin
        )

    def manifest(self) -> Manifest:
        """As much of the cohort's manifest as a task needs to predict: no shards, no counts."""
        return Manifest(
            name=self.origin.get("name", ""), source=self.origin.get("source", ""), tensors=self.tensors, shards=(),
            label_names=self.label_names, multilabel=self.multilabel, emr=self.emr, sequence=self.sequence,
            normalisation=self.normalisation, fingerprint=self.origin.get("fingerprint", {}), label_rule=self.origin.get("label_rule", {}),
        )  # fmt: skip

    @property
    def fields(self) -> dict[str, TensorField]:
        return {name: TensorField.from_json(name, meaning) for name, meaning in self.tensors.items()}

    @property
    def inputs(self) -> Inputs:
        fields = self.fields
        image = fields["image"].shape if "image" in fields else ()
        visits = fields["sequence"].shape[0] if "sequence" in fields else 0
        emr, sequence = (
            tuple(tuple(values) for values in self.normalisation.get(name, {}).get("quantiles", ())) for name in ("emr", "sequence")
        )  # empty where an older cohort lacks them
        return Inputs(image, self.emr, self.sequence, visits, emr, sequence)


def build_model(recipe: Recipe, signature: Signature) -> nn.Module:
    """The recipe's network for data of this signature, initialised from train.seed."""
    torch.manual_seed(recipe.train.seed)
    return build(recipe.model, signature.inputs, outputs(recipe, signature))


def outputs(recipe: Recipe, signature: Signature) -> int:
    """Channels of the network's output: those of the image where it is restored, intervals of survival, else classes."""
    if recipe.task.kind == "restoration":
        return signature.fields["image"].shape[0]
    if recipe.task.kind == "survival":
        return recipe.task.intervals
    return len(signature.fields["mask"].classes) if recipe.task.kind == "segmentation" else len(signature.label_names)


def save_model(run: Path, weights: dict[str, torch.Tensor], recipe: Recipe, signature: Signature, samples: int) -> None:
    """Replace `run/model` as a whole."""
    part, final, old = run / ".model.part", run / "model", run / ".model.old"
    for folder in (part, old):
        shutil.rmtree(folder, ignore_errors=True)
    part.mkdir(parents=True)
    save_file(weights, part / "model.safetensors")
    (part / "recipe.yaml").write_text(recipe.dump(), encoding="utf-8")
    (part / "normalisation.json").write_text(json.dumps(signature.normalisation, indent=1))
    (part / "signature.json").write_text(
        json.dumps({**asdict(signature), "samples": samples}, indent=1, ensure_ascii=False), encoding="utf-8"
    )
    write_sums(part)
    if final.exists():
        final.rename(old)
    part.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def load_model(run: str | Path) -> tuple[nn.Module, Recipe, Signature]:
    """The best model of a run in evaluation mode, its recipe and its signature. Raises RunError where there is none."""
    folder = Path(run) / "model"
    if not folder.is_dir():
        raise RunError(
            f"run '{run}' has no trained model yet (no model/ folder); train it with: hepdist train RECIPE name={Path(run).name}"
        )
    verify(folder)
    recipe: Recipe = parse(Recipe, yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8")))
    values = json.loads((folder / "signature.json").read_text(encoding="utf-8"))
    values.pop("samples")
    emr, sequence = (
        tuple(EMRColumn(**{**column, "categories": tuple(column["categories"])}) for column in values.pop(key))
        for key in ("emr", "sequence")
    )
    signature = Signature(**{**values, "label_names": tuple(values["label_names"])}, emr=emr, sequence=sequence)
    model = build_model(recipe, signature)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval(), recipe, signature
