"""A YAML file whose every value knows its file and line, and the merging of an overlay onto it; what the values mean is not its matter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hepdist.errors import ClusterError

Steps = tuple[str | int, ...]
"""Keys and positions that lead to a value."""
PATCH = "$patch"
"""As in Kubernetes: a mapping of an overlay with `$patch: replace` takes the place of the mapping below instead of being merged into it."""


@dataclass(frozen=True)
class Node:
    """A value: a mapping or list of nodes, or a plain one."""

    value: Any
    file: str
    line: int
    """Of its key where it has one, from 1."""

    def plain(self) -> Any:
        """The value without lines; no part of it is shared."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        return [node.plain() for node in self.value] if isinstance(self.value, list) else self.value

    def at(self, *path: str | int) -> Node:
        """The node at `path`, or the nearest one above where it isn't there."""
        node = self
        for step in path:
            found = node.value
            by_key = isinstance(found, dict) and step in found
            by_place = isinstance(found, list) and isinstance(step, int) and step < len(found)
            if not (by_key or by_place):
                break
            node = found[step]
        return node

    def leaves(self, path: Steps = ()) -> Iterator[tuple[Steps, Node]]:
        """Every plain value with its path."""
        if isinstance(self.value, (dict, list)):
            for step, node in self.value.items() if isinstance(self.value, dict) else enumerate(self.value):
                yield from node.leaves((*path, step))
        else:
            yield path, self


@dataclass(frozen=True)
class Mistake:
    """What is wrong on a line, and the way out."""

    file: str
    line: int
    text: str
    fix: str

    @classmethod
    def at(cls, node: Node, text: str, fix: str) -> Mistake:
        return cls(node.file, node.line, text, fix)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}; {self.fix}"


def read(path: str | Path) -> Node:
    """The one document of a YAML file, a mapping. Raises ClusterError for what is no YAML, or has a key twice."""
    path = Path(path)
    name = str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ClusterError(f"cluster file '{name}' can't be read: {getattr(error, 'strerror', None) or error}") from None
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise ClusterError(f"{name}:1: a cluster file holds a mapping of keys to values; see cluster.yaml of hepdist")
        return _node(loader, root, name, 1)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ClusterError(f"{name}:{mark.line + 1 if mark else 1}: not valid YAML ({error.problem}); mend that line") from None
    finally:
        loader.dispose()


def merge(base: Node | None, over: Node) -> Node:
    """What `over` says, and what `base` says where `over` is silent: mappings key by key, null takes a key away, all else is replaced."""
    if not isinstance(over.value, dict):
        return over
    if base is None or PATCH in over.value or not isinstance(base.value, dict):
        base = Node({}, over.file, over.line)
    value = dict(base.value)
    for key, node in over.value.items():
        if node.value is None:
            value.pop(key, None)
        elif key != PATCH:
            value[key] = merge(value.get(key), node)
    return Node(value, base.file, base.line)


def _node(loader: yaml.SafeLoader, node: yaml.Node, file: str, line: int) -> Node:
    if isinstance(node, yaml.MappingNode):
        _refuse_twice(node)
        loader.flatten_mapping(node)  # `<<: *other`: what is merged in comes first, with the lines where it was written
        pairs = {loader.construct_object(key, deep=True): (key, value) for key, value in node.value}
        value: Any = {name: _node(loader, value, file, key.start_mark.line + 1) for name, (key, value) in pairs.items()}
    elif isinstance(node, yaml.SequenceNode):
        value = [_node(loader, item, file, item.start_mark.line + 1) for item in node.value]
    else:
        value = loader.construct_object(node)
    return Node(value, file, line)


def _refuse_twice(node: yaml.MappingNode) -> None:
    """YAML takes the last of two equal keys without a word."""
    seen: set[str] = set()
    for key, _ in node.value:
        if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
            raise yaml.MarkedYAMLError(problem=f"key '{key.value}' is there twice", problem_mark=key.start_mark)
        seen.add(key.value)
