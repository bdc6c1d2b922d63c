"""Rules over what a cluster runs and copies: token authentication, a dashboard that only a tunnel reaches, pins, the watcher, no secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from hepdist.cloud.document import Mistake, Node
from hepdist.cloud.nodes import NodeType

LONGEST_IDLE_MIN = 60
LOOPBACK = ("127.0.0.1", "localhost", "::1")
STARTS = ("head_start_ray_commands", "worker_start_ray_commands")
INSTALLS = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
PINS = (" -c ", "--constraint", "--require-hashes", "==", "PIP_CONSTRAINT")
SECRETS = (
    (re.compile(r"(AKIA|ASIA)[0-9A-Z]{16}"), "an AWS access key"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY"), "a private key"),
    (re.compile(r"\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}"), "a GitHub token"),
    (re.compile(r"://[^/\s:@]+:[^/\s@]+@"), "a password in an address"),
    (re.compile(r"(?i)\b\w*(auth_token|secret_access_key|password|passwd|api_key|session_token)\s*[=:]\s*[^\s$\"']"), "a secret"),
)
SECRET_KEY = re.compile(r"(?i)^(aws_secret_access_key|aws_session_token|\w*password|\w*auth_token|\w*api_key|credentials)$")


def command_mistakes(tree: Node, prepared: dict[str, Any], nodes: list[NodeType]) -> Iterator[Mistake]:
    """Of a file for `ray up`."""
    for key in (*STARTS, "setup_commands"):
        if key not in tree.value:
            how = {"setup_commands": "installs a nightly Ray and not this project"}.get(
                key, "knows no token and opens the dashboard to the network"
            )
            yield Mistake.at(tree, f"{key} is missing, and Ray's default {how}", "take it from hepdist's cluster.yaml")
    for key in STARTS:
        yield from _starts(tree, key)
    for key in INSTALLS:
        for i, command in _commands(tree, key):
            if "pip install" in command and not any(pin in command for pin in PINS):
                yield Mistake.at(tree.at(key, i), f"{key} installs versions that nobody has pinned", "add -c ~/hepdist/constraints.txt")
    if not any(str(target).endswith("auth_token") for target in prepared.get("file_mounts") or {}):
        fix = "add ~/.ray/auth_token: ~/.ray/auth_token"
        yield Mistake.at(tree.at("file_mounts"), "file_mounts does not bring the token, without which no node can join", fix)
    if any(node.spot for node in nodes) and not any("hepdist.spot" in command for _, command in _commands(tree, STARTS[1])):
        fix = "add `python -m hepdist.spot` (docs/preemption.md)"
        yield Mistake.at(tree.at(STARTS[1]), "there are spot machines, and nothing on them listens for the cloud's notice", fix)
    if prepared["provider"]["type"] != "local":
        yield from _idle(tree, nodes)


def secret_mistakes(tree: Node) -> Iterator[Mistake]:
    """Of a file of either kind; what was found is not repeated."""
    for path, leaf in tree.leaves():
        if not isinstance(leaf.value, str):
            continue
        kind = next((kind for pattern, kind in SECRETS if pattern.search(leaf.value)), "")
        if not kind and isinstance(path[-1], str) and SECRET_KEY.match(path[-1]) and leaf.value:
            kind = "a secret"
        if kind and not (path[0] == "file_mounts" and leaf.value.endswith("auth_token")):
            where = ".".join(str(step) for step in path)
            fix = "remove and revoke it; tokens come by file_mounts, rights by the machine's role"
            yield Mistake.at(leaf, f"'{where}' holds {kind}, which everybody who has the file can read", fix)


def _commands(tree: Node, key: str) -> list[tuple[int, str]]:
    listed = tree.at(key).value
    return [(i, str(node.value)) for i, node in enumerate(listed)] if key in tree.value and isinstance(listed, list) else []


def _starts(tree: Node, key: str) -> Iterator[Mistake]:
    started = False
    for i, command in _commands(tree, key):
        where = tree.at(key, i)
        if "0.0.0.0" in command:  # of any port
            yield Mistake.at(where, f"{key} listens on 0.0.0.0, that is to every network of the machine", "use 127.0.0.1 and a tunnel")
        elif (host := re.search(r"--dashboard-host[= ]+(\S+)", command)) and host[1] not in LOOPBACK:
            fix = "use --dashboard-host=127.0.0.1 and `ray dashboard`"
            yield Mistake.at(where, f"the dashboard, which runs code for whoever reaches it, listens on {host[1]}", fix)
        if "ray start" not in command:
            continue
        started = True
        if "RAY_AUTH_MODE=token" not in command:
            fix = "put `export RAY_AUTH_MODE=token;` before `ray start`"
            yield Mistake.at(where, f"{key} starts Ray without a token, so that anybody on the network can run code", fix)
        if key == STARTS[0] and "--num-cpus=0" not in command.replace("--num-cpus 0", "--num-cpus=0"):
            yield Mistake.at(
                where, "the head offers its CPUs, so training would land beside Ray's servers", "add --num-cpus=0 --num-gpus=0"
            )
    if key in tree.value and not started:
        yield Mistake.at(tree.at(key), f"{key} starts no Ray", "take it from hepdist's cluster.yaml")


def _idle(tree: Node, nodes: list[NodeType]) -> Iterator[Mistake]:
    where = tree.at("idle_timeout_minutes")
    said = where.value if "idle_timeout_minutes" in tree.value else None
    if said is None:
        yield Mistake.at(tree, "idle_timeout_minutes is missing", "say it, such as idle_timeout_minutes: 10")
    elif isinstance(said, (int, float)) and said > LONGEST_IDLE_MIN:
        yield Mistake.at(where, f"idle machines are paid for {said:g} minutes", f"set idle_timeout_minutes to {LONGEST_IDLE_MIN} at most")
    for node in nodes:
        seconds = tree.at(*node.path, "idle_timeout_s")
        if isinstance(seconds.value, (int, float)) and seconds.value > 60 * LONGEST_IDLE_MIN:
            fix = f"set idle_timeout_s to {60 * LONGEST_IDLE_MIN} at most"
            yield Mistake.at(seconds, f"idle machines of '{node.name}' are paid for {seconds.value / 60:g} minutes", fix)
