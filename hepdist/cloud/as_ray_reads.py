"""A cluster file as Ray itself reads it: its schema, its defaults and its own checks, all without a network or a cloud's client."""

from __future__ import annotations

import copy
import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from hepdist.cloud.document import Mistake, Node

SEE = "see the cluster YAML reference of Ray"


def prepare(tree: Node) -> tuple[dict[str, Any] | None, list[Mistake]]:
    """The file with Ray's defaults filled in (None where Ray can't fill them in), and all that Ray would refuse."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = tree.plain()
    if not isinstance(config.get("provider"), dict) or "type" not in config["provider"]:
        return None, [Mistake.at(tree.at("provider"), "provider.type is missing", "write provider: {type: aws}, gcp or local")]
    with _quiet():
        try:
            prepared = prepare_config(copy.deepcopy(config))
        except Exception as error:  # asserts, KeyErrors, click's exceptions: whatever stands in Ray's way
            return None, _against_schema(tree, config) or [_refused(tree, error)]
        mistakes = _against_schema(tree, prepared)
        if not mistakes:
            try:
                validate_config(prepared)
            except Exception as error:
                mistakes = [_refused(tree, error)]
    return prepared, mistakes


def as_kuberay_reads(tree: Node) -> tuple[dict[str, Any] | None, list[Mistake]]:
    """The autoscaler's configuration that Ray derives from a RayJob, and what it would refuse."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    job = tree.plain()
    cluster, metadata = (
        (job.get("spec") or {}).get("rayClusterSpec") or {},
        {"namespace": "default", "name": "", **(job.get("metadata") or {})},
    )
    with _quiet():
        try:
            return _derive_autoscaling_config_from_ray_cr({"metadata": metadata, "spec": cluster}), []
        except KeyError as error:
            where = tree.at("spec", "rayClusterSpec")
            return None, [
                Mistake.at(where, f"{error} is missing below it, which Ray's autoscaler needs", "see `hepdist cluster write kuberay`")
            ]
        except Exception as error:
            return None, [_refused(tree.at("spec", "rayClusterSpec"), error)]


def _against_schema(tree: Node, config: dict[str, Any]) -> list[Mistake]:
    """Everything in which `config` departs from the schema that Ray's wheel holds; validate_config would name one departure."""
    import ray.autoscaler
    from jsonschema import Draft7Validator

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text(encoding="utf-8"))
    mistakes = []
    for error in Draft7Validator(schema).iter_errors(config):
        path = tuple(error.absolute_path)
        if error.validator == "additionalProperties" and isinstance(error.instance, dict):
            for key in sorted(set(error.instance) - set(error.schema.get("properties", {}))):
                mistakes.append(
                    Mistake.at(tree.at(*path, key), f"'{_dotted(*path, key)}' is no key that Ray knows", f"correct or remove it ({SEE})")
                )
        else:
            mistakes.append(Mistake.at(tree.at(*path), f"Ray's schema refuses '{_dotted(*path)}': {error.message}", f"correct it ({SEE})"))
    return mistakes


def _refused(tree: Node, error: Exception) -> Mistake:
    """A check of Ray's outside its schema; such an error names its keys in backquotes, and no line."""
    said = " ".join(str(getattr(error, "message", "") or error).split()) or type(error).__name__
    named = [word for word in said.replace("`", " ").split() if isinstance(tree.value, dict) and word.strip("'.,") in tree.value]
    return Mistake.at(tree.at(named[0].strip("'.,")) if named else tree, f"Ray refuses it: {said.rstrip('.')}", f"correct it ({SEE})")


def _dotted(*path: str | int) -> str:
    return ".".join(map(str, path)) or "the file"


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray's launcher prints as it reads: what it assumes, what is deprecated, and each error once more."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
