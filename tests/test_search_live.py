"""The live table says how a search stands: a table on a terminal that fits it, a line a trial elsewhere."""

from __future__ import annotations

import io

import pytest
import searches
from rich.console import Console

from hepdist.search.live import AROUND_ROWS, Live
from hepdist.search.record import Event, Trial, read_trials


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> list[Trial]:
    return read_trials(searches.write_search(tmp_path_factory.mktemp("searches") / "pneumonia"))


def _trial(name: str, *scores: float, end: str = "", lr: float = 1e-3, **facts: object) -> Trial:
    events = [Event(name, "started")]
    events += [Event(name, "result", 100.0 * k, facts={"epoch": k, "score": score}) for k, score in enumerate(scores, 1)]
    events += [Event(name, end, 100.0 * len(scores), facts=facts)] if end else []  # type: ignore[arg-type]
    return Trial(name, {"model.family": "cnn", "optim.lr": lr}, events)


def _quiet() -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=160), file


def _screen(height: int, width: int = 120) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=True, height=height, width=width, color_system=None, legacy_windows=False), file


def test_in_a_file_each_end_is_one_line_and_a_summary_comes_every_half_minute() -> None:
    clock, (console, file) = [0.0], _quiet()
    with Live(searches.recipe(), console=console, now=lambda: clock[0]) as live:
        live.update([], 0.0)
        trials = [_trial("0000", 0.8, 0.9, end="finished"), _trial("0001", 0.7), Trial("0002", {"model.family": "cnn"})]
        live.update(trials, 300.0)
        live.update(trials, 300.0)
        trials[1] = _trial("0001", 0.7, end="stopped", reason="rung 1: not in the best third")
        trials[2] = _trial("0002", end="failed", cause="memory", error="out of memory [/b]", lr=0.003)
        clock[0] = 29.0
        live.update(trials, 400.0, 0.05)
        clock[0] = 31.0
        live.update(trials, 400.0, 0.05, busy=2, devices=8)
        live.update(trials, 400.0, 0.05)
    assert file.getvalue().splitlines() == [
        "trial 0000 finished after epoch 2: cnn, lr 0.001, auroc 0.9000, 0.056 device-hours",
        "trial 0001 stopped after epoch 1: cnn, lr 0.001, auroc 0.7000, 0.028 device-hours (rung 1: not in the best third)",
        "trial 0002 failed after epoch 0: cnn, lr 0.003, 0.000 device-hours (memory: out of memory [/b])",
        (
            "pneumonia: 3 of 20 trials done (1 failed), 0 running, 17 waiting; best auroc 0.9000 (cnn, trial 0000);"
            " 0.11 of 6.00 device-hours, 0.05 of 4.00 money, 2 of 8 devices busy, about 7 min left"
        ),
    ]


def test_what_an_earlier_process_ended_is_counted_and_not_told_again(trials: list[Trial]) -> None:
    console, file = _quiet()
    clock = [0.0]
    with Live(searches.recipe(), console=console, now=lambda: clock[0]) as live:
        live.update(trials[:10], 1000.0)
        clock[0] = 31.0
        live.update(trials[:10], 1000.0)
    (line,) = file.getvalue().splitlines()
    assert line.startswith("pneumonia: 10 of 20 trials done (1 failed), 0 running, 10 waiting")
    assert line.endswith("time left unknown yet")


@pytest.mark.parametrize("height", [12, 20, 40])
def test_table_fits_the_terminal_best_first(trials: list[Trial], height: int) -> None:
    console, _ = _screen(height)
    live = Live(searches.recipe(), console=console)
    table = live._table(trials, live._summary(trials, 3600.0, 0.5, 0, 0))
    lines = console.render_lines(table, pad=False)
    assert len(lines) < height
    text = ["".join(segment.text for segment in line).rstrip() for line in lines]
    rows = [line.split() for line in text if line[:4].isdigit()]
    assert len(rows) == min(20, height - AROUND_ROWS)
    scores = [float(row[4]) for row in rows if "." in row[4] and row[7] != "failed"]
    assert scores == sorted(scores, reverse=True)
    assert rows[0][:4] == ["0013", "densenet", "0.0012", "9/9"]
    assert text[0].startswith("pneumonia: 20 of 20 trials done (2 failed), 0 running, 0 waiting")
    assert text[1] == f"best auroc {scores[0]:.4f} (densenet, trial 0013)"
    assert (text[-1] == f"and {20 - len(rows)} more") == (len(rows) < 20)


def test_on_a_terminal_failures_stay_as_lines_above_the_table() -> None:
    console, file = _screen(20)
    with Live(searches.recipe(), console=console, now=lambda: 0.0) as live:
        live.update([], 0.0)
        live.update([_trial("0000", 0.9, end="finished"), _trial("0001", end="failed", cause="error", error="ValueError: x")], 100.0)
    assert file.getvalue().count("trial 0001 failed after epoch 0: cnn, lr 0.001, 0.000 device-hours (error: ValueError: x)") == 1
    assert "trial 0000 finished" not in file.getvalue()
    assert "2 of 20 trials done (1 failed)" in file.getvalue(), "drawn at the end, since the last update came too soon after the first"


def test_time_left_follows_the_limit_that_ends_the_search_first() -> None:
    clock = [0.0]
    recipe = searches.recipe(trials=20, device_hours=1.0, money=0.0, hours=2.0, scheduler="median")
    live = Live(recipe, console=_quiet()[0], now=lambda: clock[0], usual_epochs=3)
    live.update([], 0.0)
    clock[0] = 600.0
    running = [_trial("0000", 0.5, 0.6), _trial("0001", 0.5)]
    assert live._left([_trial("0000")], 1800.0, 0.0) is None  # nothing was validated
    assert live._left(running, 1800.0, 0.0) == pytest.approx(600.0)  # half of the device-hours in ten minutes
    assert live._left(running, 10.0, 0.0) == pytest.approx(6600.0)  # by epochs 600 / 3 * (1 + 2 + 18 * 3), more than its hours allow
    assert live._epochs_to_come([_trial("0000", *[0.5] * 4)]) == 5 + 19 * 3  # it came further than the mean one: to the end
    ended = [_trial(f"{k:04d}", *[0.5] * 4, end="stopped", reason="") for k in range(15)]
    assert live._left(ended, 1800.0, 0.0) == pytest.approx(200.0)  # 5 more of 4 epochs each, at 60 epochs in ten minutes


def test_under_asha_the_time_left_is_that_of_its_rungs_and_paused_trials_are_counted_apart() -> None:
    clock = [0.0]
    live = Live(searches.recipe(trials=9, device_hours=0.0, money=0.0, grace=1), console=_quiet()[0], now=lambda: clock[0])
    live.update([], 0.0)
    clock[0] = 60.0
    paused = _trial("0000", 0.5)
    paused.events.append(Event("0000", "paused"))
    trials = [paused, _trial("0001", 0.6), _trial("0002", 0.4, end="stopped", reason="")]
    assert live._left(trials, 300.0, 0.0) == pytest.approx(60 / 3 * (6 * 1 + 3 * 2 + 1 * 6))
    assert live._summary(trials, 300.0, 0.0, 1, 2)[0] == "pneumonia: 1 of 9 trials done, 1 running, 1 paused, 6 waiting"
    assert live._epochs_to_come([_trial(f"{k:04d}", 0.5) for k in range(9)]) == 12


def test_lower_is_better_for_a_loss() -> None:
    recipe = searches.recipe() | {"task": {"kind": "classification", "select": "loss"}}
    console, _ = _quiet()
    live = Live(recipe, console=console)
    _, best, _ = live._summary([_trial("0000", 0.9), _trial("0001", 0.4)], 0.0, 0.0, 0, 0)
    assert best == "best loss 0.4000 (cnn, trial 0001)"
