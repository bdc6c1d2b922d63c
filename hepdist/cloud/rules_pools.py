"""Rules over the node types of any cluster: no training on the head, spot with a fallback, sound numbers, room for a recipe's workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hepdist.cloud.document import Mistake, Node
from hepdist.cloud.instances import instances
from hepdist.cloud.nodes import NodeType
from hepdist.doctor.machine import WORKER_GIB

if TYPE_CHECKING:
    from hepdist.recipe import Recipe


def pool_mistakes(tree: Node, nodes: list[NodeType], most: int | None) -> Iterator[Mistake]:
    """most: max_workers of the whole cluster; None where there is no such limit."""
    for node in nodes:
        yield from _head(tree, node) if node.head else _counts(tree, node, most)
        yield from _as_the_machine(tree, node)
    yield from _fallback(tree, nodes)
    together = sum(node.most for node in nodes)
    if most is not None and most > together:
        yield Mistake.at(
            tree.at("max_workers"),
            f"max_workers is {most}, but the node types allow {together} in all",
            f"set max_workers: {together}, or raise that of a type",
        )


def recipe_mistakes(tree: Node, nodes: list[NodeType], recipe: Recipe) -> Iterator[Mistake]:
    """Whether every GPU type holds at least one worker of a recipe, and all together its group."""
    cpus, gpus = recipe.train.cpus_per_worker, [node for node in nodes if node.gpus and not node.head]
    for node in gpus:
        if node.workers(cpus, WORKER_GIB, gpu=True) < 1:
            yield Mistake.at(
                tree.at(*node.path),
                f"'{node.name}' ({_size(node)}) can't hold one worker of recipe '{recipe.name}' ({cpus:g} CPUs, 1 GPU, {WORKER_GIB:g} GiB)",
                "take a larger machine, or a smaller train.cpus_per_worker",
            )
    pool = gpus or [node for node in nodes if not node.head]
    room = sum(node.most * node.workers(cpus, WORKER_GIB, gpu=bool(gpus)) for node in pool)
    if pool and room < recipe.train.fewest:
        yield Mistake.at(
            tree.at(*pool[0].path, "max_workers"),
            f"recipe '{recipe.name}' starts with {recipe.train.fewest} workers, and the cluster has room for {room}",
            f"raise max_workers of the types, or use train.workers={max(1, room)}",
        )


def _head(tree: Node, node: NodeType) -> Iterator[Mistake]:
    where = tree.at(*node.path, "resources")
    if node.cpus or node.gpus:
        yield Mistake.at(
            where,
            f"head '{node.name}' offers {node.cpus:g} CPUs and {node.gpus:g} GPUs, so training would land beside Ray's servers",
            "set its CPU and GPU to 0",
        )
    if node.spot:
        where = tree.at(*node.path, "node_config", "InstanceMarketOptions")
        yield Mistake.at(where, f"head '{node.name}' is at the spot price, and every run ends with it", "take it on demand")


def _counts(tree: Node, node: NodeType, most: int | None) -> Iterator[Mistake]:
    if node.gpus and node.least:
        where = tree.at(*node.path, "min_workers")
        yield Mistake.at(where, f"'{node.name}' keeps {node.least} GPU nodes day and night", "set min_workers: 0")
    if node.least > node.most:
        where = tree.at(*node.path, "min_workers")
        yield Mistake.at(where, f"'{node.name}' has min_workers {node.least} and max_workers {node.most}", "set min_workers below it")
    if most is not None and node.most > most:
        yield Mistake.at(
            tree.at(*node.path, "max_workers"),
            f"'{node.name}' allows {node.most} nodes, but max_workers of the cluster is {most}",
            f"set it to {most} at most, or raise the cluster's",
        )


def _fallback(tree: Node, nodes: list[NodeType]) -> Iterator[Mistake]:
    """Every GPU type at the spot price has one on demand that takes its workers, and is asked before it."""
    on_demand = [node for node in nodes if node.gpus and not node.head and not node.spot and node.most]
    for node in nodes:
        if not (node.spot and node.gpus):
            continue
        fits = [other for other in on_demand if other.cpus >= node.cpus and other.gpus >= node.gpus]
        if not fits:
            yield Mistake.at(
                tree.at(*node.path),
                f"'{node.name}' is at the spot price, and no type on demand can take its place ({node.cpus:g} CPUs, {node.gpus:g} GPUs)",
                "add one without the spot market, with the same resources and max_workers of 1 or more",
            )
        for other in fits:
            if node.priority < other.priority:
                yield Mistake.at(
                    tree.at(*node.path, "priority"),
                    f"'{node.name}' at the spot price has priority {node.priority}, so '{other.name}' on demand ({other.priority}) goes first",
                    f"give it a priority above {other.priority}",
                )


def _as_the_machine(tree: Node, node: NodeType) -> Iterator[Mistake]:
    known = instances()[1].get(node.instance)
    if known is None or node.head:
        return
    for name, said, there in (("CPU", node.cpus, known.cpus), ("GPU", node.gpus, known.gpus)):
        if said != there:
            where = tree.at(*node.path, "resources", name)
            yield Mistake.at(where, f"'{node.name}' says {name}: {said:g}, but {node.instance} has {there}", f"set {name}: {there}")
    if node.memory is not None and node.memory > known.memory:
        where = tree.at(*node.path, "resources", "memory")
        yield Mistake.at(
            where, f"'{node.name}' says {node.memory:g} GiB, but {node.instance} has {known.memory:g}", "say less, or leave it out"
        )


def _size(node: NodeType) -> str:
    memory = "" if node.memory is None else f", {node.memory:g} GiB"
    return f"{node.cpus:g} CPUs, {node.gpus:g} GPUs{memory}"
