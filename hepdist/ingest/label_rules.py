"""The rules file of labels: typed, checked when it is loaded, then applied row by row; what a disease is stands in the file, not here."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, model_validator

from hepdist.errors import RecipeError
from hepdist.ingest.files import file_at
from hepdist.ingest.label_cues import Cues
from hepdist.ingest.label_decide import Claim, Decision, Evidence, Findings, settle
from hepdist.ingest.label_icd import CodeSet, System, codes_in, deepest, plain_code
from hepdist.ingest.label_text import FindingPatterns, TextReader, TextTooLong
from hepdist.spec import Spec, parse

SHIPPED = Path(__file__).parent.parent / "recipes" / "labels"
_WHAT = "label rules"


class Columns(Spec):
    """Columns of the table by what they hold; those that a table lacks are passed over."""

    icd10: tuple[str, ...] = ()
    """ICD-10 codes, several in a cell if need be."""
    icd9: tuple[str, ...] = ()
    """ICD-9-CM codes, kept as text: as a number 070.30 is 70.3."""
    text: tuple[str, ...] = ()
    """Reports, in Chinese or English."""


class FindingRule(Spec):
    """How one finding is known."""

    icd10: tuple[str, ...] = ()
    """Codes with all below them, and ranges: K75, B15-B19, B18.0-B18.1. The deepest declared set that holds a code is the one it counts for."""
    text: tuple[str, ...] = ()
    """RE2 patterns of its names; words of negation, doubt and so on beside them are understood."""
    tests: tuple[str, ...] = ()
    """RE2 patterns of tests for it: named with a result they say what the result says, without one nothing."""
    denied: tuple[str, ...] = ()
    """RE2 patterns of what says by itself that it isn't there, such as a negative test."""
    covers: tuple[str, ...] = ()
    """More specific findings: denying this one denies them, and its name within theirs isn't a mention."""


class Default(Spec):
    """The class of rows that say nothing for any other; without this key they stay unlabelled."""

    label: str
    denied: tuple[str, ...] = ()
    """Findings of which one is denied by a text."""
    coded: bool = False
    """Or the row holds codes and none is declared, where the lists of codes are complete."""


class LabelRules(Spec):
    """A checked rules file; `decide` applies it. It pickles."""

    columns: Columns
    classes: dict[str, dict[str, FindingRule]]
    """Findings by class and id."""
    precedence: tuple[str, ...] = ()
    """Where several classes are affirmed the first of these is the label; with one that isn't listed the row is ambiguous."""
    default: Default | None = None
    ignore: tuple[str, ...] = ()
    """RE2 patterns within which nothing is a mention, such as a vaccine."""
    icd9_to_icd10: dict[str, str] = Field(default_factory=dict)
    """ICD-9-CM code or range to the ICD-10 code that it counts as; the deepest that holds a code is taken."""
    cues: Cues = Cues()
    """More words of negation, doubt, history and relatives; these win over the built-in ones of the same length."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """All labels that can come out: the default first, then as in the file."""
        default = () if self.default is None else (self.default.label,)
        return (*default, *(name for name in self.classes if name not in default))

    def columns_in(self, names: Mapping[str, Any] | list[str] | tuple[str, ...]) -> tuple[str, ...]:
        """Those of a table's columns that the rules read; raises RecipeError where there is none."""
        wanted = (*self.columns.icd10, *self.columns.icd9, *self.columns.text)
        if found := tuple(name for name in wanted if name in names):
            return found
        raise RecipeError(f"{_WHAT} read columns {', '.join(wanted)}, and the table has none of them; name its columns under 'columns'")

    def decide(self, values: Mapping[str, str]) -> Decision:
        """The label of one row and the evidence for it; values: cell by column. Never raises for what a cell holds."""
        claims: list[Claim] = []
        problems: set[str] = set()
        coded = False
        systems: tuple[tuple[System, tuple[str, ...]], ...] = (("icd10", self.columns.icd10), ("icd9", self.columns.icd9))
        for system, column in ((system, column) for system, columns in systems for column in columns):
            cell = values.get(column) or ""
            codes = codes_in(cell, system)
            if codes:
                coded = True
            elif cell.strip():
                problems.add("not-a-code")
            for place, code in enumerate(codes, start=1):
                claims += self._compiled.of_code(code, system, column, place)
        for column in self.columns.text:
            try:
                mentions = self._compiled.reader.read(values.get(column) or "")
            except TextTooLong:
                problems.add("text-too-long")
                continue
            for m in mentions:
                class_name = self._compiled.findings.class_of[m.finding]
                claims.append(Claim(m.finding, Evidence(class_name, m.finding, "text", m.polarity, column, m.sentence)))
        label, ambiguous = settle(claims, self._compiled.findings, coded=coded)
        first: dict[tuple[str, ...], Evidence] = {}
        for e in (claim.evidence for claim in claims):
            first.setdefault((e.class_name, e.rule, e.source, e.polarity, e.column), e)
        return Decision(None if "text-too-long" in problems else label, tuple(first.values()), ambiguous, tuple(sorted(problems)))

    @cached_property
    def _compiled(self) -> _Compiled:
        return _Compiled.of(self)

    @model_validator(mode="after")
    def _consistent(self) -> LabelRules:
        if not (self.columns.icd10 or self.columns.icd9 or self.columns.text):
            raise ValueError("'columns' names no column; give icd10, icd9 or text")
        names = [name for findings in self.classes.values() for name in findings]
        if not names:
            raise ValueError("'classes' holds no finding")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"finding '{twice[0]}' stands twice; give each its own id")
        for name, rule in ((n, r) for findings in self.classes.values() for n, r in findings.items()):
            if not (rule.icd10 or rule.text or rule.tests or rule.denied):
                raise ValueError(f"finding '{name}' has neither icd10 nor text nor tests nor denied; nothing can ever be it")
            _known(rule.covers, names, f"finding '{name}' covers")
        _known(self.precedence, list(self.classes), "'precedence' names")
        if self.default is not None:
            _known(self.default.denied, names, "'default.denied' names")
        _ = self._compiled
        return self


def load_rules(path: str | Path) -> LabelRules:
    """The rules file at `path` or a URI, or the shipped one of that name ('hepatitis'); raises RecipeError with one sentence where it is wrong."""
    place, name = file_at(path)
    if not place.exists(name) and (SHIPPED / f"{path}.yaml").is_file():
        place, name = file_at(SHIPPED / f"{path}.yaml")
    if not place.exists(name):
        shipped = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.yaml")))
        raise RecipeError(f"{_WHAT} '{path}' do not exist; give a path to a .yaml file, or one of the shipped ones: {shipped}")
    try:
        values = yaml.safe_load(place.read(name).decode("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        raise RecipeError(f"{_WHAT} '{path}' are no YAML in UTF-8" + (f" (line {where.line + 1})" if where else "")) from None
    if not isinstance(values, dict):
        raise RecipeError(f"{_WHAT} '{path}' hold no keys; see docs/cohorts.md for their form")
    mappings = values.get("icd9_to_icd10")
    if isinstance(mappings, dict) and (bare := next((key for key in mappings if not isinstance(key, str)), None)) is not None:
        raise RecipeError(f"{_WHAT} key 'icd9_to_icd10' holds {bare} as a number, which loses zeros; put ICD-9 codes in quotes")
    classes = values.get("classes")
    for class_name, findings in classes.items() if isinstance(classes, dict) else ():
        for name, rule in findings.items() if isinstance(findings, dict) else ():  # one by one, so that a wrong key's message is theirs
            parse(FindingRule, rule, what=_WHAT, prefix=f"classes.{class_name}.{name}.")
    rules: LabelRules = parse(LabelRules, values, what=_WHAT)
    return rules


def _known(asked: tuple[str, ...], known: list[str], what: str) -> None:
    for name in asked:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            raise ValueError(
                f"{what} '{name}', which isn't declared; " + (f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}")
            )


@dataclass(frozen=True)
class _Compiled:
    """Rules in the form in which rows are judged."""

    findings: Findings
    reader: TextReader
    sets: dict[CodeSet, tuple[str, ...]]
    """Findings by declared ICD-10 set."""
    mappings: dict[CodeSet, str]
    """Plain ICD-10 code by declared ICD-9 set."""

    @classmethod
    def of(cls, rules: LabelRules) -> _Compiled:
        """Raises ValueError with the reason for a pattern, code or range that can't be read."""
        every = {name: rule for findings in rules.classes.values() for name, rule in findings.items()}
        sets: dict[CodeSet, tuple[str, ...]] = {}
        for name, rule in every.items():
            for declared in rule.icd10:
                code_set = CodeSet.parse(declared, "icd10")
                sets[code_set] = (*sets.get(code_set, ()), name)
        mappings = {}
        for declared, target in rules.icd9_to_icd10.items():
            code = plain_code(target, "icd10")
            if code is None:
                raise ValueError(f"'icd9_to_icd10' maps '{declared}' to '{target}', which is no ICD-10 code")
            mappings[CodeSet.parse(declared, "icd9")] = code
        default = rules.default
        findings = Findings(
            {name: class_name for class_name, inner in rules.classes.items() for name in inner},
            _covered({name: frozenset(rule.covers) for name, rule in every.items()}),
            rules.precedence,
            None if default is None else default.label,
            frozenset(() if default is None else default.denied),
            default is not None and default.coded,
        )
        patterns = {name: FindingPatterns(rule.text, rule.tests, rule.denied, tuple(findings.covers[name])) for name, rule in every.items()}
        return cls(findings, TextReader(patterns, rules.ignore, rules.cues), sets, mappings)

    def of_code(self, code: str, system: System, column: str, place: int) -> list[Claim]:
        """Claims of one plain code; an ICD-9 one counts as the ICD-10 code that it is mapped to."""
        if system == "icd9":
            targets = [(self.mappings[s], f"{s.name}>") for s in deepest(self.mappings, code)]
        else:
            targets = [(code, "")]
        return [
            Claim(finding, Evidence(self.findings.class_of[finding], mapping + code_set.name, system, "affirmed", column, place))
            for target, mapping in targets
            for code_set in deepest(self.sets, target)
            for finding in self.sets[code_set]
        ]


def _covered(direct: dict[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """All findings below each. Raises ValueError where one covers itself."""
    below = dict(direct)
    for _ in direct:  # a path is no longer than there are findings
        below = {name: inner.union(*(below[i] for i in inner)) for name, inner in below.items()}
    if circular := sorted(name for name, inner in below.items() if name in inner):
        raise ValueError(f"finding '{circular[0]}' covers itself; remove it from 'covers'")
    return below
