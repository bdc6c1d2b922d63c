"""Rules over a cloud's own machine settings: encrypted volumes, metadata with tokens, no open port, no public address, few rights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hepdist.cloud.document import Mistake, Node

WORLD = ("0.0.0.0/0", "::/0")


def machine_mistakes(tree: Node, prepared: dict[str, Any]) -> Iterator[Mistake]:
    """Of a file for `ray up` on AWS or Google Cloud."""
    provider = prepared["provider"]
    if provider["type"] not in ("aws", "gcp"):
        return
    yield from _security_group(tree, provider)
    if provider.get("use_internal_ips") is not True:
        where = tree.at("provider", "use_internal_ips")
        yield Mistake.at(where, "the machines get public addresses", "set provider.use_internal_ips: true")
    of_cloud = _aws if provider["type"] == "aws" else _gcp
    for name, node in prepared["available_node_types"].items():
        config = tree.at("available_node_types", name, "node_config")
        try:
            yield from list(of_cloud(config, name, node.get("node_config") or {}))
        except (AttributeError, KeyError, TypeError):  # Ray's schema does not look in there
            yield Mistake.at(
                config, f"node_config of '{name}' holds a value of another kind than the cloud takes", "compare it with cluster.yaml"
            )
    if provider["type"] == "aws" and provider.get("cache_stopped_nodes", True):
        where = tree.at("provider", "cache_stopped_nodes")
        yield Mistake.at(where, "idle machines are stopped, not ended, and keep their disks", "set provider.cache_stopped_nodes: false")


def _security_group(tree: Node, provider: dict[str, Any]) -> Iterator[Mistake]:
    for i, rule in enumerate((provider.get("security_group") or {}).get("IpPermissions") or []):
        ranges = [r.get("CidrIp") or r.get("CidrIpv6") for r in [*(rule.get("IpRanges") or []), *(rule.get("Ipv6Ranges") or [])]]
        if any(r in WORLD for r in ranges):
            ports = f"{rule.get('FromPort', 'all')} to {rule.get('ToPort', 'all')}"
            where = tree.at("provider", "security_group", "IpPermissions", i)
            yield Mistake.at(where, f"ports {ports} are open to the whole world", "remove the rule; reach the head by ssh or a tunnel")


def _aws(config: Node, name: str, values: dict[str, Any]) -> Iterator[Mistake]:
    if not values.get("SecurityGroupIds") and not values.get("NetworkInterfaces"):
        yield Mistake.at(
            config,
            f"'{name}' has no SecurityGroupIds, and the group that Ray makes then opens port 22 to the whole world",
            "name a group that lets in nothing but itself",
        )
    if not isinstance(values.get("InstanceMarketOptions", {}), dict):
        fix = "write InstanceMarketOptions: {MarketType: spot}, or leave it out"
        yield Mistake.at(config.at("InstanceMarketOptions"), f"the market of '{name}' is no mapping, which EC2 refuses", fix)
    for i, interface in enumerate(values.get("NetworkInterfaces") or []):
        if interface.get("AssociatePublicIpAddress"):
            where = config.at("NetworkInterfaces", i, "AssociatePublicIpAddress")
            yield Mistake.at(where, f"'{name}' gets a public address", "set AssociatePublicIpAddress: false")
    if (values.get("MetadataOptions") or {}).get("HttpTokens") != "required":
        where = config.at("MetadataOptions", "HttpTokens")
        fix = "set MetadataOptions: {HttpEndpoint: enabled, HttpTokens: required}"
        yield Mistake.at(where, f"'{name}' answers metadata requests without a token (IMDSv1), its credentials among them", fix)
    if not values.get("IamInstanceProfile"):
        yield Mistake.at(
            config,
            f"'{name}' has no IamInstanceProfile; Ray gives the head one that may do anything in EC2 and S3, and a worker none",
            "name one with hepdist/cloud/aws-head-policy.json or aws-node-policy.json",
        )
    if not values.get("BlockDeviceMappings"):
        fix = "add BlockDeviceMappings with Ebs: {Encrypted: true}"
        yield Mistake.at(config, f"'{name}' takes its disk from the image, whose encryption nobody has said", fix)
    for i, device in enumerate(values.get("BlockDeviceMappings") or []):
        if "Ebs" in device and (device["Ebs"] or {}).get("Encrypted") is not True:
            where = config.at("BlockDeviceMappings", i, "Ebs", "Encrypted")
            yield Mistake.at(where, f"volume {device.get('DeviceName', i)} of '{name}' is not encrypted", "set Ebs.Encrypted: true")


def _gcp(config: Node, name: str, values: dict[str, Any]) -> Iterator[Mistake]:
    """Disks are always encrypted there, and the metadata server refuses requests without its header."""
    if not values.get("networkInterfaces"):
        fix = "add networkInterfaces with a subnetwork and no accessConfigs"
        yield Mistake.at(config, f"'{name}' has no networkInterfaces, and Ray then gives it a public address", fix)
    for i, interface in enumerate(values.get("networkInterfaces") or []):
        if interface.get("accessConfigs"):
            where = config.at("networkInterfaces", i, "accessConfigs")
            yield Mistake.at(where, f"'{name}' gets a public address", "remove accessConfigs")
    if not values.get("serviceAccounts"):
        fix = "name one that may use the bucket and nothing else"
        yield Mistake.at(config, f"'{name}' has no serviceAccounts; Ray gives the head one that may do anything in Compute Engine", fix)
