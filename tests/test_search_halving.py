"""ASHA's arithmetic without Ray: in whatever order trials come, those that go on are the best, and no epoch is trained for others."""

from __future__ import annotations

import heapq
import itertools
import random

import pytest

from hepdist.recipe import load_recipe
from hepdist.search.halving import Halving, epochs_to_come, rung_epochs, sizes
from hepdist.search.record import Event, Trial


def drive(halving: Halving, curves: dict[str, list[float]], seconds: dict[str, float], places: int, *, fill: bool = False) -> int:
    """Train trials of known curves in so many places, new ones first, as `Promotion` does; returns the epochs trained.

    seconds: of an epoch, by trial; fill: places that would stay empty take the best so far.
    """
    new, paused, running, trained, last = list(curves), set(), [], 0, len(next(iter(curves.values())))

    def begin(name: str, now: float, epoch: int) -> None:
        heapq.heappush(running, (now + seconds[name], name, epoch))

    def give(now: float) -> None:
        while len(running) < places:
            rungs = halving.rungs()
            on = [name for name in paused if halving.verdict(name, rungs) == "goes on"]
            chosen = new.pop(0) if new else min(on, key=lambda name: halving.order(name, rungs)) if on else None
            chosen = chosen or (halving.go_early(paused, rungs) if fill else None)
            if chosen is None:
                return
            paused.discard(chosen)
            begin(chosen, now, max(halving.scores.get(chosen, {0: 0})) + 1)

    give(0.0)
    while running:
        now, name, epoch = heapq.heappop(running)
        trained += 1
        halving.hear(name, epoch, curves[name][epoch - 1])
        if epoch == last:
            halving.end(name)
        elif halving.verdict(name, halving.rungs()) == "goes on":
            begin(name, now, epoch + 1)
        else:
            paused.add(name)
        give(now)
    rungs = halving.rungs()
    assert all(halving.verdict(name, rungs) == "is out" for name in paused), "somebody waits for ever"
    return trained


def curves_of(trials: int, epochs: int, rng: random.Random) -> dict[str, list[float]]:
    """Noisy scores that rise; names in the order of proposals."""
    found = {}
    for number in range(trials):
        good = rng.random()
        found[f"{number:04d}"] = [good - 0.5 / epoch + rng.gauss(0, 0.1) for epoch in range(1, epochs + 1)]
    return found


def halved(curves: dict[str, list[float]], rungs: list[int], reduction: int) -> list[set[str]]:
    """Successive halving as Jamieson & Talwalkar (2016) have it: who comes to each rung."""
    found = [set(curves)]
    for epoch in rungs[:-1]:
        best = sorted(found[-1], key=lambda name: (-curves[name][epoch - 1], name))
        found.append(set(best[: max(1, len(best) // reduction)]))
    return found


@pytest.mark.parametrize("places", [1, 2, 5, 27])
@pytest.mark.parametrize("trials", [1, 2, 9, 14, 27])
def test_in_any_order_those_go_on_that_successive_halving_picks(trials: int, places: int) -> None:
    rungs, rng = [3, 9, 27], random.Random(trials)
    curves = curves_of(trials, 27, rng)
    expected = halved(curves, rungs, 3)
    for _ in range(5):
        halving = Halving(rungs, 3, True, trials)
        trained = drive(halving, curves, {name: rng.choice([1.0, 2.0, 10.0]) for name in curves}, places)
        came = [{name for name in curves if max(halving.scores[name]) >= rung} for rung in rungs]
        assert came == expected
        assert trained == sum(len(who) * (rung - before) for who, rung, before in zip(came, rungs, [0, *rungs], strict=False))
        assert [len(who) for who in came] == sizes(trials, 3, 3)


def test_places_that_would_stay_empty_take_the_best_so_far_and_the_best_still_go_on() -> None:
    rungs, early = [1, 3, 9], 0
    for seed in range(10):
        rng = random.Random(seed)
        curves = curves_of(30, 9, rng)
        halving = Halving(rungs, 3, True, 30)
        drive(halving, curves, {name: rng.choice([1.0, 30.0]) for name in curves}, 30, fill=True)
        went, best = {name for name in curves if max(halving.scores[name]) > 1}, halved(curves, rungs, 3)[1]
        assert went >= best
        early += len(went - best)
    assert 0 < early < 50, "the slow ones came in time, or more went on early than by right"


def test_the_papers_rule_lets_the_best_third_of_those_that_have_come_go_on() -> None:
    halving = Halving([1, 3, 9], 3, True, 100)
    for number, score in enumerate([0.1, 0.5, 0.3, 0.9, 0.2, 0.8]):
        halving.hear(f"{number}", 1, score)
    assert halving.go_early({"0", "1", "2"}, halving.rungs()) is None, "the two best are not among those that wait"
    everybody = {"0", "1", "2", "3", "4", "5"}
    assert [halving.go_early(everybody, halving.rungs()) for _ in range(3)] == ["3", "5", None]
    assert halving.verdict("3", halving.rungs()) == "goes on" and halving.verdict("1", halving.rungs()) == "waits"
    halving.hear("3", 3, 0.9)
    for number in range(6, 12):
        halving.hear(f"{number}", 1, 1.0)
    rungs = halving.rungs()
    assert halving.go_early(everybody - {"3"}, rungs) is None, "of the four best of twelve none waits"
    assert halving.verdict("5", rungs) == "goes on", "it has begun already"


def test_a_trial_is_judged_by_where_it_stands_and_a_loss_by_the_least() -> None:
    nan = float("nan")
    for higher, scores in (
        (True, {"a": [0.9, 0.5], "b": [0.5, 0.6], "c": [0.9, nan]}),
        (False, {"a": [0.1, 0.5], "b": [0.5, 0.4], "c": [0.1, nan]}),
    ):
        halving = Halving([2, 6], 3, higher, 3)
        for name, epoch in itertools.product("abc", (1, 2)):
            halving.hear(name, epoch, scores[name][epoch - 1])
        rungs = halving.rungs()
        assert [halving.verdict(name, rungs) for name in "abc"] == ["is out", "goes on", "is out"]
        assert halving.reason("a", rungs) == "ASHA: it was 2nd of the 3 that had come to epoch 2; the best 1 of 3 go on"


def test_trials_that_fail_or_end_by_themselves_keep_nobody_waiting() -> None:
    halving = Halving([1, 3, 9], 3, True, 9)
    for number in range(8):
        halving.hear(f"{number}", 1, number / 10)
    assert [halving.verdict(f"{n}", halving.rungs()) for n in (7, 6, 5, 4)] == ["goes on", "goes on", "waits", "is out"]
    halving.end("8", failed=True)  # before its first result
    assert halving.verdict("5", halving.rungs()) == "goes on"
    halving.hear("7", 3, 0.7)
    halving.hear("6", 2, 0.9)
    halving.end("6")  # patience: it counts with what it has
    assert halving.verdict("7", halving.rungs()) == "is out"
    halving.hear("5", 3, 0.1)
    assert halving.verdict("5", halving.rungs()) == "is out"


def test_a_trial_that_fails_on_its_way_to_a_rung_takes_nobodys_place_there() -> None:
    halving = Halving([3, 9], 3, True, 3)
    for name, score in (("a", 0.9), ("b", 0.5), ("c", 0.4)):
        halving.hear(name, 2, score)
    halving.end("a", failed=True)
    for name in "bc":
        halving.hear(name, 3, 0.5 if name == "b" else 0.4)
    assert [halving.verdict(name, halving.rungs()) for name in "bc"] == ["goes on", "is out"]
    halving.back("a")
    assert halving.verdict("b", halving.rungs()) == "waits"


def test_what_is_on_record_is_taken_up_where_it_was() -> None:
    def on_record(name: str, *scores: float, end: str = "") -> Trial:
        events = [Event(name, "result", facts={"epoch": k, "score": score}) for k, score in enumerate(scores, 1)]
        return Trial(name, {}, events + ([Event(name, end)] if end else []))  # type: ignore[list-item]

    halving = Halving([1, 3, 9], 3, True, 3)
    halving.read([on_record("0", 0.4, 0.5), on_record("1", 0.6, end="failed"), on_record("2", 0.2, end="stopped")])
    rungs = halving.rungs()
    assert (halving.verdict("0", rungs), halving.verdict("2", rungs)) == ("goes on", "is out")
    halving.plan(9)
    assert halving.verdict("2", halving.rungs()) == "waits", "a search of more trials may let it go on"


@pytest.mark.parametrize(
    ("overrides", "rungs"),
    [
        (["train.epochs=27"], [3, 9, 27]),
        (["train.epochs=27", "search.grace=1"], [1, 3, 9, 27]),
        (["train.epochs=27", "search.grace=40"], [27]),
        (["train.epochs=45", "train.validate_every=3"], [6, 18, 45]),
        (["train.epochs=45", "train.validate_every=3", "search.grace=1"], [3, 9, 27, 45]),
        (["train.epochs=50", "optim.warmup=0.1", "search.reduction=4"], [5, 20, 50]),
        (["train.epochs=10", "optim.warmup=0.5"], [5, 10]),
        (["train.epochs=1"], [1]),
    ],
)
def test_the_first_rung_comes_after_the_warm_up(overrides: list[str], rungs: list[int]) -> None:
    recipe = load_recipe("pneumonia-resnet", ["search={}", "optim.warmup=0.05", *overrides])
    assert rung_epochs(recipe.search, recipe.train, recipe.optim) == rungs


def test_epochs_to_come_are_those_of_trials_that_have_not_come() -> None:
    assert epochs_to_come([], [3, 9, 27], 3, 27) == 27 * 3 + 9 * 6 + 3 * 18
    assert epochs_to_come([(3.0, False)] * 27, [3, 9, 27], 3, 27) == 9 * 6 + 3 * 18
    assert epochs_to_come([(3.0, False)] * 26 + [(1.0, True)], [3, 9, 27], 3, 27) == 9 * 6 + 3 * 18
    assert epochs_to_come([(3.0, False)] * 26 + [(12.0, False)], [3, 9, 27], 3, 27) == 8 * 6 + 2 * 18 + 15
