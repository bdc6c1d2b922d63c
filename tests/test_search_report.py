"""search.html says what the record says, for any state of a search, holds all it needs and gives nothing away."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import searches
import yaml

from hepdist.search.importance import FEWEST, importances
from hepdist.search.outcome import lines
from hepdist.search.parallel import axis_of
from hepdist.search.plots import best_so_far
from hepdist.search.record import Event, Trial, note, read_trials, suggest
from hepdist.search.report import write_report
from hepdist.search.report_tables import without_folders
from hepdist.search.standing import leader, overhead, pareto_front, ranked, rungs_reached, state

VOID = {"meta", "br", "link", "img", "hr", "input"}
TEST_BLOCK = {"n": 624, "patients": 621, "auroc": 0.957, "auroc_ci": [0.941, 0.971]}
ENSEMBLE = {"members": ["0001-seed0", "0009-seed2"], "test": {"auroc": 0.962, "auroc_ci": [0.948, 0.975]}}


class Page(HTMLParser):
    """What a page holds: its elements, its words, and the cells of the leaderboard; every element has to be closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(self.source)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing, near {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def board(self) -> list[list[str]]:
        """Rows of the leaderboard as a person reads them."""
        body = self.source.partition('id="board"')[2].partition("<tbody>")[2].partition("</tbody>")[0]
        rows = re.findall(r"<tr.*?</tr>", body, flags=re.DOTALL)
        return [[re.sub(r"<[^>]+>", "", c).strip() for c in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row)] for row in rows]

    @property
    def plots(self) -> list[str]:
        return [attrs["aria-label"] or "" for tag, attrs in self.elements if tag == "svg"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Page]:
    """A search of two objectives that ended, was confirmed and scored on test."""
    folder = searches.write_search(tmp_path_factory.mktemp("surname-of-a-patient") / "pneumonia", objectives=["quality", "parameters"])
    confirmed = [{"trial": t, "seed": s, "score": score} for t, score in (("0001", 0.965), ("0009", 0.961)) for s in (0, 1, 2)]
    (folder / "search.json").write_text(
        json.dumps({"winner": {"trial": "0001"}, "confirmed": confirmed, "test": TEST_BLOCK, "ensemble": ENSEMBLE})
    )
    (folder / "best.yaml").write_text("name: pneumonia-best\n")
    path = write_report(folder)
    assert path == folder / "search.html"
    return folder, Page(path)


def test_page_needs_and_tells_nothing_outside_itself(done: tuple[Path, Page]) -> None:
    _, page = done
    assert not [a for _, a in page.elements if any(k in ("src", "srcset", "data", "poster") for k in a)]
    assert all((a.get("href") or "#").startswith("#") for _, a in page.elements)
    assert "http" not in page.source.replace("http-equiv", "")
    for secret in ("surname-of-a-patient", "/secret/folder", "10.0.0."):
        assert secret not in page.source
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))


def test_everything_that_trials_said_is_escaped(done: tuple[Path, Page]) -> None:
    _, page = done
    assert page.source.count("<script>") == 1
    assert "&lt;script&gt;alert" in page.source
    assert "torch.OutOfMemoryError: out of memory &lt;b&gt;&amp;" in page.source


def test_head_says_who_won_and_what_test_says(done: tuple[Path, Page]) -> None:
    folder, page = done
    winner = read_trials(folder)[1]
    best = max(event.facts["score"] for event in winner.results)
    lead = (
        f"Of 20 trials of 3 families, 0001 won: a densenet with a learning rate of {winner.config['optim.lr']:.3g} reached a validation AUROC"
        f" of {best:.3f} after 9 epochs. The best 2 were trained from scratch with 3 seeds each, and validation decided. On the test split,"
        " which nothing before had touched, it has AUROC 0.957 (0.941 to 0.971). The mean prediction of 2 confirmed models has 0.962"
        " (0.948 to 0.975)."
    )
    assert lead in page.text
    assert "Cohort pneumonia · 20 trials of 20 planned" in page.text
    assert "hepdist train searches/pneumonia/best.yaml" in page.text and "tensorboard --logdir searches/pneumonia" in page.text
    assert "2 trials of 20 failed" in page.text and "The search is not over" not in page.text
    hours = sum(trial.device_s for trial in read_trials(folder)) / 3600
    assert f"Device-hours {hours:.2f} of 6.00 allowed" in page.text


def test_leaderboard_has_every_trial_once_best_first_and_failed_ones_last(done: tuple[Path, Page]) -> None:
    folder, page = done
    trials = read_trials(folder)
    rows = page.board
    assert sorted(row[1].split()[0] for row in rows) == [trial.id for trial in trials]
    assert [row[1].split()[0] for row in rows] == [trial.id for trial in ranked(trials, True)]
    scores = [float(row[4]) for row in rows if row[7] != "failed"]
    assert len(scores) == 18 and scores == sorted(scores, reverse=True)
    assert [row[7] for row in rows[-2:]] == ["failed", "failed"]
    by_id = {row[1].split()[0]: row for row in rows}
    assert by_id["0013"][3] == "0.0012", "the learning rate that population based training gave it"
    assert f"growth {trials[1].config['model.growth']}" in re.sub(r"\s+", " ", by_id["0001"][8])
    front = {trial.id for trial in pareto_front(trials, ("quality", "parameters"), True)}
    assert {row[1].split()[0] for row in rows if "◆" in row[1]} == front


def test_page_tells_what_was_stopped_what_failed_and_what_it_cost(done: tuple[Path, Page]) -> None:
    folder, page = done
    for trial in read_trials(folder):
        if trial.end and trial.end.kind == "stopped":
            assert trial.end.facts["reason"] in page.text
    assert "out of memory torch.OutOfMemoryError" in page.text and "loss or gradient not finite loss is nan at step 40" in page.text
    assert len([1 for tag, _ in page.elements if tag == "details"]) == 2
    assert re.search(r"0013 0010 \(epoch 3\) lr 0\.\d+ → 0\.0012 Failures", page.text)
    before, whole = overhead(read_trials(folder))
    assert f"{100 * before / whole:.0f} % of it went by before a first step" in page.text
    kinds = [label.split(":")[0].split(" over")[0].split(" of")[0] for label in page.plots]
    assert kinds[:3] == ["Best validation AUROC so far", "Validation AUROC", "Best validation AUROC"]
    assert kinds.count("Parallel coordinates") == 4
    assert kinds[-1] == "Importance"
    assert f"6 trials of cnn have a score; from {FEWEST} on it can be said" in page.text


def test_unfinished_search_says_so_and_leads(tmp_path: Path) -> None:
    folder = searches.write_search(tmp_path / "pneumonia", trials=9, finished=False)
    page = Page(write_report(folder))
    open_ones = [trial for trial in read_trials(folder) if not trial.end]
    assert len(open_ones) == 3 and {state(trial) for trial in open_ones} == {"running", "waiting"}
    assert "The search is not over: 14 trials of 20 had not ended" in page.text
    assert "leads so far" in page.text and "The test split has not been touched." in page.text
    assert "hepdist tune searches/pneumonia/recipe.yaml" in page.text


def test_search_that_a_limit_ended_is_over_with_fewer_trials(tmp_path: Path) -> None:
    folder = searches.write_search(tmp_path / "pneumonia", trials=9, device_hours=1.0)
    assert sum(trial.device_s for trial in read_trials(folder)) > 3600
    page = Page(write_report(folder))
    assert "The search is not over" not in page.text and " won: a" in page.text
    (folder / "recipe.yaml").write_text(yaml.safe_dump(searches.recipe(device_hours=6.0)))
    assert "The search is not over" in Page(write_report(folder)).text


def test_search_without_a_result_and_one_without_a_trial(tmp_path: Path) -> None:
    assert "Nothing has been tried yet." in Page(write_report(tmp_path)).text
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(searches.recipe()))
    suggest(tmp_path, "0000", {"model.family": "cnn"})
    note(tmp_path, Event("0000", "started"))
    page = Page(write_report(tmp_path))
    assert "Of 1 trial none has a result yet." in page.text
    assert page.plots == []


def test_search_in_which_all_failed_tells_the_commonest_error(tmp_path: Path) -> None:
    for number in range(4):
        suggest(tmp_path, f"{number:04d}", {"model.family": "cnn", "optim.lr": 1e-3})
        error = "ValueError: /home/of/someone/data.bin is empty" if number else "KeyError: 'x'"
        note(tmp_path, Event(f"{number:04d}", "failed", 7.0, facts={"cause": "error", "error": error, "story": ""}))
    page = Page(write_report(tmp_path))
    assert "All 4 trials failed; the commonest error, 3 times: ValueError: …/data.bin is empty" in page.text
    assert "someone" not in page.source


def test_single_family_with_scores_that_are_not_finite(tmp_path: Path) -> None:
    for number in range(3):
        suggest(tmp_path, f"{number:04d}", {"optim.lr": 10.0**-number, "note": "$x_1$ <i>"})
        score = float("nan") if number == 0 else 0.5 + number / 10
        note(tmp_path, Event(f"{number:04d}", "result", 7.0, facts={"epoch": 1, "score": score, "scores": {}, "lr": 1.0}))
        note(tmp_path, Event(f"{number:04d}", "finished", 7.0))
    trials = read_trials(tmp_path)
    assert [trial.id for trial in ranked(trials, True)] == ["0002", "0001", "0000"]
    assert [trial.id for trial in ranked(trials, False)] == ["0001", "0002", "0000"]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(searches.recipe()))
    page = Page(write_report(tmp_path))
    assert [row[2] for row in page.board] == ["resnet"] * 3, "the recipe's own family, which this search does not vary"
    assert [row[4] for row in page.board] == ["0.7000", "0.6000", "–"]
    assert "$x_1$ &lt;i&gt;" in page.source


def test_columns_are_sorted_by_what_they_hold(done: tuple[Path, Page]) -> None:
    _, page = done
    body = page.source.partition('id="board"')[2].partition("<tbody>")[2].partition("</tbody>")[0]
    for row in re.findall(r"<tr.*?</tr>", body, flags=re.DOTALL):
        assert row.count("data-sort=") == 8
    buttons = page.source.partition('id="board"')[2].partition("</thead>")[0].count("<button")
    assert buttons == 8


def _known(function: Callable[[dict], float], trials: int, seed: int = 0) -> list[Trial]:
    """Trials of two families with a score that is a known function of their configuration."""
    rng, made = np.random.default_rng(seed), []
    for number in range(trials):
        config = {
            "model.family": ("resnet", "cnn")[number % 2],
            "optim.lr": float(10 ** rng.uniform(-4, -2)),
            "model.norm": str(rng.choice(["a", "b"])),
        }
        config |= {"model.depth": int(rng.integers(2, 6))} if number % 2 else {"model.width": int(rng.integers(16, 64))}
        facts = {"epoch": 1, "score": float(function(config))}
        made.append(Trial(f"{number:04d}", config, [Event(f"{number:04d}", "result", facts=facts)]))
    return made


def test_learning_rate_matters_alone_where_the_score_depends_on_it_alone() -> None:
    found = importances(_known(lambda c: np.log10(c["optim.lr"]), 40), True)
    assert [one.family for one in found] == ["", "cnn", "resnet"]
    for one in found:
        assert one.rows is not None
        first, *others = one.rows
        assert first.key == "optim.lr" and first.low > 0.1
        assert all(row.low <= 0 and row.value < 0.2 * first.value for row in others)
    names = {row.key for row in found[0].rows or ()}
    assert names == {"optim.lr", "model.family", "cnn.depth", "cnn.norm", "resnet.norm", "resnet.width"}
    assert {row.key for row in found[1].rows or ()} == {"optim.lr", "model.depth", "model.norm"}


def test_conditional_parameter_matters_where_only_its_family_depends_on_it() -> None:
    found = importances(_known(lambda c: c.get("model.depth", 3.5), 40), True)
    assert found[0].rows is not None and found[0].rows[0].key == "cnn.depth"
    assert found[0].rows[0].low > 0.1
    assert found[2].rows is None and found[2].sentence == "The scores of the 20 trials of resnet are all the same."


def test_too_few_trials_say_nothing_and_from_when_on_they_will() -> None:
    (found, *_) = importances(_known(lambda c: c["optim.lr"], FEWEST - 1), True)
    assert found.rows is None and found.sentence == "9 trials have a score; from 10 on it can be said which parameters matter."
    enough = [importances(_known(lambda c: c["optim.lr"], FEWEST), True)[0] for _ in range(2)]
    assert enough[0].rows is not None and enough[0] == enough[1]
    assert importances([], True)[0].sentence == "0 trials have a score; from 10 on it can be said which parameters matter."


def test_quality_over_cost_counts_what_all_trials_have_cost_until_then() -> None:
    first = Trial(
        "a",
        {},
        [Event("a", "result", 3600.0, time=1.0, facts={"score": 0.5}), Event("a", "result", 7200.0, time=3.0, facts={"score": 0.9})],
    )
    second = Trial("b", {}, [Event("b", "result", 3600.0, time=2.0, facts={"score": 0.7}), Event("b", "failed", 10800.0, time=4.0)])
    assert best_so_far([first, second], True) == ([1.0, 2.0, 3.0, 5.0], [0.5, 0.7, 0.9, 0.9])
    assert best_so_far([first, second], False) == ([1.0, 5.0], [0.5, 0.5])


def test_overhead_counts_each_attempt_once() -> None:
    def event(kind: str, time: float, **facts: object) -> Event:
        return Event("a", kind, time=time, facts=facts)  # type: ignore[arg-type]

    trial = Trial("a", {}, [
        event("started", 0.0), event("result", 30.0, epoch=1, score=0.1, overhead_s=10.0), event("result", 50.0, epoch=2, score=0.1, overhead_s=10.0),
        event("interrupted", 60.0), event("started", 100.0), event("result", 130.0, epoch=3, score=0.1, overhead_s=5.0), event("finished", 140.0),
        event("started", 200.0), event("failed", 220.0),
    ])  # fmt: skip
    assert overhead([trial]) == (15.0, 100.0)
    waited = [event("started", 0.0), event("result", 30.0, epoch=1, score=0.1, overhead_s=10.0), event("paused", 31.0)]
    assert overhead([Trial("b", {}, [*waited, event("stopped", 900.0)])]) == (10.0, 31.0)


def test_pareto_front_is_what_nobody_beats() -> None:
    def trial(name: str, score: float, parameters: float, end: str = "finished") -> Trial:
        return Trial(
            name, {}, [Event(name, "result", facts={"epoch": 1, "score": score, "cost": {"parameters": parameters}}), Event(name, end)]
        )  # type: ignore[arg-type]

    trials = [
        trial("a", 0.9, 100),
        trial("b", 0.8, 10),
        trial("c", 0.8, 20),
        trial("d", 0.95, 100),
        trial("e", 0.99, 1, "failed"),
        trial("f", 0.8, 10),
    ]
    assert [t.id for t in pareto_front(trials, ("quality", "parameters"), True)] == ["b", "d", "f"]
    assert leader(trials, True) is trials[3]


def test_rungs_of_asha() -> None:
    def trial(validations: int) -> Trial:
        return Trial("a", {}, [Event("a", "result", facts={"epoch": epoch, "score": 0.0}) for epoch in range(1, validations + 1)])

    assert [rungs_reached(trial(n), [1, 3, 9]) for n in (0, 1, 2, 3, 8, 9)] == [0, 1, 1, 2, 2, 3]


def test_axis_is_logarithmic_over_a_decade_and_even_for_names() -> None:
    def trials(*values: object) -> list[Trial]:
        return [Trial(str(k), {"x": value}) for k, value in enumerate(values)]

    rates = axis_of("x", trials(1e-4, 1e-3, 1e-2))
    assert rates is not None and list(rates.places.values()) == pytest.approx([0, 0.5, 1])
    shares = axis_of("x", trials(0.1, 0.2, 0.5))
    assert shares is not None and list(shares.places.values()) == pytest.approx([0, 0.25, 1])
    names = axis_of("x", trials("b", "a", [4, 4], None))
    assert names is not None and names.ticks == [(0, "[4,4]"), (1 / 3, "a"), (2 / 3, "b"), (1, "none")]
    assert axis_of("x", trials(3, 3)) is None


def test_of_absolute_folders_the_last_name_is_left() -> None:
    told = 'File "/home/someone/venv/lib/torch/nn.py", line 3; s3://bucket/runs stays, and/or too'
    assert without_folders(told) == 'File "…/nn.py", line 3; s3://bucket/runs stays, and/or too'


def test_a_search_judged_by_loss_tells_the_usual_score_of_its_test(tmp_path: Path) -> None:
    folder = searches.write_search(tmp_path / "s")
    recipe = searches.recipe()
    recipe["task"]["select"] = "loss"
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    winner = {"trial": "0001", "run": "confirmed/trials/0001-seed0", "config": {"model.family": "densenet", "optim.lr": 0.002}}
    (folder / "search.json").write_text(json.dumps({"metric": "loss", "winner": winner, "confirmed": [], "test": TEST_BLOCK}))
    assert "winner: trial 0001, densenet, lr 0.002; test auroc 0.957 [0.941, 0.971]" in list(lines(folder))
    assert "On the test split, which nothing before had touched, it has AUROC 0.957 (0.941 to 0.971)." in Page(write_report(folder)).text
