"""Code blocks of the documents: found, taken apart into commands, and run as a reader would, in a folder of their own."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("README*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/zh/*.md")])
FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELLS = ("bash", "sh", "")
"""Languages of blocks that hold commands; '' is a block that names none."""
WRITTEN = ("runs/", "cohorts/", "predictions/", "exports/", "searches/", "outbreaks/", "hospital/")
"""Folders that the README's and the tutorial's commands write."""


@dataclass(frozen=True)
class Block:
    language: str
    title: str
    """File that a reader is told to save it as; '' of none."""
    text: str


def blocks(page: Path) -> list[Block]:
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [Block(language, m[1] if (m := re.search(r'title="(.+?)"', rest)) else "", text) for language, rest, text in found]


def commands(page: Path) -> Iterator[list[str]]:
    """The words after `hepdist` of every command line in `page`, without redirections, comments and what follows in a pipe."""
    for block in blocks(page):
        if block.language not in SHELLS:
            continue
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True) if line.strip().startswith("hepdist ") else []
            ends = [number for number, word in enumerate(words) if word in ("&", "|", ">", "&&", ";")]
            if words:
                yield words[1 : ends[0] if ends else None]


def without_comments(text: str) -> str:
    """What a shell or YAML would make of a block: comments are translated, commands are not."""
    return "\n".join(re.sub(r"(^|\s+)#.*$", "", line).rstrip() for line in text.splitlines())


def checkout(folder: Path) -> Path:
    """A copy of what a clone has, whose .venv is the one that runs the tests and counts as built."""
    folder.mkdir()
    for name in ("hepdist", "ray_jobs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "cluster.yaml", "README.md", ".gitignore"):
        shutil.copy2(ROOT / name, folder / name)
        os.utime(folder / name, (0, 0))  # older than the stamp, or make would install again
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def reader(home: Path) -> dict[str, str]:
    """The environment of someone who has just activated .venv, and no Ray of this session's."""
    home.mkdir(exist_ok=True)
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "HEPDIST_", "XDG_"))}
    return plain | {"HOME": str(home), "PATH": f"{sys.prefix}/bin:{plain['PATH']}", "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}


def run(found: list[Block], folder: Path, environment: Mapping[str, str]) -> str:
    """Save and run blocks in `folder`, one after the other, up to the first that fails; returns all that they printed."""
    said = ""
    for block in found:
        if block.title:
            (folder / block.title).write_text(block.text, encoding="utf-8")
            continue
        if block.language == "python":
            command = [sys.executable, "-c", block.text]
        elif block.language in SHELLS:
            command = ["bash", "-euo", "pipefail", "-c", block.text]
        else:
            continue
        ended = subprocess.run(command, cwd=folder, env=dict(environment), capture_output=True, text=True, check=False)
        said += f"{ended.stdout}{ended.stderr}"
        assert ended.returncode == 0, f"{block.text}\nended with {ended.returncode}:\n{ended.stdout[-3000:]}\n{ended.stderr[-6000:]}"
    return said


def promised(page: Path) -> set[str]:
    """Files and folders that `page` says its commands write."""
    return {
        name for name in re.findall(r"`([\w./-]+)`", page.read_text(encoding="utf-8")) if name.startswith(WRITTEN) and "NAME" not in name
    }
