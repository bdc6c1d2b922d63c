"""`python -m hepdist.spot`: the watcher of one node, started beside `ray start` (cluster.yaml) and ended by SIGTERM."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time

from hepdist.spot.clouds import Cloud, detect, named
from hepdist.spot.watch import ray_teller, watch

DETECT_S = 120.0
"""Seconds to look for a metadata service: at boot the network may come up after this process."""


def main() -> int:
    """Exit code 0: ended by a signal; 1: no cloud was found."""
    options = argparse.ArgumentParser(prog="python -m hepdist.spot", description="Tell Ray when the cloud takes this machine away.")
    options.add_argument("--cloud", choices=("auto", "aws", "gcp", "azure"), default="auto")
    options.add_argument("--address", default=os.environ.get("RAY_ADDRESS") or "auto", help="Ray's host:port; auto: of this machine's Ray")
    options.add_argument("--node-ip", default="", help="what `ray start --node-ip-address` was given; else every Ray of this machine")
    options.add_argument("--interval", type=float, default=2.0, metavar="S", help="seconds between two looks (2; GCP leaves 30 in all)")
    options.add_argument("--rebalance", action="store_true", help="AWS: leave on a rebalance recommendation already")
    options.add_argument("--metadata", default="", metavar="URL", help="the metadata service, where it is not at its usual address")
    options.add_argument("--detect", type=float, default=DETECT_S, metavar="S", help="seconds to look for a metadata service (120)")
    given = options.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    cloud = named(given.cloud, given.metadata, rebalance=given.rebalance) if given.cloud != "auto" else _find(given, stop)
    if stop.is_set():
        return 0
    if cloud is None:
        say(
            "no metadata service of AWS, Google Cloud or Azure answers here; name the cloud with --cloud, or start no watcher on this machine"
        )
        return 1
    say(f"watching {cloud.name} every {given.interval:g} s for Ray at {given.address}")
    watch(cloud, ray_teller(given.address, given.node_ip), stop, given.interval, say)
    return 0


def _find(given: argparse.Namespace, stop: threading.Event) -> Cloud | None:
    until = time.monotonic() + given.detect
    while not stop.is_set():
        if (cloud := detect(given.metadata, rebalance=given.rebalance)) or time.monotonic() > until:
            return cloud
        stop.wait(given.interval)
    return None


def say(text: str) -> None:
    """One line on stderr, with the time in UTC."""
    print(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} hepdist.spot: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
