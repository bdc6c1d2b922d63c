"""The watcher's loop: ask the cloud every few seconds, tell Ray of each notice once, say in a line what happened."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable

from hepdist.spot.clouds import Cloud, Notice
from hepdist.spot.metadata import Unclear

Say = Callable[[str], None]
Tell = Callable[[Notice], "tuple[bool, str]"]
"""Tell Ray; returns whether it knows now, and what happened."""

DRAIN_S = 25.0
"""Longest that one attempt to tell Ray may take: importing Ray on a busy machine, then three answers."""


def watch(cloud: Cloud, tell: Tell, stop: threading.Event, interval_s: float, say: Say) -> None:
    """Until `stop` is set. A notice that Ray could not be told of is told again at the next look, however long Ray is away."""
    told: set[str] = set()
    announced = trouble = failure = ""
    while not stop.is_set():
        try:
            notice = cloud.notice()
            if trouble:
                say("the metadata service answers again")
            trouble = ""
        except Unclear as error:
            notice = None
            if str(error) != trouble:  # once, however long it lasts
                trouble = str(error)
                say(f"no clear answer from the metadata service, trying on: {trouble}")
        if notice and notice.key not in told:
            if notice.key != announced:
                announced, failure = notice.key, ""
                say(f"{notice.what}{_when(notice.deadline)}")
            done, story = tell(notice)
            if done:
                told.add(notice.key)
            if done or story != failure:
                say(story if done else f"Ray was not told, trying on: {story}")
            failure = story
        stop.wait(interval_s)


def ray_teller(address: str, node_ip: str) -> Tell:
    """Tells the Ray at `address` ('auto': the one of this machine) by a process of its own, which ends whatever becomes of Ray."""

    def tell(notice: Notice) -> tuple[bool, str]:
        deadline_ms = 0 if notice.deadline is None else int(1000 * max(notice.deadline, time.time()))
        command = [sys.executable, "-m", "hepdist.spot.drain", "--address", address, "--node-ip", node_ip]
        command += ["--deadline-ms", str(deadline_ms), "--message", notice.what]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=DRAIN_S, check=False)
        except subprocess.TimeoutExpired:
            return False, f"no answer from Ray at {address} within {DRAIN_S:.0f} s"
        lines = (done.stdout if done.stdout.strip() else done.stderr).strip().splitlines() or [f"exit code {done.returncode}"]
        return done.returncode == 0, lines[-1]

    return tell


def _when(deadline: float | None) -> str:
    return "" if deadline is None else f" in {max(0.0, deadline - time.time()):.0f} s"
