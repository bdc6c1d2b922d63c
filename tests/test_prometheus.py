"""Numbers for Prometheus: the dashboard asks for exactly those that the code sets, and a real cluster serves them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from heads import free_port, head

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


def test_steps_that_are_done_again_are_counted(tmp_path):
    lines = [{"step": step, "samples": 8 * step, "wall_s": step} for step in range(1, 11)]
    path = tmp_path / METRICS
    for cursor, kept, lost in ((56, 7, 3), (56, 7, 0), (0, 0, 7)):
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert drop_lines_beyond(path, cursor) == (kept, lost)
        lines = lines[:kept]
