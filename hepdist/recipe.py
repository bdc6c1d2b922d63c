"""The recipe: one typed, checked file that says everything about an experiment; `key=value` overrides any field."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from annotated_types import Gt
from pydantic import field_serializer, field_validator, model_validator

from hepdist.errors import RecipeError
from hepdist.models.specs import FAMILIES, AdversarySpec, families_for, parse_model
from hepdist.search.spec import SearchSpec
from hepdist.sections import AugmentSpec, DataSpec, DegradeSpec, EvaluationSpec, OptimSpec, TaskSpec, TrainSpec
from hepdist.spec import Spec, known_keys, parse, unknown_key

SHIPPED = Path(__file__).parent / "recipes"


class Recipe(Spec):
    name: Annotated[str, Gt("")]
    """Folder under `runs`; a second call with the same name resumes."""
    runs: str = "runs"
    """Folder that holds all runs; on a cluster a path that every node sees."""
    data: DataSpec
    task: TaskSpec
    model: Any
    augment: AugmentSpec = AugmentSpec()
    degrade: DegradeSpec = DegradeSpec()
    adversary: AdversarySpec | None = None
    """A critic to train the model against, in restoration and segmentation; null: none."""
    optim: OptimSpec = OptimSpec()
    train: TrainSpec = TrainSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    search: SearchSpec = SearchSpec()
    """For `hepdist tune`; a single training takes no notice of it."""

    @field_validator("model", mode="before")
    @classmethod
    def _model(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            raise ValueError("give a mapping with a family, such as {family: resnet}")
        return parse_model(values)

    @field_serializer("model")
    def _plain_model(self, model: Spec) -> dict[str, Any]:
        return model.model_dump(mode="json")

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        family, kind = self.model.family, self.task.kind
        if "/" in self.name or self.name.startswith("."):
            raise RecipeError(f"recipe key 'name' is {self.name!r}: it names a folder, so use letters, digits, - and _")
        if kind not in self.model.tasks:
            raise RecipeError(f"recipe key 'model.family' is '{family}', which can't do {kind}; use one of {', '.join(families_for(kind))}")
        reads_emr = bool({"emr", "sequence"} & set(self.model.reads))
        if reads_emr and not self.data.emr:
            raise RecipeError(f"recipe key 'model.family' is '{family}', which reads EMR columns; set data.emr=true")
        if self.data.emr and not reads_emr:
            raise RecipeError(f"recipe key 'data.emr' is true, but '{family}' reads images only; use model.family=fusion")
        if self.train.fewest > self.train.most:
            raise RecipeError(
                f"recipe key 'train.workers' is [{self.train.fewest}, {self.train.most}]; give the fewest first, then the most"
            )
        if self.train.most > self.train.global_batch:
            raise RecipeError(
                f"recipe key 'train.workers' is {self.train.most}, more than the {self.train.global_batch} samples of a"
                f" global batch; use at most train.workers={self.train.global_batch} or a larger train.global_batch"
            )
        if self.task.boundary_weight and kind != "segmentation":
            raise RecipeError(f"recipe key 'task.boundary_weight' needs masks; set it to 0 for task.kind={kind}")
        if self.evaluation.window and kind != "segmentation":
            raise RecipeError(f"recipe key 'evaluation.window' is for segmentation; leave it out for task.kind={kind}")
        for key, alpha in (("mixup", self.augment.mixup), ("cutmix", self.augment.cutmix)):
            if alpha and kind != "classification":
                raise RecipeError(f"recipe key 'augment.{key}' needs task.kind=classification; set augment.{key}=0")
            if alpha and reads_emr:
                raise RecipeError(f"recipe key 'augment.{key}' mixes images, but '{family}' reads EMR columns too; set augment.{key}=0")
        if self.augment.test_flip and "image" not in self.model.reads:
            raise RecipeError(f"recipe key 'augment.test_flip' mirrors images, but '{family}' reads none; leave it empty")
        if self.augment.test_shift and kind != "segmentation":
            raise RecipeError(f"recipe key 'augment.test_shift' is for segmentation; set it to 0 for task.kind={kind}")
        if bool(self.degrade.kinds) != (kind == "restoration"):
            way_out = "name what to undo, such as degrade.kinds=[noise]" if kind == "restoration" else "set degrade.kinds=[]"
            raise RecipeError(f"recipe key 'degrade.kinds' is {list(self.degrade.kinds)}, but task.kind is {kind}; {way_out}")
        if self.adversary and kind not in ("restoration", "segmentation"):
            raise RecipeError(f"recipe key 'adversary' is for restoration and segmentation, but task.kind is {kind}; set adversary=null")
        if self.adversary and self.train.zero_stage == 3:
            raise RecipeError(
                "recipe key 'train.zero_stage' is 3, which can't hold two engines, the model's and the critic's; use train.zero_stage=2"
            )
        least = {"none": 0, "optimizer": 1, "parameters": 3}[self.train.offload]
        if self.train.zero_stage < least:
            way_out = f"use train.zero_stage={least}" if not (self.adversary and least == 3) else "use train.offload=optimizer"
            raise RecipeError(
                f"recipe key 'train.offload' is '{self.train.offload}', which ZeRO {self.train.zero_stage} can't move off the GPU; {way_out}"
            )
        return self

    @property
    def folder(self) -> Path:
        return Path(self.runs) / self.name

    def dump(self) -> str:
        """The resolved recipe as YAML, every field written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load_recipe(source: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a shipped recipe by name, or a file by path, and apply `key=value` overrides.

    Raises RecipeError with one sentence that names the key and the fix.
    """
    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        path = SHIPPED / f"{source}.yaml"
        if not path.exists():
            raise RecipeError(
                f"recipe '{source}' does not exist; shipped ones: {', '.join(shipped_recipes())}; or give a path to a .yaml file"
            )
    elif not path.exists():
        raise RecipeError(f"recipe file '{path}' does not exist")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise RecipeError(f"recipe file '{path}' is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"recipe file '{path}' must hold a mapping of keys to values")
    values.setdefault("name", path.stem)
    for override in overrides or []:
        apply_override(values, override)
    return parse(Recipe, values)


def shipped_recipes() -> list[str]:
    return sorted(p.stem for p in SHIPPED.glob("*.yaml"))


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set one `dotted.key=value` in nested plain values; the value is read as YAML.

    A new `model.family` starts from that family's defaults: the depth of a ResNet is not the depth of a U-Net.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"override '{override}' is not of the form key=value")
    top = key.split(".")[0]
    if top not in Recipe.model_fields:
        raise unknown_key("recipe", key, known_keys(Recipe) + [f"model.{k}" for spec in FAMILIES.values() for k in spec.model_fields])
    value = yaml.safe_load(text) if text else ""
    if isinstance(value, str):  # YAML 1.1 reads 1e-3 as a string
        try:
            value = float(value)
        except ValueError:
            pass
    *parents, last = key.split(".")
    place = values
    for parent in parents:
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise RecipeError(f"override '{override}' can't be applied: '{parent}' is not a section")
    if key == "model.family" and value != place.get("family"):
        place.clear()
    place[last] = value
