"""Labels of reports by an author who had seen neither the rules nor the sentences they were made with: 95 % right, none positive where negated."""

from __future__ import annotations

import pytest
from report_sentences_fresh import FRESH, LIVER_TERMS, Report

from hepdist.ingest.label_rules import LabelRules, load_rules
from hepdist.ingest.label_text import FindingPatterns, TextReader


class Reading:
    """What the shipped rules, and the built-in cues about other liver terms, make of a report."""

    def __init__(self, rules: LabelRules, liver: TextReader, report: Report) -> None:
        decision = rules.decide({"report": report.text})
        self.label = decision.label
        said = {(e.rule, e.polarity) for e in decision.evidence} | {(m.finding, m.polarity) for m in liver.read(report.text)}
        wider = {f for findings in rules.classes.values() for f, rule in findings.items() if set(rule.covers) & _with(report, "affirmed")}
        self.affirmed_wrongly = {f for f, polarity in said if polarity == "affirmed"} - _with(report, "affirmed") - wider
        self.missed = {(f, polarity) for f, polarity in report.truth.items()} - said
        self.right = self.label == report.label and not self.affirmed_wrongly and not self.missed
        """As report_sentences_fresh.py declared before it was measured."""


def _with(report: Report, polarity: str) -> set[str]:
    return {finding for finding, said in report.truth.items() if said == polarity}


@pytest.fixture(scope="module")
def readings() -> list[tuple[Report, Reading]]:
    rules = load_rules("hepatitis")
    liver = TextReader({name: FindingPatterns((pattern,)) for name, pattern in LIVER_TERMS.items()})
    return [(report, Reading(rules, liver, report)) for report in FRESH]
