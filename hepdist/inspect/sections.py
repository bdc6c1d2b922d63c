"""The facts of a cohort as titled tables of text, the same for the terminal and for the page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from hepdist.inspect.facts import Facts, SplitFacts
from hepdist.shards.manifest import Manifest

NUMBER = re.compile(r"\d+")
MOST_ALIKE = 3
"""Lines that differ in numbers alone, before they become one."""


@dataclass(frozen=True)
class Section:
    """One table of text."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def render(section: Section) -> Group:
    """The section for a terminal: nothing is cut short, since a name cut short is another name."""
    shown = Table(title=section.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(section.columns):
        shown.add_column(column, justify="right" if _numeric([row[i] for row in section.rows]) else "left", overflow="fold")
    for row in section.rows:
        shown.add_row(*map(escape, row))
    return Group(shown, Text(section.note + "\n", style="dim")) if section.note else Group(shown)


def _numeric(cells: list[str]) -> bool:
    return bool(cells) and all(cell.replace(",", "").replace(".", "").rstrip(" %").isdigit() for cell in cells)


def sections(facts: Facts) -> list[Section]:
    """All tables in reading order; those with nothing to say are left out."""
    visits = [_visits(facts)] if facts.manifest.sequence else []
    everything = [counts(facts), _tensors(facts.manifest), _emr(facts), *visits, _left_out(facts), _integrity(facts)]
    return [section for section in everything if section.rows or section.note]


def counts(facts: Facts) -> Section:
    """Patients, studies, rows and classes by split, and their sum; of a cohort in bricks also volumes, which classes then count."""
    names, bricks = facts.manifest.label_names, facts.manifest.fingerprint.get("bricks")
    unlabelled = any(split.unlabelled for split in facts.splits.values())
    columns = ("split", "patients", "studies", *(["volumes"] if bricks else []), "rows", *names, *(["unlabelled"] if unlabelled else []))
    rows = [_counts_row(name, split, bool(bricks), unlabelled) for name, split in facts.splits.items()]
    total = ("all", *(f"{sum(int(row[i].replace(',', '')) for row in rows):,}" for i in range(1, len(columns))))
    rule = facts.manifest.split_rule
    kinds = {
        "official": "the source's official split", "hash": "split by a salted hash of the patient",
        "site": "whole sites in one split", "date": "the oldest patients in train, the newest in test",
    }  # fmt: skip
    kept = kinds.get(rule.get("kind", ""), "")
    ratio = ":".join(f"{part:g}" for part in rule.get("ratio", ())) if rule.get("kind") == "hash" else ""
    times = facts.manifest.generation
    cut = f"cut into bricks of {' x '.join(map(str, bricks['size']))}, {bricks['overlap']:.0%} in common" if bricks else ""
    added = f"added to {times:,} time{'s' if times > 1 else ''}" if times else ""
    alike = "the same or nearly so (near_identical=false keeps the latter apart)" if rule.get("near_identical") else "the same"
    merged = f"{n:,} more counted as patients of others, since their images are {alike}" if (n := rule.get("patients_merged", 0)) else ""
    note = "; ".join(part for part in (f"{kept} {ratio}".strip(), merged, cut, added) if part)
    return Section(f"cohort {facts.manifest.name} ({facts.manifest.source})", columns, (*rows, total), note)


def _counts_row(name: str, split: SplitFacts, bricks: bool, unlabelled: bool) -> tuple[str, ...]:
    numbers = [
        len(split.patients),
        split.studies,
        *([split.cases] if bricks else []),
        split.rows,
        *split.classes.values(),
        *([split.unlabelled] if unlabelled else []),
    ]
    return (name, *(f"{number:,}" for number in numbers))


def _tensors(manifest: Manifest) -> Section:
    rows = []
    for tensor in manifest.fields.values():
        shape = " x ".join(map(str, tensor.shape))
        rows.append((tensor.name, shape, tensor.axes, tensor.dtype, tensor.unit, _size(tensor.nbytes), ", ".join(tensor.classes)))
    return Section("tensor columns", ("column", "shape", "axes", "dtype", "unit", "a row", "classes"), tuple(rows))


def _emr(facts: Facts) -> Section:
    rows = [
        (c.name, c.kind, c.unit, f"{missing:.1%}", ", ".join(c.categories))
        for c, missing in zip(facts.manifest.emr, facts.missing_shares, strict=True)
    ]
    return Section("EMR columns", ("column", "kind", "unit", "missing", "categories"), tuple(rows))


def _visits(facts: Facts) -> Section:
    manifest = facts.manifest
    rows = [(c.name, c.kind, c.unit, f"{c.missing_share:.1%}", ", ".join(c.categories)) for c in manifest.sequence]
    title = f"columns of visits (the last {manifest.fields['sequence'].shape[0]})"
    return Section(title, ("column", "kind", "unit", "missing", "categories"), tuple(rows))


def _folded(left_out: Iterable[tuple[str, str, str, int]]) -> Iterator[tuple[str, str, str, int]]:
    """One line in place of many that differ in numbers alone, such as a table's columns that were not asked for."""
    alike: dict[tuple[str, str, str], list[tuple[str, int]]] = {}
    for outcome, check, reason, files in left_out:
        alike.setdefault((outcome, check, NUMBER.sub("0", reason)), []).append((reason, files))
    for (outcome, check, _), each in alike.items():
        if len(each) <= MOST_ALIKE:
            yield from ((outcome, check, reason, files) for reason, files in each)
        else:
            yield outcome, check, f"{each[0][0]}; {len(each) - 1} more like it", sum(files for _, files in each)


def _left_out(facts: Facts) -> Section:
    rows = tuple((outcome, check, f"{files:,}", reason) for outcome, check, reason, files in _folded(facts.left_out))
    found = ", ".join(f"{files:,} {outcome}" for outcome, files in facts.outcomes.items()) or "no audit"
    return Section(
        "files left out", ("outcome", "check", "files", "reason"), rows, f"{sum(facts.outcomes.values()):,} files found: {found}"
    )


def _integrity(facts: Facts) -> Section:
    shards = facts.manifest.shards
    size = _size(sum(shard.bytes for shard in shards))
    intact = f"{len(shards) - len(facts.damaged)} of {len(shards)} shards ({size}) are what the manifest says"
    apart = (
        "every patient is in one split" if not facts.straddlers else f"{facts.straddlers} patients are in more than one split; ingest again"
    )
    rows = [("sha256", intact), *((path, f"{reason}; ingest the cohort again") for path, reason in facts.damaged), ("patients", apart)]
    return Section("integrity", ("check", "result"), tuple(rows), f"cohort sha256 {facts.manifest.sha256()}")


def _size(count: int) -> str:
    if count < 1024:
        return f"{count} B"
    return f"{count / 1024:.1f} KiB" if count < 1 << 20 else f"{count / (1 << 20):,.1f} MiB"
