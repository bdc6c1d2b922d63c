"""The verbs that use a trained model on new studies; each a few lines over the function that does the work."""

from __future__ import annotations

from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="key=value", help="Options, e.g. tta=false or emr=labs.csv.", show_default=False)
]


def register(app: typer.Typer) -> None:
    app.command()(predict)


def predict(
    run: Annotated[str, typer.Argument(metavar="RUN[+RUN...]", help="A run's folder; several, joined by +, answer as one ensemble.")],
    source: Annotated[str, typer.Argument(metavar="INPUT", help="DICOM, NIfTI or image files, an EMR table, or a cohort.")],
    out: Annotated[str, typer.Argument(help="Folder to write; the same command goes on where it stopped.")],
    options: Overrides = None,
    split: Annotated[str | None, typer.Option(help="Of a cohort: train, val or test; all of it by default.", show_default=False)] = None,
) -> None:
    """Predict new studies: DICOM SEG and SR, masks, a table, overlays and one page."""
    from hepdist.jobs import check_path

    for part in run.split("+"):
        check_path("RUN", part)
    check_path("INPUT", source)
    check_path("OUT", out)

    from hepdist.console import out as console
    from hepdist.console import progress
    from hepdist.inference.run import predict as work

    with progress("predict") as report:
        summary = work(run, source, out, options or [], split=split, progress=report)
    left = {name: count for name, count in summary.counts.items() if name in ("quarantined", "ignored") and count}
    beside = "".join(f", {count} files {name}" for name, count in left.items())
    console.print(f"{len(summary.table)} cases by {summary.identity.name}{beside}", soft_wrap=True, markup=False)
    if "label" in summary.table:
        for label, count in summary.table["label"].value_counts().items():
            console.print(f"  {label or 'none'}: {count}", soft_wrap=True, markup=False)
    if summary.identity.calibration:
        console.print(f"probabilities are scaled by {summary.identity.calibration}", soft_wrap=True, markup=False)
    console.print(f"page: {summary.page}", soft_wrap=True, markup=False)
