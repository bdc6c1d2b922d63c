"""What a search may cost: device-seconds and money, counted by trial as it runs, and the stopper that ends a search which has spent its budget."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

NODE_GROUP, MARKET = "ray.io/node-group", "ray.io/market-type"
"""Labels that Ray gives to the nodes which its autoscaler has started."""


@dataclass
class Meter:
    """Runs while an attempt at a trial does."""

    devices: float
    price: float
    """Of one device an hour."""
    began: float = field(default_factory=time.monotonic)

    @classmethod
    def here(cls, devices: float, prices: dict[str, float]) -> Meter:
        """At the price of the node which this process is on."""
        return cls(devices, price_of(prices, _labels()))

    def spent(self) -> float:
        """Devices times seconds."""
        return self.devices * (time.monotonic() - self.began)

    def money(self) -> float:
        return self.spent() / 3600 * self.price


def price_of(prices: dict[str, float], labels: dict[str, str]) -> float:
    """The price of one device on a node with these labels: of its type and market, else of its type, else `default`, else 0."""
    kind = labels.get(NODE_GROUP, "")
    market = labels.get(MARKET, "")
    for name in (f"{kind}.{market}", kind, "default"):
        if name in prices:
            return prices[name]
    return 0.0


def _labels() -> dict[str, str]:
    import ray

    here = ray.get_runtime_context().get_node_id()
    return next((dict(node.get("Labels") or {}) for node in ray.nodes() if node["NodeID"] == here), {})


@dataclass
class Limits:
    """What a search may spend; 0: no limit."""

    device_hours: float
    money: float
    hours: float
    began: float = field(default_factory=time.time)

    def reached(self, device_s: float, money: float) -> str:
        """Which limit is reached, as a phrase; '' while none is."""
        if self.device_hours and device_s >= self.device_hours * 3600:
            return f"its {self.device_hours:g} device-hours are spent"
        if self.money and money >= self.money:
            return f"its {self.money:g} of money are spent"
        if self.hours and time.time() - self.began >= self.hours * 3600:
            return f"its {self.hours:g} hours are over"
        return ""
