"""The verb `hepdist surveil`, registered by cli.py."""

from __future__ import annotations

from typing import Annotated

import typer


def surveil(
    table: Annotated[str, typer.Argument(help="Diagnoses, predictions or weekly counts: .csv, .tsv, .parquet or .xlsx.")],
    out: Annotated[str, typer.Argument(help="Folder to write.")],
    options: Annotated[
        list[str] | None, typer.Argument(metavar="key=value", help="Columns and settings, e.g. date=day site=clinic.", show_default=False)
    ] = None,
) -> None:
    """Count cases by week and site, say which weeks are above what was to be expected, and name nobody."""
    from hepdist.jobs import check_path

    check_path("TABLE", table)
    check_path("OUT", out)

    from hepdist.console import out as console
    from hepdist.console import step
    from hepdist.surveillance.page import PAGE
    from hepdist.surveillance.report import lines
    from hepdist.surveillance.run import surveil as run

    step(f"reading {table} ...")
    outcome = run(table, out, options or [])
    for line in lines(outcome):
        console.print(line, soft_wrap=True, markup=False)
    console.print(f"page: {outcome.folder / PAGE}", soft_wrap=True, markup=False)
