"""What a command line becomes as a job: paths that hold where it will run, the resolved recipe beside it, and who asked for what.

A job runs in a copy of the code on another node, so a relative path leads nowhere: on a cluster that is this machine it is made absolute, for
another one it is refused.
"""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import hepdist
from hepdist.errors import HepdistError, RecipeError
from hepdist.evaluation.provenance import source_commit
from hepdist.place import absolute
from hepdist.recipe import Recipe, load_recipe
from hepdist.shards.manifest import Manifest
from hepdist.stores import is_uri

VERBS = ("ingest", "train", "tune", "evaluate", "crossval", "predict")
RECIPE = "recipe.yaml"
FILES = ("emr", "labels_table", "label_rules", "emr_dictionary", "mask_folders", "salt", "reidentification_map", "reidentification_key")
"""Options of ingest that may name a file or folder."""


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
    if verb not in VERBS:
        raise RecipeError(f"'{verb}' can't be submitted as a job; use one of {', '.join(VERBS)}")
    flags, plain = _apart(words)
    where = _Where(here, cluster)
    if verb == "ingest":
        if len(plain) < 2:
            raise RecipeError("hepdist submit ingest needs SOURCE and COHORT")
        source, cohort, *options = plain
        options = [where.option(option) for option in options]
        found = Order(verb, [where.path("SOURCE", source), where.path("COHORT", cohort), *options, *flags], Path(cohort).name)
    elif verb == "evaluate":
        if not plain:
            raise RecipeError("hepdist submit evaluate needs a run's folder")
        found = Order(verb, [where.path("RUN", plain[0], uri=False), *plain[1:], *_other_cohort(flags, where)], Path(plain[0]).name)
    elif verb == "predict":
        if len(plain) < 3:
            raise RecipeError("hepdist submit predict needs RUN, INPUT and OUT")
        runs, source, out, *options = plain
        members = "+".join(where.path("RUN", run, uri=False) for run in runs.split("+"))
        paths = [members, where.path("INPUT", source), where.path("OUT", out)]
        found = Order(verb, [*paths, *(where.option(option) for option in options), *flags], Path(out).name)
    else:
        if not plain:
            raise RecipeError(f"hepdist submit {verb} needs a recipe")
        recipe = where.recipe(load_recipe(plain[0], plain[1:]), searches=verb == "tune")
        found = Order(verb, [RECIPE, *flags], recipe.name, {RECIPE: recipe.dump()}, _of_recipe(recipe))
    found.metadata |= {"verb": verb, "name": found.name, "who": _who(), "hepdist": hepdist.__version__}
    if commit := source_commit():
        found.metadata["git_commit"] = commit
    return found


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


def _apart(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Options, each with its value joined by '=', and the rest."""
    flags, plain, words = [], [], list(words)
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            plain.append(word)
        elif word in WITH_VALUE and words:
            flags.append(f"{word}={words.pop(0)}")
        else:
            flags.append(word)
    return flags, plain


WITH_VALUE = ("--split", "--cohort", "--folds", "--repeats")


def _other_cohort(flags: list[str], where: _Where) -> list[str]:
    names = [flag.partition("=") for flag in flags]
    return [f"{key}={where.path(key, value)}" if key == "--cohort" else key + equals + value for key, equals, value in names]


def _of_recipe(recipe: Recipe) -> dict[str, str]:
    """The recipe's name and, where the cohort can be read from here, which state of it is meant."""
    told = {"recipe": recipe.name, "family": recipe.model.family}
    try:
        told["cohort_sha256"] = Manifest.load(recipe.data.cohort).sha256()
    except (HepdistError, OSError):  # on a disk of the cluster, perhaps; the job itself says so where it is nowhere
        pass
    return told


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return "unknown"
