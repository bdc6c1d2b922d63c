"""Labels from codes and reports: what a declared rules file decides, why, and that no text comes out with it."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest
import yaml
from report_sentences import HELD_OUT, LATER, TUNED

from hepdist.errors import RecipeError
from hepdist.ingest.label_icd import CodeSet, codes_in
from hepdist.ingest.label_rules import LabelRules, load_rules
from hepdist.ingest.label_text import LONGEST_TEXT, FindingPatterns, TextReader

SENTENCES = TUNED + HELD_OUT + LATER


@pytest.fixture(scope="module")
def hepatitis() -> LabelRules:
    return load_rules("hepatitis")


def _says(rules: LabelRules, text: str) -> set[tuple[str, str]]:
    return {(e.rule, e.polarity) for e in rules.decide({"report": text}).evidence}


# --- reports -------------------------------------------------------------------------------------------------------------------


def test_at_least_95_percent_of_the_sentences_are_right_in_finding_polarity_and_label(hepatitis: LabelRules) -> None:
    assert len(SENTENCES) >= 160 and len({s.text for s in SENTENCES}) == len(SENTENCES)
    for sentences in (SENTENCES, HELD_OUT, [s for s in SENTENCES if s.text.isascii()], [s for s in SENTENCES if not s.text.isascii()]):
        right = [s for s in sentences if _says(hepatitis, s.text) == s.says and hepatitis.decide({"report": s.text}).label == s.label]
        assert len(right) / len(sentences) >= 0.95


def test_no_finding_is_affirmed_that_the_sentence_denies_doubts_or_says_of_the_past_or_a_relative(hepatitis: LabelRules) -> None:
    for sentence in SENTENCES:
        affirmed = {says for says in _says(hepatitis, sentence.text) if says[1] == "affirmed"}
        assert affirmed <= sentence.says, sentence.text


@pytest.mark.parametrize("kind", ["negated", "uncertain", "historical", "family", "none"])
def test_no_class_but_the_default_comes_of_a_sentence_without_an_affirmed_finding(hepatitis: LabelRules, kind: str) -> None:
    labels = {hepatitis.decide({"report": s.text}).label for s in SENTENCES if s.kind == kind}
    assert labels <= ({None, "no hepatitis"} if kind == "negated" else {None})


def test_every_negation_holds_for_every_finding_and_in_every_place_of_a_list(hepatitis: LabelRules) -> None:
    names = {"hbv": "hepatitis B", "hcv": "丙型肝炎", "aih": "autoimmune hepatitis", "alcoholic": "酒精性肝炎", "steato": "NASH"}
    frames = [
        "No evidence of {}.",
        "未见{}征象。",
        "否认{}。",
        "{} was ruled out.",
        "{}已排除。",
        "Denies {}, fever, cough.",
        "无腹水、{}、黄疸。",
    ]
    for finding, name in names.items():
        for frame in frames:
            assert _says(hepatitis, frame.format(name)) == {(finding, "negated")}, (finding, frame)


def test_full_width_traditional_and_wrapped_text_reads_as_the_plain_one(hepatitis: LabelRules) -> None:
    assert _says(hepatitis, "ＨＢｓＡｇ（－）") == _says(hepatitis, "HBsAg(-)") == {("hbv", "negated")}
    assert _says(hepatitis, "無肝炎病史，懷疑酒精性肝炎") == {("hepatitis", "negated"), ("alcoholic", "uncertain")}
    assert _says(hepatitis, "There is  no evidence\r\n of acute or\n chronic hepatitis.") == {("hepatitis", "negated")}
    assert _says(hepatitis, "Family history:\nHepatitis B") == {("hbv", "family")}


def test_a_line_of_its_own_is_a_sentence_of_its_own(hepatitis: LabelRules) -> None:
    assert _says(hepatitis, "No ascites\nChronic hepatitis B") == {("hbv", "affirmed")}
    assert _says(hepatitis, "no ascites\nchronic hepatitis b") == {("hbv", "uncertain")}  # it may be a wrapped one
    assert _says(hepatitis, "肝内未见占位\n慢性乙型肝炎") == {("hbv", "affirmed")}


def test_a_negation_whose_reach_is_in_doubt_gives_no_label(hepatitis: LabelRules) -> None:
    for text in ("No focal lesion, chronic hepatitis B.", "No cirrhosis due to hepatitis B."):
        decision = hepatitis.decide({"report": text})
        assert decision.label is None and decision.ambiguous and {e.polarity for e in decision.evidence} == {"uncertain"}


def test_evidence_names_column_and_sentence(hepatitis: LabelRules) -> None:
    decision = hepatitis.decide({"findings": "Liver normal. No ascites.", "impression": "1. Steatosis.\n2. Chronic hepatitis C."})
    assert [(e.class_name, e.rule, e.source, e.polarity, e.column, e.place) for e in decision.evidence] == [
        ("viral hepatitis", "hcv", "text", "affirmed", "impression", 3)
    ]


# --- codes ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "inside", "outside"),
    [
        ("B15-B19", ["B15", "B15.0", "B17.11", "B19", "B19.9", "B18.100x005"], ["B14.9", "B20", "A15", "C15"]),
        ("K75", ["K75", "K75.0", "K7581"], ["K74.9", "K76", "K7"]),
        ("B18.0-B18.1", ["B18.0", "B18.1", "B1810"], ["B18", "B18.2", "B17.9"]),
    ],
)
def test_an_icd10_set_holds_its_codes_with_all_below_them_and_no_others(declared: str, inside: list[str], outside: list[str]) -> None:
    code_set = CodeSet.parse(declared, "icd10")
    assert [c for c in inside if not any(code_set.holds(code) for code in codes_in(c, "icd10"))] == []
    assert [c for c in outside if any(code_set.holds(code) for code in codes_in(c, "icd10"))] == []


def test_icd9_ranges_know_lost_dots_and_zeros() -> None:
    code_set = CodeSet.parse("070.2-070.3", "icd9")
    assert all(code_set.holds(codes_in(text, "icd9")[0]) for text in ("070.20", "07032", "70.3", "070.3"))
    assert not any(code_set.holds(codes_in(text, "icd9")[0]) for text in ("070.1", "070.41", "07044", "703", "571.4"))


def test_a_cell_may_hold_several_codes_with_descriptions_and_marks() -> None:
    assert codes_in("B18.1†; K74.6* 肝硬化, e11.9|['I10']", "icd10") == ["B181", "K746", "E119", "I10"]
    assert codes_in("571.42 autoimmune;V02.61 / E950.0", "icd9") == ["57142", "V0261", "E9500"]
    assert codes_in("none", "icd10") == codes_in("", "icd9") == []


@pytest.mark.parametrize(
    ("column", "cell", "label", "rule"),
    [
        ("icd10", "I10; B18.1", "viral hepatitis", "B18.0-B18.1"),
        ("icd10", "B19.9", "viral hepatitis", "B15-B19"),
        ("icd10", "K75.4", "autoimmune hepatitis", "K75.4"),
        ("icd10", "K70.10", "alcoholic hepatitis", "K70.1"),
        ("icd10", "K71.6", "drug-induced hepatitis", "K71.2-K71.6"),
        ("icd10", "K75.81", "steatohepatitis", "K75.81"),
        ("icd10", "K75.89", "other hepatitis", "K75.8-K75.9"),
        ("icd9", "070.32", "viral hepatitis", "070.32-070.33>B18.0-B18.1"),
        ("icd9", "571.42", "autoimmune hepatitis", "571.42>K75.4"),
        ("icd9", "57149", "other hepatitis", "571.4>K73"),
    ],
)
def test_codes_give_the_class_of_the_deepest_declared_set(hepatitis: LabelRules, column: str, cell: str, label: str, rule: str) -> None:
    decision = hepatitis.decide({column: cell})
    assert (decision.label, decision.ambiguous) == (label, False)
    assert [(e.rule, e.source, e.polarity, e.column) for e in decision.evidence] == [(rule, column, "affirmed", column)]


def test_codes_outside_every_set_give_the_default_and_no_codes_give_none(hepatitis: LabelRules) -> None:
    assert hepatitis.decide({"icd10": "I10; E11.9"}).label == "no hepatitis"
    assert hepatitis.decide({"icd10": "K75.0"}).label == "no hepatitis"  # an abscess lies in K75 and in no declared set
    assert hepatitis.decide({"icd10": ""}).label is None
    assert hepatitis.decide({}).label is None
    unread = hepatitis.decide({"icd10": "see chart"})
    assert (unread.label, unread.problems) == (None, ("not-a-code",))
    assert hepatitis.decide({"icd10": "I10", "report": "History of hepatitis B."}).label is None


# --- several sources -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("icd10", "report", "label", "ambiguous"),
    [
        ("B18.1", "Chronic hepatitis B.", "viral hepatitis", False),
        ("B18.1", "Hepatitis C negative.", "viral hepatitis", False),  # another finding of the same class
        ("B18.1", "HBsAg negative.", None, True),
        ("B18.1", "No evidence of hepatitis.", None, True),  # denying hepatitis denies what it covers
        ("B18.1", "未见病毒性肝炎。", None, True),
        ("", "Chronic hepatitis B. Later: no hepatitis B.", None, True),
        ("K75.4", "Chronic hepatitis C.", "viral hepatitis", False),  # by precedence
        ("K75.4", "Possible hepatitis C.", None, True),  # would outrank it
        ("B18.2", "Possible autoimmune hepatitis.", "viral hepatitis", False),  # would not
        ("B18.2", "Possible chronic hepatitis.", "viral hepatitis", False),  # hepatitis C is one
        ("", "No hepatitis. Hepatitis B cannot be excluded.", None, True),
        ("I10", "Possible hepatitis.", None, True),
        ("I10", "Family history of hepatitis B.", "no hepatitis", False),
    ],
)
def test_sources_that_disagree_leave_the_row_unlabelled(
    hepatitis: LabelRules, icd10: str, report: str, label: str | None, ambiguous: bool
) -> None:
    decision = hepatitis.decide({"icd10": icd10, "report": report})
    assert (decision.label, decision.ambiguous) == (label, ambiguous)


def test_any_organ_is_a_file_and_classes_without_precedence_are_ambiguous_together(tmp_path: Path) -> None:
    rules = _rules(
        tmp_path,
        columns={"icd10": ["code"], "text": ["note"]},
        classes={
            "pneumonia": {"pneumonia": {"icd10": ["J12-J18"], "text": ["pneumonia", "肺炎"]}},
            "effusion": {"effusion": {"icd10": ["J90"], "text": ["(?:pleural )?effusion", "胸腔积液"]}},
        },
    )
    assert rules.class_names == ("pneumonia", "effusion")
    assert rules.decide({"code": "J15.1", "note": "No pleural effusion."}).label == "pneumonia"
    assert rules.decide({"note": "双肺肺炎，胸腔积液待排。"}).ambiguous
    both = rules.decide({"code": "J18.9 J90"})
    assert both.label is None and both.ambiguous
    assert rules.decide({"note": "No pneumonia, no effusion."}).label is None  # no default declared
    assert rules.columns_in(["id", "note"]) == ("note",)
    with pytest.raises(RecipeError, match="has none of them"):
        rules.columns_in(["id"])


def test_a_file_s_own_cues_win_over_the_built_in_ones(tmp_path: Path) -> None:
    content = {"columns": {"text": ["note"]}, "classes": {"x": {"cyst": {"text": ["cyst", "囊肿"]}}}}
    assert _rules(tmp_path, **content).decide({"note": "考虑囊肿"}).label is None
    assert _rules(tmp_path, **content, cues={"neutral": ["考虑"]}).decide({"note": "考虑囊肿"}).label == "x"
    assert _rules(tmp_path, **content, cues={"negated_after": ["nada"]}).decide({"note": "Cyst nada."}).label is None


# --- privacy and bounds --------------------------------------------------------------------------------------------------------


def test_nothing_of_a_cell_is_in_the_decision_or_its_repr(hepatitis: LabelRules) -> None:
    canary = "ZQXCANARY"
    values = {"report": f"{canary} chronic hepatitis B {canary}", "icd10": f"B18.1 {canary}", "icd9": canary}
    decision = hepatitis.decide(values)
    assert decision.label == "viral hepatitis" and canary not in repr(decision) and canary.encode() not in pickle.dumps(decision)
    too_long = hepatitis.decide({"report": canary * LONGEST_TEXT})
    assert too_long.problems == ("text-too-long",) and canary not in repr(too_long)


def test_a_text_too_long_to_read_leaves_the_row_unlabelled_whatever_else_it_says(hepatitis: LabelRules) -> None:
    decision = hepatitis.decide({"icd10": "B18.1", "report": "x" * (LONGEST_TEXT + 1)})
    assert decision.label is None and decision.problems == ("text-too-long",) and [e.rule for e in decision.evidence] == ["B18.0-B18.1"]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("unit", ["无肝炎", "no hepatitis B, ", "?", "\n", " ", "a", ".", "乙" * 50, "hepatitis A, B and "])
def test_the_longest_texts_are_read_in_bounded_time(hepatitis: LabelRules, unit: str) -> None:
    text = (unit * (LONGEST_TEXT // len(unit) + 1))[:LONGEST_TEXT]
    decision = hepatitis.decide({"report": text})
    assert decision.problems == () and len(decision.evidence) < 20


@pytest.mark.timeout(30)
def test_a_pattern_that_would_backtrack_for_ever_does_not() -> None:
    reader = TextReader({"x": FindingPatterns(("(a|aa)+$", "(x+x+)+y"))})
    assert reader.read("a" * 5000 + "! " + "x" * 5000) == []


def test_any_text_is_read_and_twice_the_same(hepatitis: LabelRules) -> None:
    from hypothesis import given, settings
    from hypothesis import strategies as st

    words = st.sampled_from(
        ["hepatitis", "hepatitis B", "乙肝", "no", "未见", "否认", ",", "，", "、", "or", "?", "可能", "但", "\n", ".", "。", " ", "阴性"]
    )

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.one_of(words, st.text(max_size=3)), max_size=12).map("".join))
    def check(text: str) -> None:
        assert hepatitis.decide({"report": text}) == hepatitis.decide({"report": text})

    check()


def test_rules_travel_to_other_processes(hepatitis: LabelRules) -> None:
    there = pickle.loads(pickle.dumps(hepatitis))
    assert [there.decide({"report": s.text}) for s in TUNED] == [hepatitis.decide({"report": s.text}) for s in TUNED]


# --- wrong files ---------------------------------------------------------------------------------------------------------------

GOOD = {"columns": {"text": ["note"]}, "classes": {"sick": {"cyst": {"icd10": ["N28"], "text": ["cyst"]}}}}


def _rules(folder: Path, **content: object) -> LabelRules:
    path = folder / "rules.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return load_rules(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clases": {}}, "key 'clases' is unknown; did you mean 'classes'"),
        ({"columns": {"txt": ["a"]}}, "key 'columns.txt' is unknown; did you mean 'columns.text'"),
        ({"columns": {}}, "'columns' names no column"),
        (
            {"classes": {"sick": {"cyst": {"txet": ["a"]}}}},
            "key 'classes.sick.cyst.txet' is unknown; did you mean 'classes.sick.cyst.text'",
        ),
        ({"classes": {"sick": {"cyst": {}}}}, "finding 'cyst' has neither"),
        ({"classes": {"a": {"x": {"text": ["x"]}}, "b": {"x": {"text": ["y"]}}}}, "finding 'x' stands twice"),
        ({"classes": {}}, "holds no finding"),
        ({"classes": {"sick": {"cyst": {"text": ["(cyst"]}}}}, "pattern '(cyst' is no RE2 expression"),
        ({"classes": {"sick": {"cyst": {"text": ["(?<!no )cyst"]}}}}, "no look-around"),
        ({"classes": {"sick": {"cyst": {"text": ["c*"]}}}}, "matches an empty text"),
        ({"classes": {"sick": {"cyst": {"text": ["囊肿（左）"]}}}}, "full-width"),
        ({"classes": {"sick": {"cyst": {"icd10": ["N28-N"]}}}}, "'N28-N' is no ICD-10 code or range"),
        ({"classes": {"sick": {"cyst": {"icd10": ["B19-B15"]}}}}, "ends before it begins"),
        ({"classes": {"sick": {"cyst": {"text": ["x"], "covers": ["cist"]}}}}, "'cist', which isn't declared"),
        ({"classes": {"sick": {"cyst": {"text": ["x"], "covers": ["cyst"]}}}}, "covers itself"),
        ({"precedence": ["sikc"]}, "'precedence' names 'sikc', which isn't declared; did you mean 'sick'"),
        ({"default": {"label": "well", "denied": ["cist"]}}, "'default.denied' names 'cist'"),
        ({"default": {"denied": ["cyst"]}}, "key 'default.label' is missing"),
        ({"icd9_to_icd10": {"593.2": "xyz"}}, "no ICD-10 code"),
        ({"icd9_to_icd10": {"N28": "N28"}}, "'N28' is no ICD-9 code"),
        ({"icd9_to_icd10": {593.2: "N28"}}, "put ICD-9 codes in quotes"),
        ({"cues": {"negated": ["no"]}}, "key 'cues.negated' is unknown"),
        ({"ignore": ["["]}, "no RE2 expression"),
    ],
)
def test_a_wrong_rules_file_is_one_sentence(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)) as caught:
        _rules(tmp_path, **{**GOOD, **change})
    assert "\n" not in str(caught.value) and str(caught.value).startswith("label rules")


def test_a_file_that_is_no_rules_file_is_one_sentence(tmp_path: Path) -> None:
    assert _rules(tmp_path, **GOOD).class_names == ("sick",)
    path = tmp_path / "broken.yaml"
    for content, message in [(b"a: [", "no YAML in UTF-8"), (b"\xff\xfe\x00", "no YAML in UTF-8"), (b"- a\n", "hold no keys")]:
        path.write_bytes(content)
        with pytest.raises(RecipeError, match=message):
            load_rules(path)
    with pytest.raises(RecipeError, match=r"do not exist.*hepatitis"):
        load_rules(tmp_path / "none.yaml")
