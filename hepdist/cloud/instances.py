"""What machine types hold and cost, from `instances.yaml`, which says of when and where its prices are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml

TABLE = Path(__file__).with_name("instances.yaml")


@dataclass(frozen=True)
class Instance:
    """A machine type; prices in US dollars an hour, None where they are not known."""

    cpus: int
    gpus: int
    memory: float
    """GiB."""
    on_demand: float | None
    spot: float | None


@lru_cache(maxsize=1)
def instances() -> tuple[str, dict[str, Instance]]:
    """The day of the prices, and the types by name."""
    table = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return str(table["as_of"]), {name: Instance(**values) for name, values in table["types"].items()}
