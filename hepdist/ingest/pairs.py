"""Which files are masks and of which images, by folder and name alone; what is in them is checked by whoever reads them."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

MASK_FOLDER = re.compile(r"(mask|segmentation|annotation|label)s?(tr)?$", re.IGNORECASE)
IMAGE_FOLDER = re.compile(r"^(image|img|scan|volume)s?(tr|ts)?$", re.IGNORECASE)
MASK_END = re.compile(r"(?:^|[_.-])(mask|seg|segmentation|labels?|gt)$", re.IGNORECASE)
MASK_START = re.compile(r"^(mask|seg|segmentation|labels?)[_-](?=.)", re.IGNORECASE)
IMAGE_START = re.compile(r"^(volume|vol|image|img|scan|ct|mri?)[_-](?=.)", re.IGNORECASE)
SEPARATORS = "_.-"


@dataclass
class Pairs:
    images: list[str]
    """All that are no masks, sorted."""
    of_mask: dict[str, list[str]] = field(default_factory=dict)
    """Images of each mask that has any, by name; several may be its channels."""
    alone: list[str] = field(default_factory=list)
    """Masks without an image."""
    rivals: list[str] = field(default_factory=list)
    """Masks of one and the same image, or of equally named images in several folders."""


def pair(names: Iterable[str], stem: Callable[[str], str], pattern: str | None = None) -> Pairs:
    """Find each mask's images. stem: a file's name without what tells its format.

    A mask lies in a folder such as masks or labelsTr, or ends in _mask, _seg and the like, or begins so (segmentation-3 beside
    volume-3); or `pattern` matches its path. Its images lie in the same folder or the one beside it and have its name, or begin
    with it (CASE_0000 of CASE, CASE_ct of CASE_seg); else the only image of that name anywhere. An image that several masks'
    names begin belongs to the longest.
    """
    names = sorted(names)
    masks = {n for n in names if _is_mask(n, stem(n), pattern)}
    if pattern is None and not any(MASK_FOLDER.search(part) for n in masks for part in PurePosixPath(n).parts[:-1]):
        found = _match(sorted(masks), [n for n in names if n not in masks], stem, pattern)
        if not found.of_mask:  # nothing but the end of a name says so, and no name has another one beside it
            return Pairs(names)
        return found
    if len(masks) == len(names):  # a folder of masks' names alone holds images
        return Pairs(names)
    return _match(sorted(masks), [n for n in names if n not in masks], stem, pattern)


def scope(name: str) -> str:
    """The folder that a case's files share: their own, or the one around images/ and labels/."""
    parent = PurePosixPath(name).parent
    inner = MASK_FOLDER.search(parent.name) or IMAGE_FOLDER.search(parent.name)
    return str(parent.parent if inner else parent).removeprefix(".")


def _is_mask(name: str, stem: str, pattern: str | None) -> bool:
    if pattern is not None:
        return bool(re.search(pattern, name))
    folders = PurePosixPath(name).parts[:-1]
    return any(MASK_FOLDER.search(f) for f in folders) or bool(MASK_END.search(stem) or MASK_START.search(stem))


def _match(masks: list[str], images: list[str], stem: Callable[[str], str], pattern: str | None) -> Pairs:
    exact: dict[tuple[str, str], list[str]] = defaultdict(list)
    anywhere: dict[str, list[str]] = defaultdict(list)
    for image in images:
        for key in {stem(image), IMAGE_START.sub("", stem(image))}:
            exact[scope(image), key].append(image)
        anywhere[stem(image)].append(image)
    ordered = sorted((f"{scope(image)}/{stem(image)}", image) for image in images)
    paths = sorted((image, image) for image in images)
    claims: dict[str, list[tuple[bool, int, str]]] = defaultdict(list)
    rivals: list[str] = []
    for mask in masks:
        bases = [stem(mask), MASK_END.sub("", stem(mask)), MASK_START.sub("", stem(mask))]
        if pattern is not None:
            found = re.search(pattern, mask)
            claimed = list(_beginning(paths, found[1])) if found and found[1] else []
            whole, length = False, len(found[1]) if found and found[1] else 0
        else:
            there = next((exact[scope(mask), base] for base in bases if (scope(mask), base) in exact), [])
            whole, length, claimed = bool(there), len(bases[1]), list(there)
            if not claimed:
                claimed = list(_beginning(ordered, f"{scope(mask)}/{bases[1]}"))
            if not claimed:
                claimed = next((anywhere[base] for base in bases if base in anywhere), [])
                if len(claimed) > 1:
                    rivals.append(mask)
                    continue
        for image in claimed:
            claims[image].append((whole, length, mask))
    pairs = Pairs(images, rivals=rivals)
    for image in images:
        best = max((claim[:2] for claim in claims[image]), default=None)
        winners = [mask for *strength, mask in claims[image] if tuple(strength) == best]
        if len(winners) == 1:
            pairs.of_mask.setdefault(winners[0], []).append(image)
        else:
            pairs.rivals += winners[1:]
            if winners:  # the first by name is as good as any, and the others are told
                pairs.of_mask.setdefault(winners[0], []).append(image)
    pairs.rivals = sorted(set(pairs.rivals) - pairs.of_mask.keys())
    pairs.alone = sorted(set(masks) - pairs.of_mask.keys() - set(pairs.rivals))
    return pairs


def _beginning(ordered: list[tuple[str, str]], start: str) -> Iterator[str]:
    """Names whose key begins with `start` and goes on with a separator; after a folder alone, with anything but another folder."""
    at = bisect_left(ordered, (start,))
    while at < len(ordered) and ordered[at][0].startswith(start):
        rest = ordered[at][0][len(start) :]
        if rest and ((rest[0] in SEPARATORS) or (start.endswith("/") and len(start) > 1 and "/" not in rest)):
            yield ordered[at][1]
        at += 1
