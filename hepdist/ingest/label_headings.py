"""Sections of a report: the lines below a heading that says whose they are or of when, such as 'Family history:'; no disease is named here."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator

from hepdist.ingest.label_cues import RELATIVES, RELATIVES_ZH, Polarity

_SPEAKING: dict[Polarity, str] = {
    "family": r"fam(?:ily|\.)? (?:medical )?(?:history|hx|h/o)|f\.?h(?:x|\.)?|家族(?:病|遗传病?)?史",
    "historical": r"(?:past|previous|prior) (?:medical |surgical |clinical )?(?:history|hx|diagnoses|illnesses)|(?:medical|surgical) (?:history|hx)|"
    r"p\.?[ms]\.?h(?:x|\.)?|既往(?:病|疾病)?史|过去史|疾病史|传染病史",
    "uncertain": r"differential(?: diagnos[ie]s)?|ddx|(?:patient|health) education|teaching|鉴别诊断|健康(?:教育|宣教|指导)|宣教",
}
_OTHER = (
    r"(?:social|personal|travel|occupational|developmental|immuni[sz]ation|obstetric(?:al)?) (?:history|hx)|social|sh|history of (?:the )?present(?:ing)? "
    r"illness|present illness|hpi|chief complaint|(?:clinical )?(?:history|information)|indications?|reason for (?:the )?(?:exam(?:ination)?|study|visit|admission)|"
    r"review of systems|ros|(?:physical )?exam(?:ination)?|vital(?:s| signs)|(?:current |home |discharge )?medications?|allerg(?:y|ies)|immuni[sz]ations?|"
    r"technique|comparison|findings?|impressions?|conclusions?|opinion|(?:hospital |clinical )?course|assessment(?: (?:and|&|/) plan)?|a/p|plan|recommendations?|"
    r"(?:(?:discharge|admission|admitting|final|principal|primary|secondary|working|current) )?diagnos[ie]s|(?:current |active )?problems?(?: list)?|"
    r"lab(?:s|oratory)?(?: (?:data|results|findings|studies))?|results?|serology|pathology|"
    r"主诉|现病史|个人史|婚育史|月经史|生育史|手术史|(?:药物)?过敏史|预防接种史|接种史|流行病学史|体格检查|查体|专科检查|辅助检查|实验室检查|化验|"
    r"(?:影像|检查|超声|CT|MRI?|镜下|病理)?(?:所见|表现|描述)|(?:影像|超声|病理|初步|入院|出院|修正|补充|最后|临床)?诊断(?:意见|结果)?|印象|结论|"
    r"建议|处理|诊疗(?:经过|计划)|入院情况|出院情况|出院医嘱|医嘱|目前用药"
)
# A heading opens its line and is followed by a colon or by nothing; a number or a bullet may stand before it.
_HEADING = re.compile(
    r"[ \-*•#]*(?:\d{1,2}[.)、] ?)?(?:"
    + "|".join(f"(?P<{kind}>{names})" for kind, names in _SPEAKING.items())
    + rf"|(?P<other>{_OTHER})) ?(?::|$) ?",
    re.IGNORECASE,
)
_TITLE = re.compile(r"[^\W\d_][^:\n]{1,40}:|[A-Z][A-Z /&]{3,40}$")
"""What looks like a heading, known or not."""
_ITEM = re.compile(r" ?(?:[-*•·]|\(?\d{1,2}[.)、])")
_RELATIVE = re.compile(rf"\b(?:{RELATIVES})\b|{RELATIVES_ZH}", re.IGNORECASE)


class Sections:
    """Which lines of one text stand below a heading that speaks for them."""

    def __init__(self, text: str) -> None:
        self._starts: list[int] = []
        self._kinds: list[Polarity | None] = []
        for start, kind in _changes(text):
            self._starts.append(start)
            self._kinds.append(kind)

    def at(self, position: int) -> Polarity | None:
        """What the heading above `position` says of it; None where there is no such heading, and in a heading's own line."""
        place = bisect_right(self._starts, position)
        return self._kinds[place - 1] if place else None


def _changes(text: str) -> Iterator[tuple[int, Polarity | None]]:
    """Where a section begins, with what its heading says, and where it ends (None), in the order of the text.

    A heading alone on its line speaks for all lines to the next known heading, or to what looks like a heading after an empty line. One
    with an item of a list beside it speaks for the items; one with other words beside it for its own line, as the cue that it is.
    """
    kind: Polarity | None = None
    items_only = empty = False
    position = 0
    for line in text.split("\n"):
        start, position = position, position + len(line) + 1
        if not line.strip():
            empty = True
            continue
        heading = _HEADING.match(line)
        if heading is not None:
            rest = line[heading.end() :]
            if kind is not None:
                yield start, None
            items_only = _ITEM.match(rest) is not None
            kind = next((k for k in _SPEAKING if heading[k] is not None), None) if items_only or not rest.strip() else None
            if kind is not None:
                yield position, kind
        elif kind is not None and _ends(line, items_only=items_only, empty=empty):
            kind = None
            yield start, None
        empty = False


def _ends(line: str, *, items_only: bool, empty: bool) -> bool:
    """Whether a line without a known heading ends the section that it would stand in; empty: an empty line is above it."""
    if items_only and _ITEM.match(line) is None:
        return True
    return empty and _TITLE.match(line) is not None and _RELATIVE.search(line) is None
