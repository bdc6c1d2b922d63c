"""The node types of a cluster, whoever starts them (AWS, Google Cloud, Kubernetes, nobody), as rules and costs need them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hepdist.cloud.document import Steps
from hepdist.cloud.instances import instances

GIB = 2**30


@dataclass(frozen=True)
class NodeType:
    """One kind of node, with what Ray may place on it."""

    name: str
    path: Steps
    """Where it stands in its file."""
    instance: str
    """The cloud's machine type; '' where Kubernetes or a person picks the machine."""
    spot: bool
    head: bool
    cpus: float
    gpus: float
    memory: float | None
    """GiB; None: not known."""
    least: int
    most: int
    priority: int = 0

    @property
    def is_known(self) -> bool:
        """Whether the table of instances has its machine."""
        return self.instance in instances()[1]

    @property
    def price(self) -> float | None:
        """US dollars an hour; None: not known."""
        known = instances()[1].get(self.instance)
        return None if known is None else known.spot if self.spot else known.on_demand

    def workers(self, cpus_each: float, memory_each: float, gpu: bool) -> int:
        """Training workers that one node holds at a time, of so many CPUs and GiB, with a GPU each or without."""
        limits = [self.cpus / cpus_each, *([self.gpus] if gpu else []), *([] if self.memory is None else [self.memory / memory_each])]
        return 0 if self.head else int(min(limits) + 1e-9)


def launcher_nodes(prepared: dict[str, Any]) -> list[NodeType]:
    """Of a file for `ray up`, as Ray's `prepare_config` returned it; none where Ray asks the machines themselves (provider local)."""
    if prepared["provider"]["type"] == "local":
        return []
    known = instances()[1]
    nodes = []
    for name, values in prepared["available_node_types"].items():
        config, resources, head = values.get("node_config") or {}, values.get("resources") or {}, name == prepared["head_node_type"]
        instance = str(config.get("InstanceType") or config.get("machineType") or "")
        memory = resources.get("memory", 0) / GIB or (known[instance].memory if instance in known else None)
        cpus, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
        least, most = values.get("min_workers", 0), 0 if head else values.get("max_workers", prepared["max_workers"])
        path = ("available_node_types", name)
        nodes.append(NodeType(name, path, instance, _is_spot(config), head, cpus, gpus, memory, least, most, values.get("priority", 0)))
    return nodes


def _is_spot(config: dict[str, Any]) -> bool:
    """node_config is no part of Ray's schema, so anything may stand in it."""
    market, scheduling = config.get("InstanceMarketOptions"), config.get("scheduling")
    asked = scheduling if isinstance(scheduling, list) else [scheduling]
    on_google = any(isinstance(one, dict) and (one.get("provisioningModel") == "SPOT" or one.get("preemptible")) for one in asked)
    return on_google or (isinstance(market, dict) and market.get("MarketType") == "spot")
