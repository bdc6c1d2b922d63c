"""search.html: one page about a search that needs nothing from outside itself, for a finished one as for one that still runs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from hepdist.evaluation import drawing
from hepdist.evaluation.provenance import shown_path, versions
from hepdist.evaluation.wording import MEANINGS, MOST_TILES, counted, number, span
from hepdist.search import plots
from hepdist.search.importance import importances
from hepdist.search.parallel import parallel_plots
from hepdist.search.record import Trial, read_trials
from hepdist.search.report_tables import costs, exploits, failures, leaderboard, stops, without_folders
from hepdist.search.spec import SearchSpec
from hepdist.search.standing import (
    FAMILY,
    best_score,
    clock,
    epochs_done,
    hours,
    leader,
    metric_of,
    metric_on_test,
    overhead,
    pareto_front,
    rate_of,
    read_recipe,
    shown,
    state,
    usable,
    value_in,
)

PAGE, OUTCOME = "search.html", "search.json"
EDGE = 0.05
"""Share of the tried range of learning rates, on a logarithmic scale, that counts as its end."""


@dataclass(frozen=True)
class Search:
    """What a search's folder says."""

    name: str
    recipe: dict[str, Any]
    spec: SearchSpec
    trials: list[Trial]
    outcome: dict[str, Any]
    """search.json, written at the end; empty before. `winner` {trial}, `confirmed` [{trial, seed, score}, ...], `test`: the winner's block
    as in result.json, `ensemble` {members, test: a block}; whatever is missing is not shown."""
    metric: str
    higher_is_better: bool

    @property
    def winner(self) -> Trial | None:
        """The confirmed one, else the best by validation so far."""
        named = self.outcome.get("winner", {}).get("trial")
        return next((trial for trial in self.trials if trial.id == named), leader(self.trials, self.higher_is_better))

    @property
    def over(self) -> bool:
        """Whether it was confirmed, or all trials have ended that the limits allowed."""
        if self.outcome or not all(trial.end for trial in self.trials):
            return bool(self.outcome)
        spec = self.spec
        limits = (
            (len(self.trials), spec.trials),
            (self.device_s / 3600, spec.device_hours),
            (self.money, spec.money),
            (self._hours, spec.hours),
        )
        return any(limit and spent >= limit for spent, limit in limits)

    @property
    def _hours(self) -> float:
        times = [event.time for trial in self.trials for event in trial.events]
        return (max(times) - min(times)) / 3600 if times else 0.0

    @property
    def device_s(self) -> float:
        return sum(trial.device_s for trial in self.trials)

    @property
    def money(self) -> float:
        return sum(trial.money for trial in self.trials)

    @property
    def title(self) -> str:
        """The metric as people write it."""
        return MEANINGS[self.metric].title if self.metric in MEANINGS else self.metric


def read_search(folder: Path) -> Search:
    recipe = read_recipe(folder)
    path = folder / OUTCOME
    outcome = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    metric, higher_is_better = metric_of(recipe)
    spec = SearchSpec(**recipe.get("search", {}))
    own = value_in(recipe, FAMILY)  # of all trials, where the search does not vary it
    trials = [replace(trial, config={FAMILY: own} | trial.config) if own else trial for trial in read_trials(folder)]
    return Search(str(recipe.get("name", folder.name)), recipe, spec, trials, outcome, metric, higher_is_better)


def write_report(folder: Path) -> Path:
    """Write searches/NAME/search.html and return its path; can be called at any time, also while the search runs.

    Of absolute folders only the last name is shown, in tracebacks too, since the rest may name people.
    """
    search = read_search(folder)
    winner, trials = search.winner, search.trials
    sha256 = folder / "cohort.sha256"
    before, whole = overhead(trials)
    page = _environment().get_template(PAGE).render(
        search=search, spec=search.spec, winner=winner, kind=value_in(search.recipe, "task.kind") or "",
        cohort=shown_path(str(value_in(search.recipe, "data.cohort") or "")), cohort_sha256=sha256.read_text().strip() if sha256.is_file() else "",
        lead=_lead(search), tiles=_tiles(search), cautions=_cautions(search), about=_about(search),
        rows=leaderboard(search.trials, search.recipe, search.higher_is_better, _front(search)),
        several=len(search.spec.objectives) > 1, confirmed=_confirmed(search),
        progress=_progress(search), parallels=parallel_plots(trials, search.title, search.higher_is_better), importance=_importance(search), tradeoffs=_tradeoffs(search),
        stops=stops(trials, search.higher_is_better), exploits=exploits(trials), failures=failures(trials),
        costs=costs(trials), overhead=f"{100 * before / whole:.0f} %" if whole > 0 else "", commands=_commands(folder, search),
        versions=versions(), number=number, hours=hours,
    )  # fmt: skip
    path, part = folder / PAGE, folder / f".{PAGE}.part"
    part.write_text(page, encoding="utf-8")
    part.rename(path)
    return path


def _environment() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader([Path(__file__).parent, Path(drawing.__file__).parent])  # the second has page.css
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def _lead(search: Search) -> str:
    """The result in words, for who reads no further."""
    trials, winner = search.trials, search.winner
    if not trials:
        return "Nothing has been tried yet."
    families = len({trial.family for trial in trials})
    among = f"Of {counted(len(trials), 'trial')}" + (f" of {families} families" if families > 1 else "")
    if winner is None:
        failed = [trial.end.facts for trial in trials if trial.end and trial.end.kind == "failed"]
        if len(failed) < len(trials):
            return f"{among} none has a result yet."
        error, times = Counter(str(facts.get("error", "")) for facts in failed).most_common(1)[0]
        return f"All {counted(len(trials), 'trial')} failed; the commonest error, {times} times: {without_folders(error)}"
    rate = rate_of(winner, search.recipe)
    article = "an" if winner.family[0] in "aeio" else "a"  # a unet
    what = f"{article} {winner.family}" + (f" with a learning rate of {shown(rate)}" if rate is not None else "")
    score = best_score(winner, search.higher_is_better)
    text = f"{among}, {winner.id} {'won' if search.over else 'leads so far'}: {what}"
    text += f" reached a validation {search.title} of {number(score)} after {counted(int(epochs_done(winner)), 'epoch')}."
    confirmed = search.outcome.get("confirmed", [])
    if confirmed:
        several = len({c["trial"] for c in confirmed})
        if several > 1:
            text += f" The best {several} were trained from scratch with {_seeds(confirmed)} each, and validation decided."
        else:
            again = f"with {_seeds(confirmed)}, of which validation took the best" if len(confirmed) > 1 else "once more"
            text += f" It was trained from scratch {again}."
    if test := _test(search):
        text += f" On the test split, which nothing before had touched, it has {test[0]} {test[1]}" + (f" ({test[2]})." if test[2] else ".")
    ensemble = search.outcome.get("ensemble", {})
    if together := _test(search, ensemble.get("test", {})):
        text += f" The mean prediction of {len(ensemble['members'])} confirmed models has {together[1]}"
        text += f" ({together[2]})." if together[2] else "."
    return text


def _seeds(confirmed: Sequence[dict[str, Any]]) -> str:
    return counted(max(Counter(c["trial"] for c in confirmed).values()), "seed")


def _test(search: Search, block: dict[str, Any] | None = None) -> tuple[str, str, str] | None:
    """Title, value and 95 % interval of what says how good the winner is on test; None where that was never scored."""
    block = search.outcome.get("test") if block is None else block
    if not block:
        return None
    metric = metric_on_test(search.metric, search.recipe, block)
    if not usable(block.get(metric)):
        return None
    title = MEANINGS[metric].title if metric in MEANINGS else metric
    return title, number(block[metric]), span(block.get(f"{metric}_ci") or [None, None])


def _tiles(search: Search) -> list[tuple[str, str, str]]:
    """(title, value, what is beneath) of the numbers shown large."""
    winner, spec = search.winner, search.spec
    tiles = []
    if winner is not None:
        what = f"the best epoch of {winner.id}, {winner.family}"
        tiles.append((f"Validation {search.title}", number(best_score(winner, search.higher_is_better)), what))
    if test := _test(search):
        tiles.append((f"Test {test[0]}", test[1], f"95 % interval {test[2]}" if test[2] else ""))
    tiles.append(
        (
            "Device-hours",
            hours(search.device_s),
            f"of {hours(3600 * spec.device_hours)} allowed" if spec.device_hours else "no limit was set",
        )
    )
    if search.money or spec.money:
        tiles.append(("Money", f"{search.money:.2f}", f"of {spec.money:.2f} allowed" if spec.money else "no limit was set"))
    count = Counter(state(trial) for trial in search.trials)
    done = count["finished"] + count["stopped"] + count["failed"]
    tiles.append(("Trials done", f"{done}", f"of {spec.trials}; {count['stopped']} stopped early, {count['failed']} failed"))
    return tiles[:MOST_TILES]


def _cautions(search: Search) -> list[str]:
    """What a careful reader should know before believing the winner."""
    found, trials = [], search.trials
    scored = [trial for trial in trials if best_score(trial, search.higher_is_better) is not None]
    if not search.over:
        waiting = search.spec.trials - sum(1 for trial in trials if trial.end)
        found.append(
            f"The search is not over: {counted(waiting, 'trial')} of {search.spec.trials} had not ended when this page was written."
        )
    failed = [trial for trial in trials if trial.end and trial.end.kind == "failed"]
    if failed and scored:
        found.append(f"{counted(len(failed), 'trial')} of {len(trials)} failed; what is left may favour what did not.")
    if len(scored) > 1 and not search.outcome.get("test"):
        found.append(
            f"The best of {len(scored)} validation scores is lucky as well as good: it overstates what the winner will do on other"
            " patients. The test split has not been touched."
        )
    rates = sorted(rate for trial in scored if (rate := rate_of(trial, search.recipe)) is not None and rate > 0)
    winner = search.winner
    best = rate_of(winner, search.recipe) if winner is not None else None
    if len(rates) >= 10 and best and not rates[0] * (rates[-1] / rates[0]) ** EDGE < best < rates[-1] * (rates[0] / rates[-1]) ** EDGE:
        side = "low" if best < rates[len(rates) // 2] else "high"
        found.append(
            f"The winner's learning rate {shown(best)} is at the {side} end of those tried ({shown(rates[0])} to {shown(rates[-1])}):"
            " a wider range in search.space may do better."
        )
    return found


def _about(search: Search) -> list[tuple[str, str]]:
    """What was searched, as (what, value)."""
    spec, trials = search.spec, search.trials
    times = [event.time for trial in trials for event in trial.events]
    families = sorted({trial.family for trial in trials if trial.family}) or list(spec.families)
    facts = [
        ("Families", ", ".join(families)),
        ("Varied", ", ".join(spec.vary)),
        ("Proposed by", {"tpe": "tree-structured Parzen estimator", "random": "uniform draws", "grid": "a grid"}[spec.searcher]),
        ("Stopped by", {"asha": "ASHA", "hyperband": "HyperBand", "pbt": "population based training", "median": "the median rule", "none": "nobody"}[spec.scheduler]),
        ("Judged by", f"{search.title} on validation" + (f", {', '.join(spec.objectives[1:])}" if len(spec.objectives) > 1 else "")),
        ("Epochs, at most", shown(value_in(search.recipe, "train.epochs") or "")),
        ("Workers a trial", shown(value_in(search.recipe, "train.workers") or "")),
        ("Wall time so far" if not search.over else "Wall time", clock(max(times) - min(times)) if times else ""),
        ("Seed", str(spec.seed)),
        ("Learned from", ", ".join(shown_path(name) for name in spec.warm_start)),
    ]  # fmt: skip
    return [(what, value) for what, value in facts if value]


def _confirmed(search: Search) -> list[dict[str, Any]]:
    """A row a trial that was trained again: its scores by seed, mean, and whether it won; best mean first."""
    by_trial: dict[str, list[dict[str, Any]]] = {}
    for entry in search.outcome.get("confirmed", []):
        by_trial.setdefault(str(entry["trial"]), []).append(entry)
    families = {trial.id: trial.family for trial in search.trials}
    rows: list[dict[str, Any]] = []
    for trial, entries in by_trial.items():
        scores = [float(entry["score"]) for entry in entries if usable(entry.get("score"))]
        rows.append(
            {
                "trial": trial,
                "family": families.get(trial, ""),
                "seeds": [(str(entry.get("seed", "")), number(entry.get("score"))) for entry in entries],
                "mean": sum(scores) / len(scores) if scores else None,
                "won": search.winner is not None and trial == search.winner.id,
            }
        )
    rows.sort(key=lambda row: (row["mean"] is None, -(row["mean"] or 0.0) if search.higher_is_better else row["mean"] or 0.0))
    return rows


def _front(search: Search) -> set[str]:
    if len(search.spec.objectives) < 2:
        return set()
    return {trial.id for trial in pareto_front(search.trials, search.spec.objectives, search.higher_is_better)}


def _progress(search: Search) -> list[tuple[Markup, str, str]]:
    if search.winner is None:
        return []
    names = search.title, search.higher_is_better
    return [
        (plots.spending_plot(search.trials, *names), "Quality over cost", "Each family over its own device-hours; dashed, all together."),
        (plots.curves_plot(search.trials, *names, search.winner), "Learning curves", "Faint: stopped early or failed. The circle is the winner's best epoch."),
    ]  # fmt: skip


def _importance(search: Search) -> list[tuple[Markup | None, str, str]]:
    """(picture or None, title, sentence) over all trials and by family; nothing where no trial has a score."""
    if search.winner is None:
        return []
    found = importances(search.trials, search.higher_is_better, seed=search.spec.seed)
    return [(plots.importance_plot(one, k) if one.rows else None, one.family or "All trials", one.sentence) for k, one in enumerate(found)]


def _tradeoffs(search: Search) -> list[tuple[Markup, str, str]]:
    objectives = search.spec.objectives
    if len(objectives) < 2 or search.winner is None:
        return []
    scored = [trial for trial in search.trials if best_score(trial, search.higher_is_better) is not None]
    front = pareto_front(scored, objectives, search.higher_is_better)
    return [
        (plots.tradeoff_plot(scored, front, cost, search.title, search.higher_is_better), f"Quality against {cost}", "Ringed: no other trial is better in one and no worse in the rest.")
        for cost in objectives if cost != "quality"
    ]  # fmt: skip


def _commands(folder: Path, search: Search) -> list[tuple[str, str]]:
    """What each step is for and its command line."""
    place = str(Path(shown_path(search.spec.folder)) / folder.name)
    found = []
    if (folder / "best.yaml").is_file():
        found.append(("train the winner", f"hepdist train {place}/best.yaml"))
    elif search.winner is not None:
        found.append(("train the winner, once the search has ended and written it", f"hepdist train {place}/best.yaml"))
    if not search.over:
        found.append(("go on where it ended", f"hepdist tune {place}/recipe.yaml"))
    return [*found, ("all curves and the HParams tab", f"tensorboard --logdir {place}")]
