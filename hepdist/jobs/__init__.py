"""What differs inside a Ray job: `--working-dir` is a temporary copy on one node, so a relative path leads nowhere that lasts."""

from __future__ import annotations

from pathlib import Path

from hepdist.errors import RecipeError
from hepdist.recipe import Recipe


def check_paths(recipe: Recipe) -> None:
    """Refuse a recipe whose run would be lost with the job, or whose cohort can't be there. Raises RecipeError."""
    check_path("runs", recipe.runs)
    check_path("data.cohort", recipe.data.cohort)
    if "/" in recipe.train.init_from:
        check_path("train.init_from", recipe.train.init_from)


def check_path(name: str, path: str | Path) -> None:
    """Raises RecipeError for a relative path in a job's working directory."""
    if in_working_copy() and not Path(path).is_absolute() and "://" not in str(path):
        raise RecipeError(
            f"'{name}' is the relative path '{path}', but a job's working directory is a temporary copy;"
            f" give an absolute path that every node sees, such as {name}=/shared/{path}"
        )


def in_working_copy() -> bool:
    """Whether this process runs in the copy that Ray made of a job's `--working-dir` (ray-project/ray, runtime_env/working_dir.py)."""
    return "runtime_resources" in Path.cwd().parts
