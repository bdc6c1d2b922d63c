"""Lines and sentences of a report: its text in one form, wrapped lines joined, and where sentences end; what they say is read elsewhere."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection

from hepdist.ingest.label_cues import simplified

# A dot ends a sentence before a space or a Chinese character, unless it ends an abbreviation or numbers an item.
_END = re.compile(r"[!;。\n]|(?<=[\w)])\?|\.(?=\s|$|[^\x00-\x7f])")
_NO_END = re.compile(r"(?:\b(?:evid|hx|pt|dr|vs|approx|fam|neg|pos|e\.g|i\.e|cf|resp|poss|prob)|(?:^|[\n:;。.])\s*\d{1,2})$", re.IGNORECASE)
_SPACES = re.compile(r"[^\S\n]+")
# An English line that goes on in lower case is wrapped where it is long or its neighbour's words tell; else it may be an item of a list,
# which a comma leaves in doubt. No Chinese line ends in one of these characters.
_WRAPPED = re.compile(
    r"([^\n]{40}|\b(?:of|or|and|the|an?|no|not|any|with|without|for|to|in|by|is|was|acute|chronic|active|evidence|findings?|signs?)) ?\n ?(?=[a-z])"
    r"| ?\n ?(?=(?:of|or|and|nor|to|for|in|on|by|with|is|was|are|were|has|have)\b)"
)
_LOWER_CASE_LINE = re.compile(r" ?\n ?(?=[a-z])")
_WRAPPED_CHINESE = re.compile(r"(?<=[未无不没]) ?\n ?")


def normal(text: str) -> str:
    """Half-width, simplified, one space at a time, wrapped lines joined."""
    text = _SPACES.sub(" ", simplified(unicodedata.normalize("NFKC", text)))
    return _WRAPPED_CHINESE.sub("", _LOWER_CASE_LINE.sub(", ", _WRAPPED.sub(r"\1 ", text)))


def sentence_ends(text: str, cue_ends: Collection[int]) -> list[int]:
    """Where sentences end, the last one aside. A line ends one unless it breaks off in a cue, or in a heading that is one ('Family history:')."""
    ends = frozenset(cue_ends)
    return [match.start() for match in _END.finditer(text) if _ends_sentence(text, match.start(), ends)]


def _ends_sentence(text: str, at: int, cue_ends: frozenset[int]) -> bool:
    before = text[max(0, at - 20) : at]
    if text[at] == ".":
        return _NO_END.search(before) is None
    return text[at] != "\n" or cue_ends.isdisjoint(range(at - len(before) + len(before.rstrip(" :")), at + 1))
