"""What a cluster costs an hour, and what a recipe would take on it; an estimate says what it was derived from, or is not made."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hepdist.cloud.instances import instances
from hepdist.cloud.nodes import NodeType
from hepdist.doctor.machine import WORKER_GIB
from hepdist.inspect.sections import Section
from hepdist.recipe import SHIPPED

if TYPE_CHECKING:
    from hepdist.recipe import Recipe

NOT_COUNTED = "Disks, traffic, NAT gateways and object storage come on top."
HEADER = re.compile(r"(\d+) workers? on (\d+) cores[^:\n]*: (\d+) min")
"""How a shipped recipe says what its training took."""
HARMLESS = ("name", "runs", "data.cohort", "train.workers", "train.mirror")
"""Keys that change what a training takes in all little enough for its header to hold still."""


def node_table(nodes: list[NodeType], most: int | None) -> Section:
    """A row a node type and one of all: US dollars an hour with the fewest nodes and with the most that `max_workers` allows."""
    taken = _dearest(nodes, most)
    rows = [
        (
            node.name, node.instance or "-", "spot" if node.spot else "on demand", f"{node.cpus:g}", f"{node.gpus:g}",
            "-" if node.memory is None else f"{node.memory:g}", str(_fewest(node)), "1" if node.head else str(node.most),
            _money(node.price), _money(_times(_fewest(node), node.price)), _money(_times(taken[node.name], node.price)),
        )
        for node in nodes
    ]  # fmt: skip
    least, dearest = _sum(nodes, {node.name: _fewest(node) for node in nodes}), _sum(nodes, taken)
    rows.append(("all", "", "", "", "", "", "", "" if most is None else f"{most}+head", "", least, dearest))
    columns = ("node type", "machine", "market", "CPUs", "GPUs", "GiB", "min", "max", "$ an hour", "$ min", "$ max")
    day = instances()[0]
    note = (
        f"US dollars an hour, prices as of {day} (hepdist/cloud/instances.yaml): check before relying on them. $ max is the costliest mix"
        f" that max_workers allows. {NOT_COUNTED}"
        if any(node.price is not None for node in nodes)
        else "No price of these machines is known here (hepdist/cloud/instances.yaml)."
    )
    return Section("node types", columns, tuple(rows), note)


@dataclass(frozen=True)
class Work:
    """CPU-hours of a training on CPUs, and how that is known; None: not known, and why."""

    cpu_hours: float | None
    why: str


def recipe_table(recipe: Recipe, nodes: list[NodeType], work: Work) -> Section:
    """A row a node type that can hold the whole group: nodes, US dollars an hour with the head, and hours and money where they are known."""
    train = recipe.train
    head = next((node for node in nodes if node.head), None)
    rows = []
    for node in nodes:
        each = node.workers(train.cpus_per_worker, WORKER_GIB, gpu=bool(node.gpus))
        count = min(train.most, each * node.most)
        if count < train.fewest or not each:
            continue
        machines = math.ceil(count / each)
        hourly = None if node.price is None else machines * node.price + (head.price or 0.0 if head else 0.0)
        hours = None if node.gpus or work.cpu_hours is None else work.cpu_hours / (count * train.cpus_per_worker)
        hours_said = "not measured" if hours is None else _hours(hours)
        money = "" if hours is None or hourly is None else _money(hours * hourly)
        market = "spot" if node.spot else "on demand"
        rows.append((node.name, market, str(count), str(machines), _money(hourly), hours_said, money))
    columns = ("on", "market", "workers", "nodes", "$ an hour with the head", "hours", "$")
    gpus = (
        " A GPU's hours are not derived from a CPU's: one epoch there (train.epochs=1) tells them."
        if any(node.gpus for node in nodes)
        else ""
    )
    return Section(f"recipe {recipe.name}, {train.epochs} epochs", columns, tuple(rows), f"{work.why}{gpus}")


def work_of(source: str, recipe: Recipe, overrides: list[str]) -> Work:
    """Measured here where the cohort is here, else as the shipped recipe's header says it was measured."""
    from hepdist.errors import HepdistError
    from hepdist.search.measure import measure
    from hepdist.shards.manifest import Manifest

    try:
        manifest = Manifest.load(recipe.data.cohort)
    except HepdistError:
        return _by_header(source, overrides)
    cost, train = measure(recipe, manifest), recipe.train
    if cost.trouble:
        return Work(None, f"No hours: a training step of it fails here ({cost.trouble}).")
    hours = cost.epoch_s * train.epochs * train.most * train.cpus_per_worker / 3600
    return Work(
        hours,
        f"An estimate: {_hours(hours)} CPU-hours, from a few training passes on this machine's CPU; other cores are faster or slower, and starts,"
        " data and checkpoints come on top.",
    )


def _by_header(source: str, overrides: list[str]) -> Work:
    shipped = SHIPPED / f"{source}.yaml"
    found = HEADER.search(shipped.read_text(encoding="utf-8")) if shipped.is_file() else None
    changed = [override for override in overrides if override.partition("=")[0] not in HARMLESS]
    if found is None or changed:
        why = f"{changed[0]} is not what its header was measured with" if found else "its file says none"
        return Work(None, f"No hours: the cohort is not here to measure a step with, and {why}.")
    hours = int(found[2]) * int(found[3]) / 60
    return Work(
        hours,
        f"An estimate: {_hours(hours)} CPU-hours, as the recipe's header was measured ({found[0]}); other cores are faster or slower, and more"
        " workers wait for one another.",
    )


def _fewest(node: NodeType) -> int:
    return 1 if node.head else node.least


def _dearest(nodes: list[NodeType], most: int | None) -> dict[str, int]:
    """Nodes of each type in the costliest cluster that `most` allows."""
    left = sum(node.most for node in nodes) if most is None else most
    taken = {node.name: 1 if node.head else 0 for node in nodes}
    for node in sorted((n for n in nodes if not n.head), key=lambda n: n.price or 0.0, reverse=True):
        taken[node.name] = min(node.most, left)
        left -= taken[node.name]
    return taken


def _sum(nodes: list[NodeType], counts: dict[str, int]) -> str:
    costs = [_times(counts[node.name], node.price) for node in nodes if counts[node.name]]
    known = sum(cost for cost in costs if cost is not None)
    return "?" if costs and not known else ("at least " if None in costs else "") + _money(known)


def _times(count: int, price: float | None) -> float | None:
    return 0.0 if not count else None if price is None else count * price


def _money(amount: float | None) -> str:
    return "?" if amount is None else f"{amount:,.2f}"


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"
