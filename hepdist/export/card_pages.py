"""A model card's content as blocks of text, and these as Markdown and as one HTML page that needs nothing from outside."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hepdist import evaluation


@dataclass(frozen=True)
class Table:
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Points:
    """A list of sentences."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    text: str


Block = str | Table | Points | Code


@dataclass(frozen=True)
class Section:
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Card:
    title: str
    lead: str
    """What the model is, in a sentence."""
    sections: tuple[Section, ...] = field(default=())

    def with_files(self, record: dict[str, Any]) -> Card:
        """The card with a section about the files that an export wrote (export.json)."""
        rows = tuple(
            (form, found["file"] if found["within"] else "removed", str(found["samples"]), f"{found['largest_difference']:.2g}",
             f"{found['decisions_differing']:,} of {found['decisions']:,}", found["sha256"][:16])
            for form, found in record["files"].items()
        )  # fmt: skip
        text = (
            f"Each file was run on real rows of the cohort's {record['split']} split beside the live model. Tolerance {record['tolerance']:g}"
            " on the largest absolute difference; a file beyond it is removed."
        )
        table = Table(("format", "file", "rows", "largest difference", "decisions that differ", "sha256 (start)"), rows)
        *before, last = self.sections
        return replace(self, sections=(*before, Section("Exported files", (text, table)), last))


def as_markdown(card: Card) -> str:
    parts = [f"# {card.title}", card.lead]
    for section in card.sections:
        parts.append(f"## {section.title}")
        parts += [_markdown(block) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def as_html(card: Card) -> str:
    css = (Path(evaluation.__path__[0]) / "page.css").read_text(encoding="utf-8")
    sections = "\n".join(
        f"<section><h2>{html.escape(section.title)}</h2>{''.join(map(_html, section.blocks))}</section>" for section in card.sections
    )
    title, lead = html.escape(card.title), html.escape(card.lead)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{css}
</style>
</head>
<body>
<header><p class="kicker">Model card</p><h1>{title}</h1></header>
<main>
<p class="lead">{lead}</p>
{sections}
</main>
</body>
</html>
"""


def _markdown(block: Block) -> str:
    if isinstance(block, str):
        return block
    if isinstance(block, Points):
        return "\n".join(f"- {item}" for item in block.items)
    if isinstance(block, Code):
        return f"```\n{block.text.rstrip()}\n```"
    rows: list[Sequence[str]] = [block.columns, ["---"] * len(block.columns), *block.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _html(block: Block) -> str:
    if isinstance(block, str):
        return f"<p>{html.escape(block)}</p>"
    if isinstance(block, Points):
        return "<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in block.items) + "</ul>"
    if isinstance(block, Code):
        return f'<div class="scroll"><pre>{html.escape(block.text)}</pre></div>'
    head = "".join(f"<th>{html.escape(name)}</th>" for name in block.columns)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in block.rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
