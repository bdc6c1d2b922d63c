"""What a report's text says of declared findings: mentions, and how the words about them turn them; no disease is named here.

The method is that of NegEx and ConText (label_cues.py): one pass over each sentence carries the cues that act forwards, one the cues
that act backwards. Where a negation's reach is in doubt, the mention is uncertain, never affirmed. Time grows with the length of the
text alone: patterns are RE2, which has no backtracking.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import re2

from hepdist.ingest.label_cues import BUILT_IN, Cues, Polarity, simplified
from hepdist.ingest.label_headings import Sections
from hepdist.ingest.label_lines import normal, sentence_ends

LONGEST_TEXT = 100_000
"""Characters of one cell; a whole stay's notes are shorter. A longer one is not read at all: its end may deny what its start says."""
_REACH = 100
"""Characters after a negation within which it is sure to mean a mention; NegEx' window of five words, wide enough for adjectives."""

_COMMA = re.compile(r",(?!\d)")
_VERB = re.compile(r"(?:is|was|are|were|has|have)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Mention:
    """A finding that a text names."""

    finding: str
    polarity: Polarity
    sentence: int
    """Counted from 1."""


class TextTooLong(ValueError):
    """The text exceeds LONGEST_TEXT; it isn't read."""


@dataclass(frozen=True)
class FindingPatterns:
    """What names a finding (`text`), a test of it (`tests`), what says by itself that it isn't there (`denied`), and what it covers."""

    text: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()
    covers: tuple[str, ...] = ()


def compiled(pattern: str) -> Any:
    """An RE2 expression, the case ignored, the longest match counted. Raises ValueError with the reason."""
    options = re2.Options()
    options.longest_match, options.case_sensitive, options.log_errors = True, False, False
    options.never_capture = True  # only the whole match counts, and groups cost a second machine
    try:
        expression = re2.compile(simplified(pattern), options)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
        raise ValueError(f"pattern '{pattern}' is no RE2 expression ({reason}); RE2 has no look-around and no back-reference") from None
    if expression.search("") is not None:
        raise ValueError(f"pattern '{pattern}' matches an empty text; make a part of it obligatory")
    if unicodedata.normalize("NFKC", pattern) != pattern:
        raise ValueError(f"pattern '{pattern}' holds full-width characters, which texts are read without; write them half-width")
    return expression


@dataclass
class _Token:
    """A cue, a comma or a mention; `kind` is a field of Cues, 'comma' or 'mention'."""

    start: int
    end: int
    kind: str
    finding: str = ""
    named_by: str = "text"
    """Of a mention: the field of FindingPatterns."""
    positive: bool = False
    """Of a mention: a positive result stands beside it."""
    verb_first: bool = False
    """Of a cue: it begins with a verb, as what follows an insertion does ('hepatitis, suspected elsewhere, was excluded')."""
    chinese: bool = False
    """Of a comma: a Chinese character stands beside it."""
    forward: Polarity = "affirmed"
    backward: Polarity = "affirmed"
    in_doubt: bool = False
    """Of a mention: `forward` is uncertain because a comma or a verb stands between it and a negation. Of a cue after: a mention follows it."""


class TextReader:
    """Finds the mentions of declared findings in report texts; built once, used for every row."""

    def __init__(self, findings: Mapping[str, FindingPatterns], ignore: Iterable[str] = (), cues: Cues | None = None) -> None:
        """findings: by id; ignore: patterns within which nothing is a mention; cues: more of them, which win over the built-in ones.

        Raises ValueError for a pattern that RE2 refuses.
        """
        self._findings = {
            name: [(_any_of(p), by) for by, p in (("text", f.text), ("denied", f.denied), ("tests", f.tests)) if p]
            for name, f in findings.items()
        }
        self._covers = {name: frozenset(f.covers) for name, f in findings.items()}
        ignored = tuple(ignore)
        self._ignore = _any_of(ignored) if ignored else None
        more = cues or Cues()
        self._cues = [
            (_any_of(patterns), kind, own)
            for own, source in ((True, more), (False, BUILT_IN))
            for kind, patterns in source.model_dump().items()
            if patterns
        ]

    def read(self, text: str) -> list[Mention]:
        """Mentions in the order of the text. Raises TextTooLong."""
        if len(text) > LONGEST_TEXT:
            raise TextTooLong(f"a text of more than {LONGEST_TEXT} characters")
        text = normal(text)
        ignored = [match.span() for match in self._ignore.finditer(text)] if self._ignore else []
        mentions = self._mentions(text, ignored)
        if not mentions:
            return []
        cues = self._cue_tokens(text, [(m.start, m.end) for m in mentions], ignored)
        sections = Sections(text)
        found: list[Mention] = []
        for number, (start, tokens) in enumerate(_sentences(text, cues, mentions), start=1):
            _forward(tokens, sections.at(start))
            _backward(tokens)
            found += [Mention(t.finding, _polarity(t), number) for t in tokens if t.kind == "mention" and _says_something(t)]
        return found

    def _mentions(self, text: str, ignored: list[tuple[int, int]]) -> list[_Token]:
        """Of mentions within another the longer stays, unless both start together and neither covers the other ('hepatitis B and C')."""
        every = [
            _Token(match.start(), match.end(), "mention", name, named_by)
            for name, expressions in self._findings.items()
            for expression, named_by in expressions
            for match in expression.finditer(text)
        ]
        every.sort(key=lambda t: (t.start, -t.end))
        kept: list[_Token] = []
        longest: list[_Token] = []  # the kept ones that reach furthest, all with one start
        ignored = sorted(ignored)
        position = 0
        for token in every:
            while position < len(ignored) and ignored[position][1] <= token.start:
                position += 1
            if position < len(ignored) and ignored[position][0] <= token.start and token.end <= ignored[position][1]:
                continue
            same = {token.finding, *self._covers[token.finding]}
            if any(token.end <= k.end and (token.start > k.start or k.finding in same) for k in longest):
                continue
            kept.append(token)
            if not longest or token.end > max(k.end for k in longest):
                longest = [token] if not longest or token.start > longest[0].start else [*longest, token]
            elif token.start == longest[0].start:
                longest.append(token)
        return kept

    def _cue_tokens(self, text: str, mentions: list[tuple[int, int]], ignored: list[tuple[int, int]]) -> list[_Token]:
        """The longest cues, no two over each other; one pattern may be a cue in both directions. None lies in a mention."""

        def token(start: int, end: int, kind: str) -> _Token:
            return _Token(start, end, kind, verb_first=_VERB.match(text, start, end) is not None)

        spans = [(start, end, "neutral", True) for start, end in [*mentions, *ignored]]
        spans += [(*match.span(), kind, own) for expression, kind, own in self._cues for match in expression.finditer(text)]
        spans.sort(key=lambda s: (s[0] - s[1], not s[3], s[0]))
        taken = bytearray(len(text))
        winners: dict[tuple[int, int], bool] = {}
        tokens = []
        whole = set(mentions)
        for start, end, kind, own in spans:
            if (start, end) in whole:
                taken[start:end] = b"\1" * (end - start)
                continue
            if winners.get((start, end)) == own and kind != "neutral":
                tokens.append(token(start, end, kind))
            elif not (taken[start] or taken[end - 1]):
                taken[start:end] = b"\1" * (end - start)
                winners[start, end] = own
                tokens.append(token(start, end, kind))
        return [t for t in tokens if t.kind != "neutral"]


def _any_of(patterns: tuple[str, ...]) -> Any:
    """One expression for all, each checked alone first: an error names the one that is wrong."""
    for pattern in patterns:
        compiled(pattern)
    return compiled("|".join(f"(?:{p})" for p in patterns))


def _sentences(text: str, cues: list[_Token], mentions: list[_Token]) -> Iterable[tuple[int, list[_Token]]]:
    """Start of each sentence and its tokens in the order of the text, commas among them."""
    commas = [_Token(m.start(), m.end(), "comma", chinese=_beside_chinese(text, m.start())) for m in _COMMA.finditer(text)]
    tokens = sorted([*cues, *commas, *mentions], key=lambda t: (t.start, t.kind == "mention"))
    ends = sentence_ends(text, [t.end for t in cues])
    position = start = 0
    for end in [*ends, len(text)]:
        first = position
        while position < len(tokens) and tokens[position].start <= end:
            position += 1
        yield start, tokens[first:position]
        start = end + 1


def _beside_chinese(text: str, at: int) -> bool:
    return any(not c.isascii() for c in text[max(0, at - 1) : at + 2])


def _forward(tokens: list[_Token], section: Polarity | None) -> None:
    """Set each mention's `forward` from the cues before it; the heading of its section is one that stands before each sentence."""
    negation: _Token | None = None
    uncertain, historical, family = (section == kind for kind in ("uncertain", "historical", "family"))
    comma = verb = positive = False  # one stands between the negation and here; a positive result since the last comma
    fresh_doubt, fresh_history = uncertain, historical  # it began after the last comma
    listed: list[_Token] = []  # uncertain for a comma alone, until an 'or' shows that it parts the items of a list
    for token in tokens:
        match token.kind:
            case "negated_before" | "negated_before_list":
                negation, comma, verb, listed = token, False, False, []
                uncertain = uncertain and fresh_doubt
            case "uncertain_before":
                uncertain = fresh_doubt = True
            case "historical_before":
                historical = fresh_history = True
            case "family_before":
                family = True
            case "affirmed_before":
                verb, historical, uncertain = True, historical and fresh_history, uncertain and fresh_doubt
                negation = None if comma else negation
            case "affirmed_after":
                positive = True
            case "comma":
                comma, fresh_doubt, fresh_history, positive = True, False, False, False
                if token.chinese:  # parts clauses; the items of a list are parted by another sign
                    uncertain = False
                    negation = negation if negation is not None and negation.kind == "negated_before_list" else None
            case "alternative":
                for mention in listed:
                    mention.forward, mention.in_doubt = "negated", False
                comma, listed = False, []
            case "contrast":
                negation, uncertain, historical, family, listed = None, False, False, False, []
            case "patient":
                family = False
            case "mention":
                token.positive, positive = positive, False
                far = comma_counts = False
                if negation is not None and negation.kind == "negated_before":
                    far, comma_counts = token.start - negation.end > _REACH, comma
                if family:
                    token.forward = "family"
                elif uncertain:
                    token.forward = "uncertain"
                elif negation is not None and (far or comma_counts or verb):
                    token.forward, token.in_doubt = "uncertain", True
                    if not (far or verb):
                        listed.append(token)
                elif negation is not None:
                    token.forward = "negated"
                elif historical:
                    token.forward = "historical"


_AFTER: dict[str, Polarity] = {
    "negated_after": "negated",
    "negated_after_list": "negated",
    "uncertain_after": "uncertain",
    "historical_after": "historical",
    "family_after": "family",
}
_STOPS = ("negated_before", "negated_before_list", "uncertain_before", "historical_before", "family_before", "contrast")


def _backward(tokens: list[_Token]) -> None:
    """Set each mention's `backward` from the cues after it; one said to be positive is free of a doubtful negation."""
    acting: dict[Polarity, _Token] = {}
    inserted: dict[Polarity, _Token] = {}
    positive = False
    mention_after = False  # to the right, in the same clause: what a cue behind a comma means then
    # Of one cue in both directions the half that acts forwards comes first here: it ends the reach of what follows, not of itself.
    for token in sorted(tokens, key=lambda t: (-t.start, t.kind in _AFTER)):
        if token.kind in _STOPS:
            acting, positive = {}, False
        elif token.kind == "affirmed_after":
            acting, positive = {}, True
        elif token.kind in _AFTER:
            token.in_doubt = mention_after
            acting[_AFTER[token.kind]] = token
        elif token.kind == "comma":
            beside = {polarity: cue for polarity, cue in acting.items() if cue.start - token.end <= 1 and not cue.in_doubt}  # ', not seen'
            inserted = {} if mention_after else inserted  # between two commas, before a verb
            acting = {polarity: cue for polarity, cue in acting.items() if cue.kind == "negated_after_list"} | inserted | beside
            inserted = {polarity: cue for polarity, cue in beside.items() if cue.verb_first}
            positive = mention_after = False
        elif token.kind == "mention":
            mention_after = True
            token.positive = token.positive or positive
            token.backward = next((p for p in _FIRST if p in acting), "affirmed")
            if token.in_doubt and positive:
                token.forward = "affirmed"


_FIRST: tuple[Polarity, ...] = ("family", "negated", "uncertain", "historical")
"""Of what is said on either side of a mention: a relative's disease says nothing of the patient, denied or not."""


def _says_something(mention: _Token) -> bool:
    """A test that is named without a result says nothing."""
    return mention.named_by != "tests" or mention.positive or _polarity(mention) != "affirmed"


def _polarity(mention: _Token) -> Polarity:
    """Both sides together. 'Possible hepatitis was excluded' denies; 'no hepatitis, though not excluded' and a denied denial are uncertain."""
    sides = {mention.forward, mention.backward}
    if "family" in sides:
        return "family"
    before, after, denied = mention.forward == "negated", mention.backward == "negated", mention.named_by == "denied"
    if before + after + denied > 1 or ((before or denied) and mention.backward == "uncertain"):
        return "uncertain"
    if denied:
        sides.add("negated")
    return next((p for p in _FIRST if p in sides), "affirmed")
