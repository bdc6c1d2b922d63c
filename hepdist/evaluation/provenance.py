"""Where a result comes from: versions of what computed it, the source's commit, the recipe as shown and the commands that repeat it."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from typing import Any

import yaml

from hepdist.stores import is_uri

PACKAGES = ("hepdist", "torch", "ray", "deepspeed", "monai", "pyarrow", "numpy", "scikit-learn")


def versions() -> dict[str, str]:
    """Python's and the packages' versions, and the commit of hepdist's source where it runs from a git checkout."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    commit = source_commit()
    return found | ({"commit": commit} if commit else {})


def source_commit() -> str:
    """The commit of the checkout that hepdist is imported from, with '-dirty' where tracked files were changed; else ''."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return ""
    try:
        return subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def shown_recipe(text: str) -> str:
    """recipe.yaml for a page that leaves the machine: absolute folders keep their last name alone, since the rest may name people."""
    return yaml.safe_dump(_without_folders(yaml.safe_load(text)), sort_keys=False, allow_unicode=True)


def shown_path(path: str | PurePath) -> str:
    """A relative path as it is, of an absolute one and of a URI the last name."""
    pure = PurePath(path)
    return pure.name if pure.is_absolute() or is_uri(str(path)) else str(pure)


def commands(recipe: dict[str, Any], split: str) -> list[tuple[str, str]]:
    """What each step is for and the command line that repeats it."""
    cohort, run = shown_path(recipe["data"]["cohort"]), shown_path(PurePath(recipe["runs"]) / recipe["name"])
    return [
        ("the same cohort (compare its sha256 with the one below)", f"hepdist ingest SOURCE {cohort}"),
        ("the same training, into a run of another name", f"hepdist train {run}/recipe.yaml name={recipe['name']}-again"),
        ("the same scores and this page", f"hepdist evaluate {run} --split {split}"),
    ]


def _without_folders(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_folders(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_folders(entry) for entry in value]
    if isinstance(value, str) and (PurePath(value).is_absolute() or is_uri(value)):
        return shown_path(value)
    return value
