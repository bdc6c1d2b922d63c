"""`hepdist cluster check` and `write`: read a file with its overlay, collect every mistake, and say what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from hepdist.cloud.as_ray_reads import as_kuberay_reads, prepare
from hepdist.cloud.document import Mistake, Node, merge, read
from hepdist.cloud.nodes import NodeType, launcher_nodes
from hepdist.cloud.rules_commands import command_mistakes, secret_mistakes
from hepdist.cloud.rules_machines import machine_mistakes
from hepdist.cloud.rules_pools import pool_mistakes, recipe_mistakes
from hepdist.cloud.rules_rayjob import is_rayjob, rayjob_mistakes, rayjob_nodes
from hepdist.errors import ClusterError

if TYPE_CHECKING:
    from hepdist.recipe import Recipe

FOLDER = Path(__file__).parent
# Not package data: `ray up` copies the project from the folder that the file is in, so it is of use only in a checkout, beside the package.
CHECKOUT_FILE = FOLDER.parents[1] / "cluster.yaml"
OVERLAYS = ("gcp", "on-premises")
KUBERAY, GRAFANA = "kuberay", "grafana"
PLACEHOLDER = "REPLACE"
ODD = (AttributeError, KeyError, TypeError, ValueError)
"""What reading a value of another kind raises, such as a text where a mapping should be."""


@dataclass(frozen=True)
class Findings:
    """What a check found."""

    mistakes: list[Mistake]
    """In the order of the file."""
    nodes: list[NodeType]
    most: int | None
    """max_workers of the whole cluster."""
    to_fill_in: dict[str, list[int]]
    """Lines by file in which a REPLACE is left."""
    unknown: list[str]
    """Machine types that the table of instances lacks."""

    def remarks(self) -> list[str]:
        """What is no mistake, but for a person to know."""
        lines = [] if self.nodes else ["Ray asks the machines themselves what they hold: there is nothing to compare and no price."]
        lines += [f"{name} is not in hepdist/cloud/instances.yaml: its resources and price are not checked." for name in self.unknown]
        lines += [
            f"Still to be filled in: {PLACEHOLDER} in {file}, lines {', '.join(map(str, at))}." for file, at in self.to_fill_in.items()
        ]
        lines.append("What the security groups, firewalls and roles that the file names allow can't be seen from here.")
        return [*lines, "No mistakes."]


def load(file: str = "", overlay: str = "") -> Node:
    """A cluster file, cluster.yaml of this folder or of the checkout by default, with an overlay merged onto it. Raises ClusterError."""
    if overlay == KUBERAY and not file:
        return read(FOLDER / "kuberay.yaml")
    if overlay and overlay not in OVERLAYS:
        raise ClusterError(f"overlay '{overlay}' does not exist; there are {', '.join(OVERLAYS)} and, without FILE, {KUBERAY}")
    here = Path("cluster.yaml")
    base = read(file or (here if here.exists() else CHECKOUT_FILE))
    return merge(base, read(FOLDER / f"{overlay}.yaml")) if overlay else base


def check(tree: Node, recipe: Recipe | None = None) -> Findings:
    """Hold a file against Ray's own reading of it, then against our rules; with a recipe, against its workers too."""
    nodes: list[NodeType] = []
    most: int | None = None
    if is_rayjob(tree):
        prepared, mistakes = as_kuberay_reads(tree)
        rules: list[Callable[[], Iterable[Mistake]]] = [lambda: rayjob_mistakes(tree)]
        if prepared:
            nodes = rayjob_nodes(tree, prepared)
    else:
        prepared, mistakes = prepare(tree)
        rules = []
        if prepared:
            most = prepared["max_workers"]
            rules = [
                lambda: machine_mistakes(tree, prepared),
                lambda: command_mistakes(tree, prepared, nodes),
                lambda: _as_many_as_machines(tree),
            ]
            with suppress(*ODD):  # over what the schema has refused
                nodes = launcher_nodes(prepared)
    rules += [lambda: secret_mistakes(tree), lambda: pool_mistakes(tree, nodes, most if nodes else None)]
    if recipe:
        rules.append(lambda: recipe_mistakes(tree, nodes, recipe))
    by_ray = bool(mistakes)
    for rule in rules:
        try:
            mistakes += rule()
        except ODD:
            if not by_ray:  # else the value that it stumbled over is among what Ray refused
                raise
    to_fill_in: dict[str, list[int]] = {}
    for _, leaf in tree.leaves():
        if isinstance(leaf.value, str) and PLACEHOLDER in leaf.value and leaf.line not in to_fill_in.setdefault(leaf.file, []):
            to_fill_in[leaf.file].append(leaf.line)
    to_fill_in = {file: sorted(lines) for file, lines in to_fill_in.items() if lines}
    unknown = sorted({node.instance for node in nodes if node.instance and not node.is_known})
    return Findings(sorted(dict.fromkeys(mistakes), key=lambda m: (m.file, m.line)), nodes, most, to_fill_in, unknown)


def write(overlay: str, file: str) -> None:
    """cluster.yaml with an overlay merged onto it, or the Kubernetes file or Grafana's dashboard as they are. Raises ClusterError for a file
    that is there already."""
    target = Path(file)
    if target.exists():
        raise ClusterError(f"'{file}' is there already; remove it, or name another file")
    if overlay in (KUBERAY, GRAFANA):
        text = (FOLDER / {KUBERAY: "kuberay.yaml", GRAFANA: "grafana.json"}[overlay]).read_text(encoding="utf-8")
    else:
        tree = load(overlay=overlay)
        head = f"# cluster.yaml with the overlay {overlay} of hepdist merged onto it (`hepdist cluster write {overlay} ...`), whose comments give the reasons.\n"
        text = head + yaml.safe_dump(tree.plain(), sort_keys=False, allow_unicode=True, width=140)
    target.write_text(text, encoding="utf-8")


def _as_many_as_machines(tree: Node) -> list[Mistake]:
    """Of provider local: Ray only warns, and leaves machines out or lowers the number."""
    machines, most = tree.at("provider", "worker_ips").value, tree.at("max_workers")
    if not isinstance(machines, list) or "max_workers" not in tree.value or most.value == len(machines):
        return []
    text = f"max_workers is {most.value}, but there are {len(machines)} worker_ips"
    return [Mistake.at(most, text, f"set max_workers: {len(machines)}")]
