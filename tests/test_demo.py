"""The demo's promise: one call goes from no files to scores and a report, and a second call finds it all done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hepdist import demo

pytestmark = pytest.mark.slow


def test_the_demo_ends_with_scores_and_a_report_and_can_be_called_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ray_cluster: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "PATIENTS", 60)
    overrides = ["train.epochs=1", "train.global_batch=8", "evaluation.bootstrap=20"]
    folder = demo.run_demo(overrides)
    shown = capsys.readouterr().out
    result = json.loads((folder / "result.json").read_text())
    assert result["split"]["test"]["n"] == 12
    assert f"{result['split']['test']['auroc']:.3f}" in shown
    assert "best possible" in shown
    assert f"report: {folder / 'report.html'}" in shown
    assert (folder / "report.html").is_file()
    metrics = (folder / "metrics.jsonl").read_bytes()
    source = (tmp_path / "cohorts/demo-source/phantom.json").stat().st_mtime_ns
    assert demo.run_demo(overrides) == folder
    assert (folder / "metrics.jsonl").read_bytes() == metrics
    assert (tmp_path / "cohorts/demo-source/phantom.json").stat().st_mtime_ns == source
