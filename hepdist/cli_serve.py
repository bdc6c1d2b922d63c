"""The verb `hepdist serve`, over hepdist.serve."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command()(serve)


def serve(
    runs: Annotated[str, typer.Argument(metavar="RUN[+RUN...]", help="A run's folder, or several whose mean is the answer.")],
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="key=value", help="Options of ingest on how studies are read, e.g. frames=first.", show_default=False),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; anything but loopback lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65534)] = 8000,
    replicas: Annotated[int, typer.Option(help="Processes that predict.", min=1)] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda; auto: a GPU a replica where there is one.")] = "auto",
    batch: Annotated[int, typer.Option(help="Cases that share a forward pass at most.", min=1)] = 16,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of each replica's model.", min=1, show_default="all CPUs, shared")
    ] = None,
    token_file: Annotated[
        str | None,
        typer.Option(help="File that holds the token.", show_default="~/.config/hepdist/serve_token, made where it is not there"),
    ] = None,
    max_upload: Annotated[int, typer.Option(help="MiB of one request.", min=1)] = 512,
    max_voxels: Annotated[int, typer.Option(help="Millions of voxels of one request.", min=1)] = 200,
) -> None:
    """Answer over HTTP: POST a study, get JSON or DICOM SEG and SR; a page at / to drop files on. Ctrl-C ends it."""
    from hepdist.errors import RecipeError
    from hepdist.serve.token import USUAL, read_token

    if device not in ("auto", "cpu", "cuda"):
        raise RecipeError(f"--device is '{device}'; give auto, cpu or cuda")
    token = read_token(token_file)

    from hepdist.console import out, plain, step
    from hepdist.serve.deployment import Settings, check, loopback, serving, until_signal
    from hepdist.serve.limits import MIB, Limits

    limits = Limits(upload=max_upload * MIB, unpacked=2 * max_upload * MIB, voxels=max_voxels * 1_000_000)
    settings = Settings(tuple(runs.split("+")), token, host, port, replicas, device, batch, threads, tuple(options or ()), limits)
    check(settings)
    if not loopback(host):
        plain(
            f"--host {host}: every machine that reaches this address can send requests, and the token and the studies cross the network"
            " unencrypted, so put a proxy with TLS in front"
        )
    step("starting Ray Serve (about 20 seconds) ...")

    def started() -> None:
        out.print(f"serving {runs} on http://{host}:{port}/  (token: {token_file or USUAL}; Ctrl-C ends it)", soft_wrap=True, markup=False)

    with serving(settings):
        until_signal(started)
        step("stopping ...")
