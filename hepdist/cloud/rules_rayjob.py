"""Rules over a RayJob of KubeRay: token, autoscaler, shut-down after any end, nothing reachable from outside, containers without rights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hepdist.cloud.document import Mistake, Node, Steps
from hepdist.cloud.nodes import GIB, NodeType
from hepdist.cloud.rules_commands import LONGEST_IDLE_MIN

CLUSTER = ("spec", "rayClusterSpec")
SPOT_VALUES = ("spot", "SPOT")


def is_rayjob(tree: Node) -> bool:
    return "kind" in tree.value and "apiVersion" in tree.value


def rayjob_nodes(tree: Node, prepared: dict[str, Any]) -> list[NodeType]:
    """The groups as Ray's autoscaler sees them; `prepared` is what it derived."""
    paths: dict[str, Steps] = {prepared["head_node_type"]: (*CLUSTER, "headGroupSpec")}
    for i, group in enumerate(tree.at(*CLUSTER, "workerGroupSpecs").value):
        paths[group.at("groupName").value] = (*CLUSTER, "workerGroupSpecs", i)
    nodes = []
    for name, values in prepared["available_node_types"].items():
        resources, selector = values["resources"], tree.at(*paths[name], "template", "spec", "nodeSelector").plain()
        spot = isinstance(selector, dict) and any(
            value in SPOT_VALUES or (str(key).endswith("-spot") and str(value) == "true") for key, value in selector.items()
        )
        cpus, gpus, memory = resources.get("CPU", 0), resources.get("GPU", 0), resources.get("memory", 0) / GIB or None
        head = name == prepared["head_node_type"]
        nodes.append(NodeType(name, paths[name], "", spot, head, cpus, gpus, memory, values["min_workers"], values["max_workers"]))
    return nodes


def rayjob_mistakes(tree: Node) -> Iterator[Mistake]:
    spec, cluster = tree.at("spec"), tree.at(*CLUSTER)
    if (tree.at("apiVersion").value, tree.at("kind").value) != ("ray.io/v1", "RayJob"):
        yield Mistake.at(tree.at("kind"), "this is no RayJob of ray.io/v1", "take `hepdist cluster write kuberay FILE`")
        return
    for where, key, wanted, what in (
        (spec, "shutdownAfterJobFinishes", True, "the cluster is paid for after the job has ended or failed"),
        (cluster, "enableInTreeAutoscaling", True, "the cluster does not grow and shrink"),
    ):
        if _of(where, key) is not wanted:
            yield Mistake.at(where.at(key), what, f"set {key}: true")
    if not _of(spec, "activeDeadlineSeconds"):
        yield Mistake.at(spec, "a job that hangs is paid for without an end", "set activeDeadlineSeconds")
    if _of(cluster.at("authOptions"), "mode") != "token":
        yield Mistake.at(
            cluster.at("authOptions"), "Ray starts without a token, so that any pod can run code", "set authOptions: {mode: token}"
        )
    idle = cluster.at("autoscalerOptions", "idleTimeoutSeconds")
    if not isinstance(idle.value, (int, float)) or idle.value > 60 * LONGEST_IDLE_MIN:
        yield Mistake.at(
            idle, "idle pods are kept for long, or nobody has said for how long", "set autoscalerOptions.idleTimeoutSeconds: 600"
        )
    service = cluster.at("headGroupSpec", "serviceType")
    if service.value in ("NodePort", "LoadBalancer"):
        yield Mistake.at(
            service, f"serviceType {service.value} opens the dashboard, which runs code, to others", "set serviceType: ClusterIP"
        )
    groups = cluster.at("workerGroupSpecs").value
    for group in [cluster.at("headGroupSpec"), *(groups if isinstance(groups, list) else [])]:
        yield from _pod(group)


def _pod(group: Node) -> Iterator[Mistake]:
    pod = group.at("template", "spec")
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if _of(pod, key):
            yield Mistake.at(pod.at(key), f"{key} takes the pod out of its walls", f"remove {key}")
    containers = pod.at("containers").value
    for container in containers if isinstance(containers, list) else []:
        security = container.at("securityContext")
        if _of(security, "privileged") or _of(security, "allowPrivilegeEscalation") is not False:
            name, fix = _of(container, "name"), "set securityContext: {allowPrivilegeEscalation: false} and no privileged"
            yield Mistake.at(security, f"container '{name}' may gain rights on its machine", fix)
        for variable in _list(container.at("env")):
            if "TOKEN" in str(_of(variable, "name")) and _of(variable, "value"):
                fix = "take it from a Secret with valueFrom, or leave it to authOptions"
                yield Mistake.at(variable, f"'{_of(variable, 'name')}' stands in the file", fix)


def _of(node: Node, key: str) -> Any:
    return node.value[key].value if isinstance(node.value, dict) and key in node.value else None


def _list(node: Node) -> list[Node]:
    return node.value if isinstance(node.value, list) else []
