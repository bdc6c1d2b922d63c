"""The promises of the command line: quick to start, one sentence for a refusal, an exit code that tells the truth."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hepdist
from hepdist.cli import main
from hepdist.errors import CohortError
from hepdist.failure import ADVICE, SCREEN_LINES, from_ray, worker_story

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "ray", "deepspeed", "monai", "pandas", "numpy", "pyarrow", "matplotlib"}


def run(*arguments: str) -> int:
    return main(list(arguments))


def test_help_lists_the_verbs_without_importing_anything_heavy() -> None:
    code = "import sys; from hepdist.cli import main; main(['--help']); print('MODULES', *sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    text, _, modules = shown.partition("MODULES")
    for verb in ("doctor", "phantom", "ingest", "inspect", "train", "evaluate", "compare", "explain", "demo"):
        assert verb in text
    assert set(modules.split()) & HEAVY == set()


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"hepdist {hepdist.__version__}\n"


def test_a_misspelt_key_is_one_sentence_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "demo", "optim.lrr=1e-3", "--fresh") == 2
    assert capsys.readouterr().err == "error: recipe key 'optim.lrr' is unknown; did you mean 'optim.lr'?\n"


def test_options_may_stand_before_and_between_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (("--fresh", "demo", "a.b=1"), ("demo", "--fresh", "a.b=1"), ("demo", "a.b=1", "--fresh")):
        assert run("train", *arguments) == 2
        assert "recipe key 'a.b' is unknown" in capsys.readouterr().err


def test_an_unknown_option_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "demo", "--frsh") == 2
    assert "--frsh" in capsys.readouterr().err


def test_a_cohort_that_is_not_there_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "demo", f"data.cohort={tmp_path}", f"runs={tmp_path}/runs") == 2
    assert capsys.readouterr().err.startswith(f"error: no cohort at '{tmp_path}' (no manifest.json); make one with: hepdist ingest")
    assert not (tmp_path / "runs").exists()


def test_a_run_that_is_not_there_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", str(tmp_path / "nothing")) == 1
    assert capsys.readouterr().err == "error: no run at 'nothing' (no recipe.yaml); train one with: hepdist train RECIPE\n"


def test_an_interrupted_command_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hepdist.recipe.load_recipe", interrupted)
    assert run("train", "demo") == 130
    assert "interrupted" in capsys.readouterr().err


def worker_failure(*errors: tuple[Exception, str]) -> Exception:
    """What Ray Train raises when ranks 0, 1, ... fail, each with an exception and a traceback."""
    from ray.train.v2.api.exceptions import WorkerGroupError

    message = "\n".join(f"[Rank {rank} Error Snippet]:\n{traceback}" for rank, (_, traceback) in enumerate(errors))
    return WorkerGroupError(message, {rank: error for rank, (error, _) in enumerate(errors)})


ECHO = (RuntimeError("gone"), "Traceback (most recent call last):\n  a line\nRuntimeError: [gloo/tcp] Connection closed by peer\n")
REAL = (ValueError("the real reason"), "Traceback (most recent call last):\n  a line\nValueError: the real reason\n")


def test_a_failed_worker_is_told_in_one_screen_that_ends_with_its_error() -> None:
    error = worker_failure((REAL[0], REAL[1].replace("  a line\n", "  a line\n" * 200)))
    story = worker_story(error).splitlines()
    assert from_ray(error)
    assert len(story) == SCREEN_LINES
    assert story[0] == "Traceback (most recent call last):"
    assert story[1] == "  ... 164 lines left out ..."
    assert story[-1] == "ValueError: the real reason"


def test_the_rank_that_failed_is_told_not_those_that_lost_it() -> None:
    assert worker_story(worker_failure(ECHO, REAL)) == REAL[1].strip()
    assert worker_story(worker_failure(ECHO, ECHO)) == ECHO[1].strip()


def test_a_worker_that_refused_on_purpose_is_one_sentence() -> None:
    refusal = CohortError("shard 'x' is missing; ingest the cohort again")
    assert worker_story(worker_failure(ECHO, (refusal, "Traceback ...\n"))) == "error: shard 'x' is missing; ingest the cohort again"


def test_whoever_lacks_memory_is_told_what_takes_less():
    greedy = RuntimeError("x"), "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB\n"
    assert worker_story(worker_failure(ECHO, greedy)).splitlines()[-1] == ADVICE
    assert ADVICE not in worker_story(worker_failure(ECHO, REAL))


def test_a_real_failure_under_ray_train_is_told_with_its_own_traceback(ray_cluster: str) -> None:
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    def work(config: dict[str, Any]) -> None:
        config["no such key"]

    with pytest.raises(Exception, match="no such key") as caught:
        TorchTrainer(work, train_loop_config={}, scaling_config=ScalingConfig(num_workers=2)).fit()
    story = worker_story(caught.value).splitlines()
    assert story[0] == "Traceback (most recent call last):"
    assert any('config["no such key"]' in line for line in story)
    assert story[-1] == "KeyError: 'no such key'"


def test_a_failed_training_exits_1_with_the_workers_error_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise worker_failure(REAL)

    monkeypatch.setattr("hepdist.training.launch.train", failing)
    assert run("train", "demo") == 1
    assert capsys.readouterr().err.splitlines()[-1] == "ValueError: the real reason"


def test_a_bug_of_our_own_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("hepdist.training.launch.train", broken)
    with pytest.raises(ZeroDivisionError):
        main(["train", "demo"])


@pytest.mark.parametrize("script", ["ingest", "train", "evaluate"])
def test_a_job_script_runs_the_submitted_code_and_passes_its_exit_code_on(script: str, tmp_path: Path) -> None:
    arguments = {"ingest": ["/nowhere", "/nowhere/c"], "train": ["no-such-recipe"], "evaluate": ["/nowhere/run"]}[script]
    done = subprocess.run(
        [sys.executable, str(ROOT / "ray_jobs" / f"{script}.py"), *arguments], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode in (1, 2)
    assert done.stderr.splitlines()[-1].startswith("error: ")


def test_relative_paths_in_a_jobs_working_copy_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "runtime_resources/working_dir_files/_ray_pkg_0"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    assert run("train", "demo") == 2
    assert capsys.readouterr().err == (
        "error: 'runs' is the relative path 'runs', but a job's working directory is a temporary copy;"
        " give an absolute path that every node sees, such as runs=/shared/runs\n"
    )
    assert run("train", "demo", "runs=/shared/runs") == 2
    assert "'data.cohort' is the relative path" in capsys.readouterr().err
    assert run("evaluate", "runs/demo") == 2
    assert "'RUN' is the relative path 'runs/demo'" in capsys.readouterr().err


def test_ingest_refuses_an_unknown_option_before_it_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("ingest", str(tmp_path), str(tmp_path / "c"), "lable=x") == 2
    assert capsys.readouterr().err == "error: ingest key 'lable' is unknown; did you mean 'label'?\n"


def test_phantom_then_ingest_then_inspect_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, cohort = tmp_path / "source", tmp_path / "cohort"
    salt = tmp_path / "salt"
    salt.write_text("a secret of the tests, long enough to be one\n")
    assert run("phantom", str(source), "--patients", "12", "--seed", "3", "--no-ct") == 0
    assert "12 patients" in capsys.readouterr().out
    options = [f"emr={source / 'emr.csv'}", "label=hepatitis", "modality=CR", "size=32,32", f"salt={salt}"]
    assert run("ingest", str(source), str(cohort), *options) == 0
    assert run("inspect", str(cohort), "--html") == 0
    assert (cohort / "inspect.html").is_file()
    assert "every patient is in one split" in capsys.readouterr().out
