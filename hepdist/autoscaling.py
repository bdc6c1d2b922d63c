"""What a cluster could become: the CPUs and GPUs that its autoscaler may start, read from the file that the autoscaler runs by.

Ray tells its drivers what there is and not what there could be. A job's driver runs on the head, where the autoscaler's process and its file are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import yaml

FLAG, ADDRESS = "--autoscaling-config=", "--gcs-address="
KINDS = ("CPU", "GPU")


def growth(gcs_address: str) -> dict[str, float] | None:
    """{'CPU', 'GPU'} of all workers that the cluster at this address may have at a time; None where no autoscaler of it runs on this machine.

    Where several node types compete for max_workers, the ones with most of a kind are counted first, each kind by itself.
    """
    path = _config_of(gcs_address)
    if path is None:
        return None
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return None
    return {kind: _most(config, kind) for kind in KINDS}


def _config_of(gcs_address: str) -> Path | None:
    """The file that the cluster's autoscaler was started with (ray/_private/services.py: start_monitor)."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if ADDRESS + gcs_address in words:
            for word in words:
                if word.startswith(FLAG):
                    return Path(word.removeprefix(FLAG)).expanduser()
    return None


def _most(config: dict[str, Any], kind: str) -> float:
    nodes: list[float] = []
    limit = int(config.get("max_workers", 0))
    for name, values in (config.get("available_node_types") or {}).items():
        if name != config.get("head_node_type"):
            nodes += [float((values.get("resources") or {}).get(kind, 0))] * int(values.get("max_workers", limit))
    return sum(sorted(nodes, reverse=True)[:limit])
