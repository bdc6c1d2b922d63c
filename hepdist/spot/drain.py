"""Tell Ray that this machine goes: `python -m hepdist.spot.drain`, one short process a notice, so that the watcher needs no Ray."""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Collection
from typing import Any, cast

NOT_THERE = 3
"""Exit code where no Ray listens, or it has no node of this machine (yet)."""
ANSWER_S = 10


def main() -> int:
    """Exit code 0: every node of this machine is draining; the last line of output says what happened."""
    options = argparse.ArgumentParser(prog="hepdist.spot.drain")
    options.add_argument("--address", required=True)
    options.add_argument("--node-ip", default="")
    options.add_argument("--deadline-ms", type=int, required=True)
    options.add_argument("--message", required=True)
    given = options.parse_args()

    if problem := unreachable(given.address):
        print(problem)
        return NOT_THERE
    import ray._raylet
    from ray._private.services import canonicalize_bootstrap_address_or_die

    address = canonicalize_bootstrap_address_or_die(given.address)
    gcs = cast(Any, ray._raylet).GcsClient(address=address)
    nodes = [node for node in gcs.get_all_node_info(timeout=ANSWER_S).values() if node.state == node.GcsNodeState.Value("ALIVE")]
    mine = of_this_machine(nodes, {given.node_ip} if given.node_ip else own_addresses(), "" if given.node_ip else socket.gethostname())
    if not mine:
        print(f"none of the {len(nodes)} nodes of {address} is this machine's")
        return NOT_THERE
    for node in mine:
        drain(gcs, node.node_id.hex(), given.message, given.deadline_ms)
    print("draining " + ", ".join(f"{node.node_id.hex()[:8]} ({node.node_manager_address})" for node in mine))
    return 0


def drain(gcs: Any, node_id: str, message: str, deadline_ms: int) -> None:
    """What `ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION` does; deadline_ms: UNIX milliseconds, 0: none. A node may be told again."""
    from ray.core.generated import autoscaler_pb2

    reason = cast(Any, autoscaler_pb2).DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    accepted, why = gcs.drain_node(node_id, reason, message, deadline_ms, timeout=ANSWER_S)
    if not accepted:
        raise RuntimeError(f"Ray refused to drain node {node_id}: {why}")


def unreachable(address: str) -> str:
    """What is wrong where nobody listens at host:port, found without importing Ray, whose client would try for 40 s."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        return ""
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2.0).close()
    except OSError as error:
        return f"no Ray listens at {address} ({error.strerror or error})"
    return ""


def of_this_machine(nodes: Collection[Any], addresses: Collection[str], hostname: str) -> list[Any]:
    """The nodes at one of the addresses; else those of the hostname, unless they are on several machines, which share their name.

    nodes: ray.rpc.GcsNodeInfo. Several Rays of one machine go with it.
    """
    at_address = [node for node in nodes if node.node_manager_address in addresses]
    by_name = [node for node in nodes if hostname and node.node_manager_hostname == hostname]
    return at_address or (by_name if len({node.node_manager_address for node in by_name}) == 1 else [])


def own_addresses() -> set[str]:
    """This machine's addresses in its networks."""
    import psutil

    families = (socket.AF_INET, socket.AF_INET6)
    found = {place.address.split("%")[0] for places in psutil.net_if_addrs().values() for place in places if place.family in families}
    return {address for address in found if not address.startswith("127.") and address != "::1"}


if __name__ == "__main__":
    sys.exit(main())
