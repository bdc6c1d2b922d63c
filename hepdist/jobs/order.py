"""What a command line becomes as a job: paths that hold where it will run, the resolved recipe beside it, and who asked for what.

A job runs in a copy of the code on another node, so a relative path leads nowhere: on a cluster that is this machine it is made absolute, for
another one it is refused.
"""

from __future__ import annotations

import contextlib
import getpass
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

import hepdist
from hepdist.errors import HepdistError, RecipeError
from hepdist.evaluation.provenance import source_commit
from hepdist.place import absolute
from hepdist.recipe import Recipe, load_recipe
from hepdist.shards.manifest import Manifest
from hepdist.stores import is_uri

STAY = ("doctor", "phantom", "reidentify", "inspect", "submit", "demo", "serve", "cluster")
"""Verbs that are about this machine or for a person who looks on; every other one can be a job."""
ON_DISK = ("run",)
"""Arguments that name a folder which no object store can hold; all others but a recipe may be URIs."""
PLACES = ("cohort", "out", "into")
"""Options that name a file or folder."""
RECIPE = "recipe.yaml"
FILES = ("emr", "labels_table", "label_rules", "emr_dictionary", "mask_folders", "salt", "reidentification_map", "reidentification_key")
"""Among words of the form key=value, those whose value may name a file or folder."""


@dataclass
class Order:
    """A job to be submitted: `hepdist VERB ARGUMENTS` beside the files, in a working folder of its own."""

    verb: str
    arguments: list[str]
    name: str
    """Of what it makes: a recipe's or a cohort's."""
    files: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    """Shown in Ray's dashboard and by `ray job list`; holds no path, which may name people, and no secret."""


def order(verb: str, words: Sequence[str], *, here: bool, cluster: str) -> Order:
    """Read the words that follow a verb on the command line.

    here: the cluster is this machine; cluster: its name in messages. Raises RecipeError for a wrong recipe, an unknown verb and a path that the
    cluster would not find.
    """
    command = commands().get(verb)
    if command is None:
        raise RecipeError(f"'{verb}' can't be submitted as a job; use one of {', '.join(commands())}")
    where = _Where(here, cluster)
    given, _, _ = command.make_parser(command.context_class(command)).parse_args(list(words))
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    if missing := [param.name.upper() for param in arguments if param.required and given.get(param.name) is None]:
        raise RecipeError(f"hepdist submit {verb} needs {' and '.join(missing)}")
    flags = [flag for param in command.params if param not in arguments for flag in _flags(param, given.get(param.name), where)]
    if arguments[0].name == "recipe":
        recipe = where.recipe(load_recipe(given["recipe"], list(given.get("overrides") or ())), searches=verb == "tune")
        found = Order(verb, [RECIPE, *flags], recipe.name, {RECIPE: recipe.dump()}, _of_recipe(recipe))
    else:
        places = {param.name: given[param.name] for param in arguments if param.nargs == 1 and given.get(param.name) is not None}
        several = {param.name for param in arguments if "+" in (param.metavar or "")}  # RUN+RUN
        told = []
        for name, place in places.items():
            parts = place.split("+") if name in several else [place]
            told.append("+".join(where.path(name.upper(), part, uri=name not in ON_DISK) for part in parts))
        told += [where.option(word) for param in arguments if param.nargs != 1 for word in given.get(param.name) or ()]
        found = Order(verb, [*told, *flags], Path(list(places.values())[-1]).name, metadata=_of_run(places.get("run", "")))
    found.metadata |= {"verb": verb, "name": found.name, "who": _who(), "hepdist": hepdist.__version__}
    if commit := source_commit():
        found.metadata["git_commit"] = commit
    return found


def commands() -> dict[str, Any]:
    """The command line's own verbs that can be jobs, by name: whatever is added there can be submitted."""
    import typer

    from hepdist.cli import app

    found: Any = typer.main.get_command(app)
    return {name: command for name, command in found.commands.items() if name not in STAY}


class _Where:
    """Paths as the cluster sees them."""

    def __init__(self, here: bool, cluster: str) -> None:
        self.here, self.cluster = here, cluster

    def path(self, key: str, path: str, *, uri: bool = True) -> str:
        """uri: whether it may lie in an object store; runs are written to disks that every node sees."""
        if is_uri(path) or Path(path).is_absolute():
            return path
        if self.here:
            return absolute(path)
        ways = f"a URI such as {key}=s3://bucket/{path}, or " if uri else ""
        raise RecipeError(
            f"'{key}' is the relative path '{path}', which the cluster at {self.cluster} does not see; give {ways}an absolute path that every node sees"
        )

    def option(self, option: str) -> str:
        """One key=value of ingest; a value that names no file here is something else, such as built-in label rules."""
        key, equals, value = option.partition("=")
        return f"{key}={self.path(key, value)}" if equals and key in FILES and value and Path(value).exists() else option

    def recipe(self, recipe: Recipe, *, searches: bool) -> Recipe:
        """searches: it is for `hepdist tune`, which alone reads the section `search`."""
        train, search = recipe.train, recipe.search
        data = recipe.data.model_copy(update={"cohort": self.path("data.cohort", recipe.data.cohort)})
        start = self.path("train.init_from", train.init_from, uri=False) if "/" in train.init_from else train.init_from
        mirror = self.path("train.mirror", train.mirror) if train.mirror else ""
        train = train.model_copy(update={"init_from": start, "mirror": mirror})
        runs = self.path("runs", recipe.runs, uri=False)
        if searches:
            warm = tuple(self.path("search.warm_start", name, uri=False) if "/" in name else name for name in search.warm_start)
            search = search.model_copy(update={"folder": self.path("search.folder", search.folder, uri=False), "warm_start": warm})
        return recipe.model_copy(update={"data": data, "train": train, "runs": runs, "search": search})


def _flags(param: Any, value: Any, where: _Where) -> list[str]:
    """An option as it was given, in one word; none where it was not."""
    if value is None:
        return []
    if param.is_flag:
        return [param.opts[0] if value else param.secondary_opts[0]]
    values = value if isinstance(value, list | tuple) else [value]
    return [f"{param.opts[0]}={where.path(param.opts[0], one) if param.name in PLACES else one}" for one in values]


def _of_recipe(recipe: Recipe) -> dict[str, str]:
    """The recipe's name and, where the cohort can be read from here, which state of it is meant."""
    told = {"recipe": recipe.name, "family": recipe.model.family}
    try:
        told["cohort_sha256"] = Manifest.load(recipe.data.cohort).sha256()
    except (HepdistError, OSError):  # on a disk of the cluster, perhaps; the job itself says so where it is nowhere
        pass
    return told


def _of_run(run: str) -> dict[str, str]:
    """Which recipe made the run in a folder, on which state of which cohort, where that can be read from here."""
    told = {}
    with contextlib.suppress(OSError):
        told["recipe"] = str(yaml.safe_load((Path(run) / "recipe.yaml").read_text(encoding="utf-8"))["name"])
        told["cohort_sha256"] = (Path(run) / "cohort.sha256").read_text(encoding="utf-8").strip()
    return told


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return "unknown"
