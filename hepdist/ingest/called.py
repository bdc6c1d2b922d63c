"""By which names a table may call an image: as much of its path as it likes, from either side's folders, with or without the suffix."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath


def path_ends(path: str) -> list[str]:
    """A path, of Windows too, and what is left of it without its first folders, longest first."""
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
    return ["/".join(parts[n:]) for n in range(len(parts))] or [path]


def image_names(key: str, patient: str = "") -> tuple[str, ...]:
    """Of a sample with this key: the key and, where that is a path, its ends, then the same without the suffix; the most exact first.

    Where a table says whose the image is, the key ends in that patient (Subject.key), and no row calls it that.
    """
    image = key.removesuffix(f"#{patient}") if patient else key
    bare = image.removesuffix(PurePosixPath(image).suffix)
    return tuple(dict.fromkeys((image, *path_ends(image), *path_ends(bare))))


def rows_by_name(keys: Iterable[str], of: Callable[[str], str] = str) -> dict[str, str]:
    """The key of a row by each name that an image of it may have; an end of several keys names none of them. of: pseudonym of a name."""
    ends: dict[str, list[str]] = defaultdict(list)
    whole = {}
    for key in keys:
        whole[of(key)] = key
        for end in path_ends(key):
            ends[of(end)].append(key)
    return {name: found[0] for name, found in ends.items() if len(found) == 1} | whole


class Called:
    """Which images a table's cell may mean: by the whole of it, else by ever shorter ends of its path, at last whatever the case."""

    def __init__(self, images: Mapping[str, Iterable[str]]):
        """images: the names of each."""
        self._exact: dict[str, list[str]] = defaultdict(list)
        self._folded: dict[str, list[str]] = defaultdict(list)
        for image, names in images.items():
            ends = {end for name in names for end in path_ends(name)}
            for end in ends:
                self._exact[end].append(image)
            for end in {end.casefold() for end in ends}:
                self._folded[end].append(image)

    def __call__(self, cell: str) -> list[str]:
        ends = path_ends(cell)
        exact = next((self._exact[end] for end in ends if end in self._exact), None)
        return exact or next((self._folded[end.casefold()] for end in ends if end.casefold() in self._folded), [])
