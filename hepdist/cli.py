"""The command line: one verb a stage, each a few lines over the function that does the work.

Nothing heavy is imported here: `hepdist --help` must not pay for torch and Ray.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import hepdist
from hepdist import cli_cluster, cli_evaluation, cli_export, cli_inference, cli_serve
from hepdist.cli_cluster import Overrides
from hepdist.cli_surveil import surveil
from hepdist.errors import HepdistError, IngestError, RunError

INTERRUPTED, TERMINATED = 130, 143
"""As shells count SIGINT and SIGTERM."""

app = typer.Typer(
    name="hepdist",
    help="Distributed training for medical imaging: DICOM, NIfTI and EMR in, honestly evaluated models out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # it prints local variables, which may hold patient data
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 the work failed, 2 refused before it began, 130 interrupted, 143 terminated."""
    try:
        app(arguments, standalone_mode=True)
    except RunError as error:
        return _say(f"error: {error}", 1)
    except HepdistError as error:
        return _say(f"error: {error}", 2)
    except SystemExit as left:  # how typer ends, with the exit code of the usage error, the command or the interrupt
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
        if code == signal.SIGTERM:  # from ray.init's handler, which stands until ours does
            code = TERMINATED
        words = {INTERRUPTED: "interrupted", TERMINATED: "stopped by SIGTERM"}
        return _say(f"{words[code]}; the same command goes on where it stopped", code) if code in words else code
    except Exception as error:
        from hepdist.failure import from_ray, worker_story

        if not from_ray(error):
            raise
        return _say(worker_story(error), 1)
    return 0


def _say(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Show the version and leave.", is_eager=True)] = False,
) -> None:
    if version:
        print(f"hepdist {hepdist.__version__}")
        raise typer.Exit


@app.command()
def doctor() -> None:
    """Say in one table what this machine or cluster has, and how to mend what is missing."""
    from hepdist.console import out, step
    from hepdist.doctor import can_train, examine, table

    step("examining this machine (about 10 seconds) ...")
    checks = examine()
    out.print(table(checks))
    if not can_train(checks):
        raise typer.Exit(1)


@app.command()
def phantom(
    folder: Annotated[str, typer.Argument(metavar="OUT", help="New folder for the DICOM files and tables.")],
    patients: Annotated[int, typer.Option(help="Number of patients.", min=1)] = 200,
    seed: Annotated[int, typer.Option(help="The same seed writes the same files.", min=0)] = 0,
    ct: Annotated[bool, typer.Option(help="Also write CT series with liver masks, for one patient in four.")] = True,
) -> None:
    """Write a made-up hepatitis cohort: DICOM X-rays, CT with liver masks, EMR tables."""
    from hepdist.console import out, progress
    from hepdist.phantom import write_phantom

    with progress("phantom") as report:
        summary = write_phantom(Path(folder), patients, seed, ct=ct, progress=report)
    best = ", ".join(f"{name} {scores['auroc']:.3f}" for name, scores in summary.bayes.items())
    out.print(
        f"{folder}: {summary.patients} patients ({summary.hepatitis} with hepatitis), {summary.xrays} X-rays, {summary.ct_series} CT series,"
        f" {summary.visits} visits; best possible AUROC: {best}",
        soft_wrap=True,
    )


@app.command()
def ingest(
    source: Annotated[str, typer.Argument(help="DICOM folder, MedMNIST .npz, Decathlon folder or tar, or images with masks or labels.")],
    cohort: Annotated[str, typer.Argument(help="Folder to write.")],
    options: Overrides = None,
) -> None:
    """Make a cohort: read, check, de-identify, split by patient, write shards."""
    from hepdist.jobs import check_path

    check_path("SOURCE", source)
    check_path("COHORT", cohort)

    from hepdist.console import out, progress
    from hepdist.ingest import ingest as run
    from hepdist.inspect import gather, render, sections

    with progress("ingest") as report:
        run(source, cohort, options or [], progress=report)
    for section in sections(gather(cohort)):
        out.print(render(section))


@app.command()
def reidentify(
    path: Annotated[str, typer.Argument(metavar="MAP", help="File that ingest wrote with reidentification_map=MAP.")],
    pseudonyms: Annotated[
        list[str] | None, typer.Argument(help="Pseudonyms, or their first digits; none: all.", show_default=False)
    ] = None,
    key: Annotated[str, typer.Option(help="File that holds the map's secret.")] = "",
) -> None:
    """Say who stands behind pseudonyms, to whoever has the encrypted map and its key."""
    from hepdist.console import out
    from hepdist.ingest.reidentify import reidentify as entries

    if not key:
        raise IngestError("a re-identification map opens with its key; give --key KEYFILE")
    for entry in entries(path, key, pseudonyms or ()):
        out.print(f"{entry.kind}  {entry.pseudonym}  {entry.raw}", soft_wrap=True, markup=False, highlight=False)


@app.command()
def inspect(
    cohort: Annotated[str, typer.Argument(help="Folder that `hepdist ingest` wrote.")],
    html: Annotated[bool, typer.Option("--html", help="Also write inspect.html with sample images into the cohort.")] = False,
) -> None:
    """Say what is in a cohort, what was left out and why, and whether its files are intact."""
    from hepdist.console import out
    from hepdist.inspect import gather, render, sections, write_page

    facts = gather(cohort)
    for section in sections(facts):
        out.print(render(section))
    if html:
        out.print(f"page: {write_page(cohort, facts)}", soft_wrap=True)
    if not facts.sound:
        raise typer.Exit(1)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name, or a path to a .yaml file.")],
    overrides: Overrides = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of resuming the run of that name.")] = False,
) -> None:
    """Train a recipe under Ray Train and DeepSpeed, then evaluate it; a second call resumes."""
    from hepdist.jobs import check_paths
    from hepdist.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)
    check_paths(loaded)

    from hepdist.training.launch import train as run

    folder = run(loaded, fresh=fresh)
    if loaded.evaluation.splits:
        _show(json.loads((folder / "result.json").read_text(encoding="utf-8")), folder)
    else:
        print(f"run: {folder}")


@app.command()
def tune(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name, or a path to a .yaml file; its search: section says over what.")],
    overrides: Overrides = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of going on with the search of that name.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the space, its size and what trials would take; start nothing.")] = False,
) -> None:
    """Search families, shapes and learning rates with Ray Tune, confirm the best, and report; a second call goes on."""
    from hepdist.jobs import check_path, check_paths
    from hepdist.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)
    check_paths(loaded)
    check_path("search.folder", loaded.search.folder)
    if dry_run:
        from hepdist.console import out
        from hepdist.search.launch import preview

        for part in preview(loaded):
            out.print(part)
        return

    from hepdist.search.launch import tune as run
    from hepdist.search.outcome import lines

    folder = run(loaded, fresh=fresh)
    for line in lines(folder):
        print(line)


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(help="A run's folder.")],
    split: Annotated[str, typer.Option(help="Split to score: train, val or test.")] = "test",
    cohort: Annotated[str | None, typer.Option(help="Score this other cohort whole, as external validation.", show_default=False)] = None,
) -> None:
    """Score the best checkpoint of a run exactly, every sample once."""
    from hepdist.jobs import check_path

    check_path("RUN", run)
    if cohort:
        check_path("--cohort", cohort)

    from hepdist.evaluation.evaluate import evaluate as score
    from hepdist.shards.manifest import Manifest

    result = score(run, split=split, cohort=cohort)
    _show(result, Path(run) / "external" / Manifest.load(cohort).name if cohort else Path(run))


cli_evaluation.register(app)


@app.command()
def crossval(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name, or a path to a .yaml file.")],
    overrides: Overrides = None,
    folds: Annotated[int, typer.Option(help="Parts that the patients are cut into.", min=2)] = 5,
    repeats: Annotated[int, typer.Option(help="Times that they are cut anew.", min=1)] = 3,
) -> None:
    """Train and score a recipe on repeated folds by patient, in this process; for cohorts too small for one test split."""
    from hepdist.console import cross_validated, out, progress
    from hepdist.evaluation.crossval import crossval as run
    from hepdist.recipe import load_recipe

    with progress("crossval") as report:
        folder = run(load_recipe(recipe, overrides), folds, repeats, progress=report)
    out.print(cross_validated(json.loads((folder / "result.json").read_text(encoding="utf-8"))))
    out.print(f"predictions: {folder / 'predictions.parquet'}", soft_wrap=True)


cli_export.register(app)
cli_cluster.register(app)
cli_inference.register(app)
app.command()(surveil)


@app.command()
def demo(
    overrides: Overrides = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of going on.")] = False,
) -> None:
    """Phantom cohort, ingest, 2 DeepSpeed workers, evaluation and report; about 4 minutes on 2 cores."""
    from hepdist.demo import run_demo

    run_demo(overrides, fresh=fresh)


cli_serve.register(app)


def _show(result: dict[str, Any], folder: Path) -> None:
    from hepdist.console import out, score_table

    out.print(score_table(result))
    out.print(f"report: {folder / 'report.html'}", soft_wrap=True)
