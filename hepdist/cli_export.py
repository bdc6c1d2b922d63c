"""The verb `export`; see hepdist/export."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command()(export)


def export(
    run: Annotated[str, typer.Argument(help="A run's folder.")],
    out: Annotated[str, typer.Argument(help="Folder to write; an earlier export there is replaced.")],
    form: Annotated[
        list[str] | None, typer.Option("--format", help="onnx, torch or bundle; may be repeated. All by default.", show_default=False)
    ] = None,
    split: Annotated[str, typer.Option(help="Split whose rows the files are checked on.")] = "val",
    samples: Annotated[int, typer.Option(help="Rows to check on, evenly spaced over the split.")] = 50,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Largest difference of a probability from the live model's; 1e-4, of voxels 1e-3.", show_default=False),
    ] = None,
    free_sides: Annotated[
        bool, typer.Option("--free-sides", help="Take images of other sizes too (segmentation, restoration); tracing takes far longer.")
    ] = False,
) -> None:
    """Write a run as ONNX, torch.export program and MONAI bundle, each checked on real rows, with a model card."""
    from hepdist.jobs import check_path

    check_path("RUN", run)
    check_path("OUT", out)

    from typing import cast

    from hepdist.console import out as console
    from hepdist.console import step
    from hepdist.export.export import FILES, FORMATS, Format, Wish, refusal
    from hepdist.export.export import export as write

    formats = cast("tuple[Format, ...]", tuple(dict.fromkeys(form or FORMATS)))
    record = write(run, out, Wish(formats, split, samples, tolerance, free_sides), step=step)
    for name, found in record["files"].items():
        kept = "removed" if name in record["failed"] else f"{found['bytes'] / 1e6:.1f} MB"
        console.print(
            f"{FILES[name]}: {kept}; {found['samples']} rows of {record['split']}: largest difference {found['largest_difference']:.2g},"
            f" {found['decisions_differing']} of {found['decisions']:,} decisions differ",
            soft_wrap=True,
        )
    console.print(f"model card: {out}/model_card.html", soft_wrap=True)
    if record["failed"]:
        raise refusal(record)
