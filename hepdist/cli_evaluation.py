"""Verbs about finished runs, beside `evaluate`: few lines each over the function that does the work; nothing heavy is imported here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command()(compare)
    app.command()(explain)


def compare(
    first: Annotated[str, typer.Argument(metavar="RUN_A", help="A run's folder, evaluated.")],
    second: Annotated[str, typer.Argument(metavar="RUN_B", help="Another run's folder, evaluated on the same cohort.")],
    split: Annotated[str, typer.Option(help="Split on which both were scored: train, val, test or external.")] = "test",
    out: Annotated[
        str, typer.Option(help="Folder for compare.html and compare.json; RUN_A/compare/<name of RUN_B>.", show_default=False)
    ] = "",
) -> None:
    """Say whether one run is better than another on the same cases, or whether chance explains the difference."""
    from hepdist.jobs import check_path

    for what, path in (("RUN_A", first), ("RUN_B", second), ("--out", out)):
        if path:
            check_path(what, path)

    from hepdist.console import out as console
    from hepdist.evaluation.compare import compare as run
    from hepdist.evaluation.compare import write_comparison
    from hepdist.evaluation.compare_page import comparison_table, write_comparison_page

    facts = run(first, second, split)
    runs = (Path(first).resolve(), Path(second).resolve())
    folder = Path(out) if out else runs[0] / "compare" / runs[1].name
    write_comparison(facts, folder)
    page = write_comparison_page(facts, runs, folder)
    console.print(comparison_table(facts))
    console.print(facts["conclusion"], markup=False)
    console.print(f"page: {page}", soft_wrap=True)


def explain(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A classifier's run folder, evaluated.")],
    split: Annotated[str, typer.Option(help="Split whose cases are explained: train, val or test.")] = "test",
) -> None:
    """Show what decisions rest on: Grad-CAM maps of cases, and how much each input matters."""
    from hepdist.jobs import check_path

    check_path("RUN", run)

    from hepdist.console import out, progress
    from hepdist.evaluation.explain import explain as write

    with progress("explain") as report:
        page = write(run, split, report)
    out.print(f"page: {page}", soft_wrap=True)
