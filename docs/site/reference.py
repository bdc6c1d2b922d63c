"""Pages of the site's reference, written from the code: verbs, keys of recipes, models, options, and the Python functions behind them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic_core import PydanticUndefined

from hepdist.cli import app
from hepdist.inference.spec import PredictSpec
from hepdist.ingest.spec import IngestSpec
from hepdist.models.specs import FAMILIES
from hepdist.recipe import Recipe
from hepdist.spec import Spec
from hepdist.surveillance.spec import SurveilSpec

PYTHON = {
    "A cohort": ["hepdist.ingest", "hepdist.shards.manifest", "hepdist.shards.format", "hepdist.shards.read"],
    "Order and stream": ["hepdist.shards.order", "hepdist.shards.plan", "hepdist.shards.stream"],
    "Models and tasks": ["hepdist.models", "hepdist.models.inputs", "hepdist.tasks", "hepdist.augment.augment", "hepdist.augment.normalise"],
    "Training and search": ["hepdist.training.launch", "hepdist.training.checkpoint", "hepdist.training.saved_model", "hepdist.search.launch"],
    "Evaluation": ["hepdist.evaluation.evaluate", "hepdist.evaluation.delong", "hepdist.evaluation.bootstrap", "hepdist.evaluation.calibration"],
    "Prediction and export": ["hepdist.inference.run", "hepdist.inference.predictor", "hepdist.export.export"],
    "Surveillance": ["hepdist.surveillance.run", "hepdist.surveillance.farrington", "hepdist.surveillance.prevalence"],
}  # fmt: skip
"""Modules that a program of one's own would call, by what for."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """mkdocs calls it once the files under docs/ are known."""
    pages = {"commands": commands(), "recipes": recipes(), "models": models(), "options": options(), "python": python()}
    for name, text in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def commands() -> str:
    """Every verb with its arguments and options, as `hepdist VERB --help` has them."""
    root = typer.main.get_command(app)
    parts = ["# Commands\n\nExit codes: 0 done, 1 the work failed, 2 refused before it began, 130 interrupted, 143 terminated.\n"]
    for words, command in _verbs(root, ()):
        given = [p for p in command.params if p.name != "help"]
        usage = " ".join(["hepdist", *words, *(_name(p) for p in given if p.param_type_name == "argument")])
        parts.append(f"## hepdist {' '.join(words)}\n\n{command.help}\n\n```text\n{usage}\n```\n")
        rows = [(_name(p), "" if p.required else _default(p.default), getattr(p, "help", "") or "") for p in given]
        parts.append(_table(("argument", "default", "what it is"), rows) if rows else "")
    return "\n".join(parts)


def _verbs(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, inner in getattr(command, "commands", {}).items():
        yield from _verbs(inner, (*words, name))
    if words and not hasattr(command, "commands"):
        yield words, command


def _name(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    return ", ".join([*parameter.opts, *parameter.secondary_opts])


def recipes() -> str:
    """Every key of a recipe, section by section."""
    parts = [
        "# Recipes\n\nAny key can be set on the command line, such as `optim.lr=3e-4`. The keys of `model` are [the family's](models.md).\n"
    ]
    parts.append(_keys(Recipe, "", [n for n, f in Recipe.model_fields.items() if not _spec(f.annotation)]))
    for name, field in Recipe.model_fields.items():
        if spec := _spec(field.annotation):
            note = "See also [tuning](../tuning.md).\n" if name == "search" else ""
            parts.append(f"## {name}\n\n{_prose(spec.__doc__ if spec.__doc__ != Spec.__doc__ else '')}\n\n{note}{_keys(spec, name + '.')}")
    return "\n".join(parts)


def models() -> str:
    """Every family with its keys, and what a search varies."""
    parts = ["# Models\n\n`model: {family: NAME, ...}` in a recipe. *searched* is what `hepdist tune` varies where a recipe doesn't say.\n"]
    for name, spec in FAMILIES.items():
        searched = ", ".join(f"`{key}`" for key in spec.search) or "nothing"
        parts.append(
            f"## {name}\n\n{_prose(spec.__doc__)}\n\nFor {', '.join(spec.tasks)}; searched: {searched}.\n\n{_keys(spec, 'model.')}"
        )
    return "\n".join(parts)


def options() -> str:
    """key=value of the verbs that read no recipe."""
    parts = ["# Options of ingest, predict and surveil\n"]
    for verb, spec, page in (
        ("ingest", IngestSpec, "cohorts"),
        ("predict", PredictSpec, "predict"),
        ("surveil", SurveilSpec, "surveillance"),
    ):
        parts.append(f"## hepdist {verb}\n\nHow they work together: [{page}](../{page}.md).\n\n{_keys(spec, '')}")
    return "\n".join(parts)


def python() -> str:
    """Directives that mkdocstrings fills from docstrings."""
    parts = ["# Python\n\nWhat the verbs call. Shapes, units and what is raised stand in the docstrings.\n"]
    for title, modules in PYTHON.items():
        parts.append(f"## {title}\n\n" + "\n\n".join(f"::: {module}" for module in modules) + "\n")
    return "\n".join(parts)


def _keys(spec: type[Spec], prefix: str, only: list[str] | None = None) -> str:
    rows = []
    for name, field in spec.model_fields.items():
        if only is not None and name not in only:
            continue
        default = field.get_default(call_default_factory=True)
        rows.append((f"{prefix}{name}", _kind(field.annotation), _default(default), field.description or ""))
    return _table(("key", "type", "default", "what it is"), rows)


def _spec(annotation: Any) -> type[Spec] | None:
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return annotation
    return next((found for inner in getattr(annotation, "__args__", ()) if (found := _spec(inner))), None)


def _kind(annotation: Any) -> str:
    """As a reader would write it: no module paths, no constraints."""
    text = annotation.__name__ if isinstance(annotation, type) and not hasattr(annotation, "__args__") else str(annotation)
    text = re.sub(r"typing\.|hepdist\.[\w.]+\.|<class '(\w+)'>", r"\1", text)
    text = re.sub(r"Annotated\[([\w.]+), [^\]]*\]", r"\1", text)
    return re.sub(r"Literal\[([^\]]*)\]", lambda found: " | ".join(found[1].split(", ")), text).replace("NoneType", "None")


def _default(value: Any) -> str:
    """'' where there is none, or where it has a table of its own."""
    if value is PydanticUndefined or isinstance(value, Spec):
        return ""
    return repr(value) if value is None or isinstance(value, str) else str(value)


def _prose(text: str | None) -> str:
    return " ".join((text or "").split())


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    def cell(text: str, code: bool) -> str:
        text = _prose(text).replace("|", "\\|")
        return f"`{text}`" if code and text else text.replace("<", "&lt;")

    body = [" | ".join(cell(text, code=number < len(row) - 1) for number, text in enumerate(row)) for row in rows]
    return "\n".join(f"| {line} |" for line in (" | ".join(head), " | ".join("---" for _ in head), *body)) + "\n"
