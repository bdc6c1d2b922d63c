"""What AWS, Google Cloud and Azure say on a machine that is about to be taken away, behind one interface."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

from hepdist.spot.metadata import Metadata, Unclear

LINK_LOCAL = "http://169.254.169.254"


@dataclass(frozen=True)
class Notice:
    """The machine goes; said by the cloud once, read by the watcher many times."""

    key: str
    """The same as long as the same thing is announced."""
    what: str
    deadline: float | None
    """UNIX time at which the machine may be gone; None: the cloud named none."""


class Cloud(Protocol):
    """One cloud's metadata service."""

    name: str

    def answers(self) -> bool:
        """Whether this machine is one of this cloud's, as far as its service can be reached."""

    def notice(self) -> Notice | None:
        """What is announced now. Raises Unclear."""


class AWS:
    """Instance metadata with a session token (IMDSv2); two minutes' notice.

    EC2 User Guide: 'Spot Instance interruption notices', 'EC2 instance rebalance recommendations'.
    """

    name = "aws"
    TOKEN_S = 21600
    """Asked for; the longest that the service grants."""

    def __init__(self, base: str = "", *, rebalance: bool = False) -> None:
        """rebalance: take a recommendation to move, which comes earlier or for nothing, for a notice without a deadline."""
        self.metadata, self.rebalance = Metadata(base or LINK_LOCAL), rebalance
        self.token, self.renew_at = "", 0.0

    def answers(self) -> bool:
        try:
            self._renew()
        except Unclear:
            return False
        return True

    def notice(self) -> Notice | None:
        text = self._read("/latest/meta-data/spot/instance-action")
        if text is not None:
            said = _mapping(text, "spot/instance-action")
            action, at = said.get("action"), str(said.get("time", ""))
            if action not in ("terminate", "stop", "hibernate"):
                raise Unclear(f"spot/instance-action: action {action!r}")
            return Notice(f"{action} {at}", f"AWS will {action} this instance", _time(at, _iso))
        if self.rebalance and (text := self._read("/latest/meta-data/events/recommendations/rebalance")) is not None:
            at = str(_mapping(text, "events/recommendations/rebalance").get("noticeTime", ""))
            return Notice(f"rebalance {at}", "AWS recommends to leave this instance", None)
        return None

    def _read(self, path: str) -> str | None:
        """The text at `path`, None where there is none. Raises Unclear."""
        if time.monotonic() >= self.renew_at:
            self._renew()
        for renewed in (False, True):
            answer = self.metadata.ask(path, {"X-aws-ec2-metadata-token": self.token})
            if answer.status != 401 or renewed:
                break
            self._renew()  # the service forgets its tokens when the instance is stopped or moved
        if answer.status not in (200, 404):
            raise Unclear(f"{path}: status {answer.status}")
        return answer.text if answer.status == 200 else None

    def _renew(self) -> None:
        path, ttl = "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds"
        answer = self.metadata.ask(path, {ttl: str(self.TOKEN_S)}, method="PUT")
        if answer.status != 200 or not 0 < len(answer.text.strip()) < 1000:
            raise Unclear(f"{path}: status {answer.status}")
        granted = answer.headers.get(ttl.lower(), "")
        self.token = answer.text.strip()
        self.renew_at = time.monotonic() + (int(granted) if granted.isdigit() else self.TOKEN_S) / 2


class GCP:
    """Compute Engine's metadata server, which names no time: a Spot VM has 30 seconds, host maintenance at least 60.

    Compute Engine: 'Spot VMs: preemption process', 'Get live migration notices'.
    """

    name = "gcp"
    PREEMPTED_S = 30.0
    MAINTENANCE_S = 60.0

    def __init__(self, base: str = "") -> None:
        self.metadata = Metadata(base or "http://metadata.google.internal")
        self.seen: dict[str, float] = {}
        """UNIX time at which each announcement was read first."""

    def answers(self) -> bool:
        try:
            answer = self.metadata.ask("/computeMetadata/v1/", {"Metadata-Flavor": "Google"})
        except Unclear:
            return False
        return answer.status == 200 and answer.headers.get("metadata-flavor") == "Google"

    def notice(self) -> Notice | None:
        preempted = self._read("preempted")
        if preempted not in ("TRUE", "FALSE", ""):
            raise Unclear(f"instance/preempted: {preempted[:80]!r}")
        if preempted == "TRUE":
            return self._since("preempted", "Google Cloud preempts this instance", self.PREEMPTED_S)
        if self._read("maintenance-event") == "TERMINATE_ON_HOST_MAINTENANCE":  # MIGRATE_...: it lives on elsewhere
            return self._since("maintenance", "Google Cloud ends this instance for maintenance of its host", self.MAINTENANCE_S)
        self.seen.clear()
        return None

    def _since(self, key: str, what: str, left_s: float) -> Notice:
        first = self.seen.setdefault(key, time.time())
        return Notice(f"{key} {first}", what, first + left_s)

    def _read(self, name: str) -> str:
        path = f"/computeMetadata/v1/instance/{name}"
        answer = self.metadata.ask(path, {"Metadata-Flavor": "Google"})
        if answer.status not in (200, 404):
            raise Unclear(f"{path}: status {answer.status}")
        return answer.text.strip() if answer.status == 200 else ""


class Azure:
    """Scheduled Events, which lists the events of all machines of a scale set: those that name this one count.

    Azure Virtual Machines: 'Scheduled Events for Linux VMs', api-version 2020-07-01; a Spot VM has at least 30 seconds.
    """

    name = "azure"
    EVENTS = "/metadata/scheduledevents?api-version=2020-07-01"
    NAME = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"

    def __init__(self, base: str = "") -> None:
        self.metadata = Metadata(base or LINK_LOCAL)
        self.machine = ""

    def answers(self) -> bool:
        try:
            self.machine = self._read(self.NAME).strip()
        except Unclear:
            return False
        return bool(self.machine)

    def notice(self) -> Notice | None:
        if not self.machine and not self.answers():
            raise Unclear(f"{self.NAME}: no name")
        events = _mapping(self._read(self.EVENTS), "scheduledevents").get("Events")
        if not isinstance(events, list):
            raise Unclear("scheduledevents: no list 'Events'")
        for event in events:
            if not isinstance(event, dict) or event.get("EventType") not in ("Preempt", "Terminate"):
                continue
            resources = event.get("Resources")
            names = [str(name).lower() for name in resources] if isinstance(resources, list) else []
            if self.machine.lower() in names:
                what = f"Azure will {event['EventType'].lower()} this machine"
                return Notice(str(event.get("EventId")), what, _time(str(event.get("NotBefore", "")), parsedate_to_datetime))
        return None

    def _read(self, path: str) -> str:
        answer = self.metadata.ask(path, {"Metadata": "true"})
        if answer.status != 200:
            raise Unclear(f"{path}: status {answer.status}")
        return answer.text


def named(name: str, base: str = "", *, rebalance: bool = False) -> Cloud:
    """The cloud called 'aws', 'gcp' or 'azure'."""
    clouds: dict[str, Callable[[], Cloud]] = {
        "aws": lambda: AWS(base, rebalance=rebalance),
        "gcp": lambda: GCP(base),
        "azure": lambda: Azure(base),
    }
    return clouds[name]()


def detect(base: str = "", *, rebalance: bool = False) -> Cloud | None:
    """The cloud whose service answers here, if any; each has a request that the others refuse."""
    for name in ("aws", "gcp", "azure"):
        cloud = named(name, base, rebalance=rebalance)
        if cloud.answers():
            return cloud
    return None


def _mapping(text: str, where: str) -> dict[str, Any]:
    try:
        said = json.loads(text)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise Unclear(f"{where}: {text[:80]!r} is no JSON object")
    return said


def _iso(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)


def _time(text: str, parse: Callable[[str], datetime]) -> float | None:
    """UNIX time; None where the text is none: that the machine goes counts for more than when."""
    try:
        return parse(text).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
