"""The promises of `hepdist cluster check`: what is shipped passes, and a mistake is reported with its line and the way out, all at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cohorts import tiny_classification_cohort
from hepdist.cli import main
from hepdist.cloud.check import CHECKOUT_FILE, FOLDER, KUBERAY, OVERLAYS, check, load
from hepdist.cloud.costs import node_table, recipe_table, work_of
from hepdist.cloud.document import Mistake, merge, read
from hepdist.cloud.instances import instances
from hepdist.errors import ClusterError
from hepdist.recipe import load_recipe

SHIPPED = CHECKOUT_FILE.read_text(encoding="utf-8")


def changed(folder: Path, old: str, new: str, text: str = SHIPPED) -> Path:
    """A file in which one place differs."""
    assert text.count(old) >= 1, old
    (folder / "cluster.yaml").write_text(text.replace(old, new, 1), encoding="utf-8")
    return folder / "cluster.yaml"


def found(path: Path, *overrides: str, recipe: str = "") -> list[Mistake]:
    return check(load(str(path)), load_recipe(recipe, list(overrides)) if recipe else None).mistakes


def line_of(path: Path, text: str) -> int:
    """The first line that holds `text`, from 1."""
    return next(i for i, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1) if text in line)


@pytest.mark.parametrize("overlay", ["", *OVERLAYS, KUBERAY])
def test_what_is_shipped_has_no_mistake(overlay: str) -> None:
    recipe = load_recipe("hippocampus-vnet", ["train.workers=4", "train.cpus_per_worker=8"])
    assert [str(mistake) for mistake in check(load(overlay=overlay), recipe).mistakes] == []


SEEDED = {
    "a port open to the world": (
        "  region: us-east-1",
        "  security_group:\n    IpPermissions:\n      - {FromPort: 8265, ToPort: 8265, IpProtocol: tcp, IpRanges: [{CidrIp: 0.0.0.0/0}]}\n  region: us-east-1",
        "FromPort: 8265", "ports 8265 to 8265 are open to the whole world", "remove the rule",
    ),
    "Ray's own security group": (
        "      SecurityGroupIds: *groups\n      MetadataOptions: *metadata\n      BlockDeviceMappings: &disk", "      MetadataOptions: *metadata\n      BlockDeviceMappings: &disk",
        "    node_config:\n      InstanceType: m7i.4xlarge", "the group that Ray makes then opens port 22 to the whole world", "name a group",
    ),
    "a public address": ("use_internal_ips: true", "use_internal_ips: false", "use_internal_ips", "public addresses", "use_internal_ips: true"),
    "the dashboard on every network": ("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "  - >-", "listens on 0.0.0.0", "127.0.0.1 and a tunnel"),
    "the dashboard on one network": ("--dashboard-host=127.0.0.1", "--dashboard-host=10.1.2.3", "  - >-", "listens on 10.1.2.3", "ray dashboard"),
    "training on the head": ("resources: {CPU: 0, GPU: 0}", "resources: {CPU: 4, GPU: 0}", "resources: {CPU: 4", "beside Ray's servers", "CPU and GPU to 0"),
    "the head's CPUs by ray start": ("--num-cpus=0 --num-gpus=0", "--num-cpus=4", "  - >-", "the head offers its CPUs", "--num-cpus=0"),
    "spot without a fallback": ("    max_workers: 2\n    priority: 0", "    max_workers: 0\n    priority: 0", "  gpu-l4:", "no type on demand can take its place", "add one without the spot market"),
    "the fallback first": ("priority: 10", "priority: -1", "priority: -1", "'gpu-l4-on-demand' on demand (0) goes first", "above 0"),
    "a volume in the clear": ("VolumeSize: 200, VolumeType: gp3, Encrypted: true", "VolumeSize: 200, VolumeType: gp3, Encrypted: false", "VolumeSize: 200", "/dev/sda1 of 'head' is not encrypted", "Ebs.Encrypted: true"),
    "metadata without a token": ("HttpTokens: required", "HttpTokens: optional", "HttpTokens: optional", "IMDSv1", "HttpTokens: required"),
    "no token for jobs": ("export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0; ulimit -n 65536; ray start --head", "ulimit -n 65536; ray start --head", "  - >-", "without a token", "export RAY_AUTH_MODE=token"),
    "the token is not brought": ("  ~/.ray/auth_token: ~/.ray/auth_token\n", "", "file_mounts:", "does not bring the token", "~/.ray/auth_token"),
    "a secret": ("  type: aws", "  type: aws\n  aws_credentials: {aws_secret_access_key: abc}", "aws_credentials", "'provider.aws_credentials.aws_secret_access_key' holds a secret", "revoke"),
    "a token in a command": ("  - chmod 600 ~/.ray/auth_token", "  - export RAY_AUTH_TOKEN=0123456789abcdef", "RAY_AUTH_TOKEN=0123", "'setup_commands.0' holds a secret", "revoke"),
    "no idle time-out": ("idle_timeout_minutes: 10", "# idle_timeout_minutes: 10", "# An autoscaling", "idle_timeout_minutes is missing", "idle_timeout_minutes: 10"),
    "a long idle time-out": ("idle_timeout_minutes: 10", "idle_timeout_minutes: 600", "idle_timeout_minutes: 600", "paid for 600 minutes", "60 at most"),
    "more nodes than types allow": ("max_workers: 14", "max_workers: 40", "max_workers: 40", "the node types allow 26 in all", "max_workers: 26"),
    "a type above the whole": ("    max_workers: 4\n    node_config", "    max_workers: 40\n    node_config", "max_workers: 40", "'cpu' allows 40 nodes", "14 at most"),
    "GPUs day and night": ("min_workers: 0\n    max_workers: 8", "min_workers: 1\n    max_workers: 8", "min_workers: 1", "1 GPU nodes day and night", "min_workers: 0"),
    "more GPUs than the machine has": ("resources: {CPU: 16, GPU: 1}", "resources: {CPU: 16, GPU: 4}", "GPU: 4", "'gpu-l4' says GPU: 4, but g6.4xlarge has 1", "set GPU: 1"),
    "nobody listens for the notice": ("- *watch", "- sleep 1", "worker_start_ray_commands:", "nothing on them listens", "hepdist.spot"),
    "what nobody has pinned": ("-c ~/hepdist/constraints.txt -e", "-e", "pip install -q -e", "nobody has pinned", "-c ~/hepdist/constraints.txt"),
    "rights of Ray's making": ("      IamInstanceProfile: {Name: hepdist-head}\n", "", "    node_config:", "may do anything in EC2 and S3", "aws-head-policy.json"),
    "disks that stay": ("  cache_stopped_nodes: false", "  cache_stopped_nodes: true", "cache_stopped_nodes: true", "keep their disks", "cache_stopped_nodes: false"),
    "a market that is no mapping": ("InstanceMarketOptions: &spot {MarketType: spot, SpotOptions: {SpotInstanceType: one-time, InstanceInterruptionBehavior: terminate}}", "InstanceMarketOptions: spot", "InstanceMarketOptions: spot", "no mapping, which EC2 refuses", "MarketType: spot"),
}  # fmt: skip


@pytest.mark.parametrize("name", SEEDED)
def test_a_seeded_mistake_is_reported_with_its_line_and_the_fix(name: str, tmp_path: Path) -> None:
    old, new, place, text, fix = SEEDED[name]
    path = changed(tmp_path, old, new)
    line = line_of(path, place) if "\n" not in place else line_of(path, place.splitlines()[1]) - 1
    mistakes = [mistake for mistake in found(path) if mistake.line == line]
    assert any(text in mistake.text and fix in mistake.fix for mistake in mistakes), [str(mistake) for mistake in found(path)]


BY_RAY = {
    "a key that Ray does not know": ("upscaling_speed: 4.0", "upscaling_sped: 4.0", "upscaling_sped", "'upscaling_sped' is no key that Ray knows"),
    "half a CPU": ("resources: {CPU: 16, GPU: 0}", "resources: {CPU: 0.5, GPU: 0}", "CPU: 0.5", "0.5 is not of type 'integer'"),
    "a key of a node type": ("    priority: 30", "    prioritee: 30", "prioritee", "'available_node_types.gpu-l4.prioritee' is no key that Ray knows"),
    "a proxy that is missing": ("  ssh_proxy_command:", "  # ssh_proxy_command:", "auth:", "'ssh_proxy_command' is a required property"),
    "a head that is no type": ("head_node_type: head", "head_node_type: haed", "head_node_type", "`head_node_type` must be one of `available_node_types`"),
    "a container without a name": ("cluster_name: hepdist", "docker: {image: x}\ncluster_name: hepdist", "docker: ", "Must provide a container & image name"),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_RAY)
def test_what_only_ray_knows_is_reported_with_its_line(name: str, tmp_path: Path) -> None:
    old, new, place, text = BY_RAY[name]
    path = changed(tmp_path, old, new)
    first = [mistake for mistake in found(path) if text in mistake.text]
    assert len(first) == 1
    assert first[0].line == (line_of(path, place) if name != "a container without a name" else 1)  # Ray's assertion names no key


def test_all_mistakes_come_at_once_and_the_exit_code_is_1(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = changed(tmp_path, "idle_timeout_minutes: 10", "idle_timeout_minutes: 600")
    path = changed(tmp_path, "upscaling_speed", "upscaling_sped", path.read_text())
    path = changed(tmp_path, "HttpTokens: required", "HttpTokens: optional", path.read_text())
    assert main(["cluster", "check", str(path)]) == 1
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith(f"{path}:")]
    numbers = [int(line.removeprefix(f"{path}:").split(":")[0]) for line in lines]
    assert numbers == sorted(numbers) and len(lines) == 1 + 1 + 6  # the six types share their metadata options
    assert all(";" in line for line in lines)


def test_a_file_that_is_no_yaml_is_refused_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text, line, what in (
        ("a: 1\nb: [1\nc: 2\n", 3, "not valid YAML"),
        ("a: 1\nb: 2\na: 3\n", 3, "'a' is there twice"),
        ("- 1\n", 1, "a mapping"),
    ):
        (tmp_path / "cluster.yaml").write_text(text)
        assert main(["cluster", "check", str(tmp_path / "cluster.yaml")]) == 2
        said = capsys.readouterr().err
        assert f"cluster.yaml:{line}: " in said and what in said
    assert main(["cluster", "check", str(tmp_path / "none.yaml")]) == 2
    assert "can't be read: No such file" in capsys.readouterr().err


def test_a_gpu_type_that_holds_no_worker_of_the_recipe_is_a_mistake(tmp_path: Path) -> None:
    path = changed(tmp_path, "cluster_name: hepdist", "cluster_name: hepdist")
    mistakes = found(path, "train.cpus_per_worker=20", recipe="demo")
    assert {mistake.line for mistake in mistakes} >= {
        line_of(path, f"  {name}:") for name in ("gpu-l4", "gpu-a10g", "gpu-l40s", "gpu-l4-on-demand")
    }
    assert "can't hold one worker of recipe 'demo' (20 CPUs, 1 GPU, 1.5 GiB)" in mistakes[0].text
    too_many = found(path, "train.workers=32", "train.global_batch=64", recipe="demo")
    assert [str(m).partition(": ")[2] for m in too_many] == [
        "recipe 'demo' starts with 32 workers, and the cluster has room for 22; raise max_workers of the types, or use train.workers=22"
    ]


def test_an_overlay_is_merged_key_by_key_null_removes_and_patch_replaces(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("a: {x: 1, y: {z: 2}}\nb: [1, 2]\nc: 3\nd: {e: 4}\n")
    (tmp_path / "over.yaml").write_text("a: {y: {w: 5}}\nb: [3]\nc: null\nd: {$patch: replace, f: 6}\ng: {h: {$patch: replace, i: 7}}\n")
    merged = merge(read(tmp_path / "base.yaml"), read(tmp_path / "over.yaml"))
    assert merged.plain() == {"a": {"x": 1, "y": {"z": 2, "w": 5}}, "b": [3], "d": {"f": 6}, "g": {"h": {"i": 7}}}
    places = [(Path(node.file).name, node.line) for node in (merged.at("a", "x"), merged.at("a", "y", "w"), merged.at("d", "f"))]
    assert places == [("base.yaml", 1), ("over.yaml", 1), ("over.yaml", 4)]


def test_a_mistake_in_an_overlay_is_reported_where_it_stands(tmp_path: Path) -> None:
    text = (FOLDER / "gcp.yaml").read_text()
    over = changed(
        tmp_path, "      networkInterfaces: *network\n", "      networkInterfaces: [{accessConfigs: [{type: ONE_TO_ONE_NAT}]}]\n", text
    )
    mistakes = check(merge(load(str(CHECKOUT_FILE)), read(over))).mistakes
    assert {(mistake.file, mistake.line, mistake.fix) for mistake in mistakes} == {
        (str(over), line_of(over, "ONE_TO_ONE"), "remove accessConfigs")
    }
    assert len(mistakes) == 3  # cpu, and the two GPU types that take its settings


@pytest.mark.parametrize("overlay", [*OVERLAYS, KUBERAY])
def test_what_is_written_passes_and_is_not_written_over(overlay: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    assert main(["cluster", "write", overlay, str(path)]) == 0
    assert found(path) == []
    assert yaml.safe_load(path.read_text()) == load(overlay=overlay).plain()
    assert "&id" not in path.read_text()  # no anchors that only a machine would write
    assert main(["cluster", "write", overlay, str(path)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_an_overlay_that_is_not_there_is_refused() -> None:
    with pytest.raises(ClusterError, match="overlay 'azure' does not exist; there are gcp, on-premises"):
        load(overlay="azure")


def test_a_cluster_of_own_machines_counts_them(tmp_path: Path) -> None:
    main(["cluster", "write", "on-premises", str(tmp_path / "own.yaml")])
    path = changed(tmp_path, "max_workers: 2", "max_workers: 3", (tmp_path / "own.yaml").read_text())
    assert [str(m).partition(": ")[2] for m in found(path)] == ["max_workers is 3, but there are 2 worker_ips; set max_workers: 2"]
    path = changed(tmp_path, "  head_ip: REPLACE-head\n", "", (tmp_path / "own.yaml").read_text())
    assert any("Please supply a `head_ip`" in mistake.text for mistake in found(path))  # said by Ray


RAYJOB = (FOLDER / "kuberay.yaml").read_text(encoding="utf-8")
SEEDED_RAYJOB = {
    "paid for after a failure": ("shutdownAfterJobFinishes: true", "shutdownAfterJobFinishes: false", "set shutdownAfterJobFinishes: true"),
    "no autoscaler": ("enableInTreeAutoscaling: true", "enableInTreeAutoscaling: false", "set enableInTreeAutoscaling: true"),
    "no token": ("authOptions: {mode: token}", "authOptions: {mode: disabled}", "set authOptions: {mode: token}"),
    "open to others": ("serviceType: ClusterIP", "serviceType: LoadBalancer", "set serviceType: ClusterIP"),
    "training on the head": ('num-cpus: "0"', 'num-cpus: "4"', "set its CPU and GPU to 0"),
    "spot without a fallback": (
        "karpenter.sh/capacity-type: on-demand",
        "karpenter.sh/capacity-type: spot",
        "add one without the spot market",
    ),
    "rights on the machine": ("allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true", "allowPrivilegeEscalation: false"),
    "what only Ray knows": ("minReplicas: 0", "minReplica: 0", "see `hepdist cluster write kuberay`"),
    "a hang without an end": ("activeDeadlineSeconds: 172800", "priority: 1", "set activeDeadlineSeconds"),
}


@pytest.mark.parametrize("name", SEEDED_RAYJOB)
def test_a_mistake_in_a_rayjob_is_reported_with_the_fix(name: str, tmp_path: Path) -> None:
    old, new, fix = SEEDED_RAYJOB[name]
    path = changed(tmp_path, old, new, RAYJOB)
    mistakes = found(path)
    assert any(fix in mistake.fix for mistake in mistakes), [str(mistake) for mistake in mistakes]


def test_the_rayjob_asks_for_what_the_launcher_file_does() -> None:
    job = yaml.safe_load(RAYJOB)
    cluster = job["spec"]["rayClusterSpec"]
    groups: dict[str, Any] = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    assert (job["apiVersion"], job["kind"], job["spec"]["backoffLimit"]) == ("ray.io/v1", "RayJob", 2)
    assert cluster["autoscalerOptions"] == {"version": "v2", "idleTimeoutSeconds": 600}
    assert {name: (group["minReplicas"], group["maxReplicas"]) for name, group in groups.items()} == {
        "cpu": (0, 4), "gpu-spot": (0, 8), "gpu-on-demand": (0, 2),
    }  # fmt: skip
    for name, group in groups.items():
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert ("nvidia.com/gpu" in limits) == name.startswith("gpu")
    starts = yaml.safe_load(SHIPPED)["head_start_ray_commands"][1]
    assert json.loads(cluster["headGroupSpec"]["rayStartParams"]["system-config"].strip("'")) == json.loads(
        starts.partition("--system-config=")[2].strip("'")
    )


def test_node_settings_are_what_ec2_takes() -> None:
    session = pytest.importorskip("botocore.session", reason="botocore is not installed (pip install 'hepdist[dev]')")
    from botocore.validate import ParamValidator

    request = session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for name, node in yaml.safe_load(SHIPPED)["available_node_types"].items():
        settings = {key: value for key, value in node["node_config"].items() if key != "SubnetIds"}  # Ray's own; it picks one of them
        assert ParamValidator().validate({**settings, "MinCount": 1, "MaxCount": 1}, request).generate_report() == "", name
    on_aws = {name for name in instances()[1] if "." in name}
    assert on_aws <= set(request.members["InstanceType"].enum)


def test_commands_are_shell() -> None:
    config = yaml.safe_load(SHIPPED)
    for key in ("setup_commands", "head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        for command in config[key]:
            checked = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
            assert (checked.returncode, checked.stderr) == (0, ""), command


def test_policies_name_one_bucket_and_give_workers_nothing_else() -> None:
    head, node = (json.loads((FOLDER / f"aws-{name}-policy.json").read_text())["Statement"] for name in ("head", "node"))
    actions = {action for statement in node for action in statement["Action"]}
    assert {action.partition(":")[0] for action in actions} == {"s3"} and not any("*" in action for action in actions)
    for statement in head + node:
        if "s3:" in str(statement["Action"]):
            assert all("REPLACE-BUCKET" in resource for resource in _listed(statement["Resource"]))
        assert not any("*" in action for action in _listed(statement["Action"]))
    starts = [s for s in head if s["Sid"] == "StartMachinesOfThisClusterWithMetadataTokens"]
    assert starts[0]["Condition"]["StringEquals"]["ec2:MetadataHttpTokens"] == "required"


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def test_costs_are_those_of_the_table() -> None:
    findings = check(load(str(CHECKOUT_FILE)))
    table, (day, prices) = node_table(findings.nodes, findings.most), instances()
    *rows, total = table.rows
    head, cpu, l4, l40s = (prices[name] for name in ("m7i.xlarge", "m7i.4xlarge", "g6.4xlarge", "g6e.4xlarge"))
    each = {row[0]: row[8] for row in rows}
    assert (each["gpu-l4"], each["gpu-l4-on-demand"]) == (f"{l4.spot:,.2f}", f"{l4.on_demand:,.2f}")
    assert total[-2] == f"{head.on_demand:,.2f}"  # with nothing to do, the head alone
    dearest = 2 * l4.on_demand + 4 * l40s.spot + 4 * cpu.on_demand + 4 * l4.spot + head.on_demand  # 14 nodes, and the head
    assert total[-1] == f"{dearest:,.2f}"
    assert day in table.note and "check before relying on them" in table.note


def test_hours_are_of_cpus_and_say_where_they_come_from(tmp_path: Path) -> None:
    nodes = check(load(str(CHECKOUT_FILE))).nodes
    overrides = ["train.workers=4"]
    work = work_of("pneumonia-resnet", load_recipe("pneumonia-resnet", overrides), overrides)
    assert work.cpu_hours == pytest.approx(2 * 6 / 60) and "2 workers on 2 cores: 6 min" in work.why  # what its header says
    table = recipe_table(load_recipe("pneumonia-resnet", overrides), nodes, work)
    rows = {row[0]: row for row in table.rows}
    prices = instances()[1]
    head, hourly = prices["m7i.xlarge"].on_demand, prices["m7i.xlarge"].on_demand + prices["m7i.4xlarge"].on_demand
    assert rows["cpu"][2:] == ("4", "1", f"{hourly:,.2f}", "0.05", f"{0.05 * hourly:,.2f}")
    assert rows["gpu-l4"][2:] == ("4", "4", f"{4 * prices['g6.4xlarge'].spot + head:,.2f}", "not measured", "")
    assert "train.epochs=1" in table.note
    other = work_of("pneumonia-resnet", load_recipe("pneumonia-resnet", ["train.epochs=3"]), ["train.epochs=3"])
    assert other.cpu_hours is None and "train.epochs=3 is not what its header was measured with" in other.why
    tiny_classification_cohort(tmp_path / "cohort", {"train": 12, "val": 4, "test": 4})
    here = [
        f"data.cohort={tmp_path / 'cohort'}",
        "model.depth=10",
        "model.width=4",
        "train.epochs=2",
        "train.workers=1",
        "train.global_batch=4",
    ]
    measured = work_of("pneumonia-resnet", load_recipe("pneumonia-resnet", here), here)
    assert measured.cpu_hours is not None and 0 < measured.cpu_hours < 1 and "on this machine's CPU" in measured.why


def test_the_command_needs_no_cloud_client_and_takes_overrides_without_a_file() -> None:
    hidden = "import sys; sys.modules.update(dict.fromkeys(('boto3', 'botocore', 'googleapiclient', 'kubernetes'))); from hepdist.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", hidden, "cluster", "check", "--overlay", "gcp", "--recipe", "demo", "train.workers=2"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=CHECKOUT_FILE.parent).stdout
    assert "g2-standard-16" in shown and "recipe demo, 8 epochs" in shown and "No mistakes." in shown
    assert "Still to be filled in: REPLACE in hepdist/cloud/gcp.yaml" in shown and "can't be seen from here" in shown
