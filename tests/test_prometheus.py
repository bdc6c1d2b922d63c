"""Numbers for Prometheus: the dashboard asks for exactly those that the code sets, and a real cluster serves them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml
from heads import free_port, head
from spot_nodes import until

import hepdist.prometheus as exported
from cohorts import tiny_classification_cohort
from hepdist.cli import main
from hepdist.prometheus import OF_RUNS, OF_SEARCHES, PREFIX, Numbers, of_run, of_search
from hepdist.training.metrics_file import METRICS, drop_lines_beyond

ROOT = Path(__file__).resolve().parents[1]
DASHBOARD = json.loads((ROOT / "hepdist/cloud/grafana.json").read_text())
NAMES = {PREFIX + name for name in (*OF_RUNS, *OF_SEARCHES)}


def queries() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_the_dashboard_asks_for_exactly_the_numbers_that_are_exported():
    asked = set(re.findall(r"\bray_\w+", " ".join(queries())))
    assert asked == NAMES
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    for query in queries():
        assert set(re.findall(r"\$(\w+)", query)) <= {"run", "search", "__range"}
    for name in ("run", "search"):
        assert variables[name]["query"]["query"] in {f"label_values({known}, {name})" for known in NAMES}


def test_panels_have_numbers_of_their_own_and_do_not_overlap():
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) == 9
    taken = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(taken) == len(set(taken)) and max(x for x, _ in taken) < 24
    assert all(panel["title"] and panel["description"] and panel["datasource"]["uid"] == "${datasource}" for panel in panels)


@pytest.mark.skipif(not shutil.which("promtool"), reason="Prometheus is not installed (apt-get install prometheus)")
def test_prometheus_itself_understands_every_query(tmp_path):
    plain = [re.sub(r"\$(run|search)", ".*", query).replace("$__range", "1h") for query in queries()]
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(plain)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", tmp_path / "rules.yml"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and f"{len(rules)} rules found" in done.stdout, done.stdout + done.stderr


def test_the_dashboard_is_written_beside_the_cluster_files(tmp_path, capsys):
    assert main(["cluster", "write", "grafana", str(tmp_path / "board.json")]) == 0
    assert json.loads((tmp_path / "board.json").read_text()) == DASHBOARD
    assert "import it in Grafana" in capsys.readouterr().out


def test_runs_of_a_search_bear_its_name_and_no_path(tmp_path):
    assert of_run(tmp_path / "runs/pneumonia", 3).tags == {"run": "pneumonia", "rank": "3"}
    assert of_run(tmp_path / "searches/pneumonia/trials/0007", 0).tags["run"] == "pneumonia/0007"
    assert of_run(tmp_path / "searches/pneumonia/confirmed/0007-seed1", 0).tags["run"] == "pneumonia/0007-seed1"
    assert of_search(tmp_path / "searches/pneumonia").tags == {"search": "pneumonia"}


def test_without_ray_nothing_is_set(monkeypatch):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(exported, "_made", {})
    Numbers(OF_RUNS, run="a", rank="0").set(loss=1.0)
    assert not exported._made


def test_what_was_set_once_is_set_again_while_steps_go_on(monkeypatch):
    numbers, told = Numbers(OF_RUNS, run="a", rank="0"), []
    numbers.set(lost_steps=3.0, loss=1.0)
    monkeypatch.setattr(numbers, "set", lambda **values: told.append(values))
    numbers.again()
    assert not told
    monkeypatch.setattr(exported, "AGAIN_S", -1.0)
    numbers.again()
    assert told == [{"lost_steps": 3.0, "loss": 1.0}]


def test_steps_that_are_done_again_are_counted(tmp_path):
    lines = [{"step": step, "samples": 8 * step, "wall_s": step} for step in range(1, 11)]
    path = tmp_path / METRICS
    for cursor, kept, lost in ((56, 7, 3), (56, 7, 0), (0, 0, 7)):
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert drop_lines_beyond(path, cursor) == (kept, lost)
        lines = lines[:kept]


SAMPLE = re.compile(r"^(?P<name>ray_hepdist_\w+)\{(?P<tags>[^}]*)\} (?P<value>\S+)$", re.MULTILINE)


def scraped(port: int) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Our numbers as the node's endpoint serves them to Prometheus: tags and value by name."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for match in SAMPLE.finditer(text):
        tags = dict(re.findall(r'(\w+)="([^"]*)"', match["tags"]))
        found.setdefault(match["name"], []).append((tags, float(match["value"])))
    return found


@pytest.mark.slow
def test_a_cluster_serves_the_numbers_of_a_search_and_of_its_trials(tmp_path):
    tiny_classification_cohort(tmp_path / "cohort", 40)
    values = {
        "data": {"cohort": str(tmp_path / "cohort")}, "task": {"kind": "classification"}, "model": {"family": "cnn", "depth": 2, "width": 8},
        "train": {"epochs": 100_000, "global_batch": 8, "workers": 1, "cpus_per_worker": 0.5}, "evaluation": {"bootstrap": 50},
        "search": {"families": ["cnn"], "vary": ["lr"], "scheduler": "none", "searcher": "random", "trials": 1, "prices": {"default": 3600.0}},
    }  # fmt: skip
    (tmp_path / "told.yaml").write_text(yaml.safe_dump(values))
    port = free_port()
    with head(tmp_path / "log", cpus=1, metrics=port) as client:
        words = ["submit", "--no-wait", "tune", "told.yaml", f"runs={tmp_path}/runs", f"search.folder={tmp_path}/searches"]
        command = [sys.executable, "-m", "hepdist", *words]
        until(lambda: subprocess.run(command, env=client | {"PYTHONPATH": str(ROOT)}, cwd=tmp_path, check=False).returncode == 0)
        until(lambda: scraped(port).keys() == NAMES and scraped(port)[f"{PREFIX}hepdist_search_money"][0][1] > 0, 300)
        found = scraped(port)
    trial = {"run": "told/0000", "rank": "0"}
    for name in (*OF_RUNS, *OF_SEARCHES):
        tags = {key: value for key, value in found[PREFIX + name][0][0].items() if key in ("run", "rank", "search")}
        assert tags == (trial if name in OF_RUNS else {"search": "told"})
    value = {name: found[PREFIX + name][0][1] for name in (*OF_RUNS, *OF_SEARCHES)}
    assert value["hepdist_search_money"] == pytest.approx(3600 * value["hepdist_search_device_hours"], rel=1e-3)
    assert (value["hepdist_search_running_trials"], value["hepdist_search_ended_trials"], value["hepdist_lost_steps"]) == (1, 0, 0)
    assert value["hepdist_epoch"] > 0 and value["hepdist_samples_per_s"] > 0 and 0 <= value["hepdist_data_wait_share"] <= 1
