"""The files of a folder on this machine by relative name, and what in it is no file; nothing is opened."""

from __future__ import annotations

import os
from pathlib import Path


def walk(root: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """Names of regular files, sorted, with '/'; and (name, reason) of all else that is there. Links are followed.

    A folder is listed once, under its own name where it has one in `root`: a link that leads in a circle is left out, and so is
    one to a folder that is there in any case. Names that aren't UTF-8 hold surrogates, as os.fsdecode makes them.
    """
    names: list[str] = []
    skipped: list[tuple[str, str]] = []
    seen: set[tuple[int, int]] = set()
    folders, links = [""], list[str]()
    while folders or links:
        if not folders:
            links.sort(reverse=True)  # whatever order the system lists them in
        inside = folders.pop() if folders else links.pop()
        path = os.path.join(root, inside)
        try:
            here = os.stat(path)
            if (here.st_dev, here.st_ino) in seen:
                skipped.append((inside, "a link to a folder that is listed under another name"))
                continue
            seen.add((here.st_dev, here.st_ino))
            entries = os.scandir(path)
        except OSError:
            skipped.append((inside, UNREADABLE))
            continue
        with entries:
            try:
                for entry in entries:
                    name = f"{inside}/{entry.name}" if inside else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(name)
                    elif (kind := _kind(entry)) == "folder":
                        links.append(name)
                    elif kind == "file":
                        names.append(name)
                    else:
                        skipped.append((name, kind))
            except OSError:  # the disk fails half-way through the list
                skipped.append((inside, UNREADABLE))
    return sorted(names), sorted(skipped)


UNREADABLE = "a folder that can't be read"


def _kind(entry: os.DirEntry[str]) -> str:
    """'file', 'folder', or the reason to leave it out."""
    try:
        if entry.is_file():
            return "file"
        if entry.is_dir():
            return "folder"
    except OSError:  # a link to itself
        return "a link that leads nowhere"
    return "a link that leads nowhere" if entry.is_symlink() else "a device, pipe or socket"
