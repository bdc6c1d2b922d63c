"""Verbs about clusters: `submit` sends a verb to one, `cluster` checks and writes the files that start one; nothing heavy is imported here."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

Overrides = Annotated[list[str] | None, typer.Argument(metavar="key=value", help="Overrides, e.g. train.epochs=3.", show_default=False)]
"""Of a recipe."""


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})(submit)
    cluster = typer.Typer(help="Check and write the files that start a cluster.", no_args_is_help=True)
    cluster.command("check")(cluster_check)
    cluster.command("write")(cluster_write)
    app.add_typer(cluster, name="cluster")


def submit(
    verb: Annotated[str, typer.Argument(help="ingest, train, tune, evaluate or another verb that works on a cohort or a run.")],
    words: Annotated[
        list[str] | None, typer.Argument(metavar="...", help="What follows the verb on this machine.", show_default=False)
    ] = None,
    address: Annotated[
        str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="The dashboard of the cluster's head, or this end of the tunnel to it.")
    ] = "http://127.0.0.1:8265",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Show the log until the job ends, and end with its exit code.")] = True,
) -> None:
    """Run a verb as a job on a cluster, with this code and this recipe; Ctrl-C asks whether to stop it."""
    from hepdist.console import plain
    from hepdist.jobs.follow import follow
    from hepdist.jobs.submit import submit as send

    client, job = send(verb, words or [], address)
    plain(f"job {job} on {address}")
    if wait:
        raise typer.Exit(follow(client, job, typer.confirm if sys.stdin.isatty() else None))
    print(job)


def cluster_check(
    file: Annotated[str, typer.Argument(metavar="[FILE]", help="A file for `ray up`, or a RayJob; cluster.yaml by default.")] = "",
    overrides: Overrides = None,
    overlay: Annotated[str, typer.Option(help="Merge this onto it first: gcp or on-premises; kuberay: the shipped RayJob.")] = "",
    recipe: Annotated[str, typer.Option(help="Must every GPU node hold one of its workers? Also says what it would cost.")] = "",
) -> None:
    """Hold a cluster file against Ray's schema and our rules, line by line, and say what it costs."""
    if "=" in file:  # no FILE: what stands there is the first override
        file, overrides = "", [file, *(overrides or [])]

    from hepdist.cloud.check import check, load
    from hepdist.console import err, out
    from hepdist.inspect.sections import render
    from hepdist.recipe import load_recipe

    loaded = load_recipe(recipe, overrides) if recipe else None
    findings = check(load(file, overlay), loaded)
    for mistake in findings.mistakes:
        err.print(str(mistake), markup=False, soft_wrap=True)
    if findings.mistakes:
        raise typer.Exit(1)

    from hepdist.cloud.costs import node_table, recipe_table, work_of

    if findings.nodes:
        out.print(render(node_table(findings.nodes, findings.most)))
    if loaded and findings.nodes:
        out.print(render(recipe_table(loaded, findings.nodes, work_of(recipe, loaded, overrides or []))))
    for line in findings.remarks():
        out.print(line, markup=False, soft_wrap=True)


def cluster_write(
    overlay: Annotated[str, typer.Argument(help="gcp, on-premises, kuberay or grafana.")],
    file: Annotated[str, typer.Argument(help="New file.")],
) -> None:
    """Write cluster.yaml with an overlay merged onto it, the Kubernetes file, or the dashboard for Grafana."""
    from hepdist.cloud.check import GRAFANA, write

    write(overlay, file)
    then = (
        "import it in Grafana (docs/cluster.md)" if overlay == GRAFANA else f"fill in what says REPLACE, then: hepdist cluster check {file}"
    )
    print(f"{file} is written; {then}")
