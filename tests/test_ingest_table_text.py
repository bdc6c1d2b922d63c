"""Tables as hospitals export them: decimal commas, sheets, encodings, dates, and numbers that are no measurements."""

from __future__ import annotations

from pathlib import Path

import openpyxl
import pytest
from salts import SALT

from hepdist.errors import IngestError
from hepdist.ingest import ingest
from hepdist.ingest.emr import EMRTable, read_table
from hepdist.ingest.emr_columns import describe
from hepdist.ingest.emr_decimals import with_points
from hepdist.ingest.emr_sequence import read_days

DAYS = (3, 7, 9)


def read(path: Path, text: str, encoding: str = "utf-8", **options) -> EMRTable:
    path.write_bytes(text.encode(encoding))
    return read_table(path, **options)


def test_decimal_commas_are_read_where_they_can_be_nothing_else():
    rows = [["10,5", "1,234", "1,2,3", "<0,5", "1.234,5"], ["11", "2,345", "4", "3,25", "7.000"]]
    assert with_points(rows, sure=False) == [["10.5", "1,234", "1,2,3", "<0.5", "1234.5"], ["11", "2,345", "4", "3.25", "7000"]]
    assert with_points(rows, sure=True) == [["10.5", "1.234", "1,2,3", "<0.5", "1234.5"], ["11", "2.345", "4", "3.25", "7000"]]
    assert with_points([["1,5"], ["2.5"]], sure=False) == [["1,5"], ["2.5"]]  # both in one column: nobody knows


@pytest.mark.parametrize(("delimiter", "encoding"), [("\t", "utf-8"), ("\t", "utf-16"), (";", "cp1252"), (";", "gb18030")])
def test_tables_of_spreadsheets_keep_their_numbers(tmp_path: Path, delimiter: str, encoding: str) -> None:
    lines = [["patient_id", "bili", "alb"], *([f"P{p}", f"{10 + p},5", f"<{p},25"] for p in range(20))]
    emr = read(tmp_path / "t.csv", "\n".join(delimiter.join(line) for line in lines), encoding)
    assert [c.kind for c in emr.columns] == ["number", "number"]
    assert emr.rows["P3"] == {"bili": 13.5, "alb": 3.25}


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8"])
def test_umlauts_and_micrograms_are_no_chinese(tmp_path: Path, encoding: str) -> None:
    lines = ["patient_id,Bilirubin [µmol/L],Geschlecht", *(f"P{p},{10 + p},{'männlich' if p % 2 else 'weiblich'}" for p in range(20))]
    emr = read(tmp_path / "t.csv", "\n".join(lines), encoding)
    assert [(c.name, c.unit, c.categories) for c in emr.columns] == [
        ("Bilirubin", "µmol/L", ()),
        ("Geschlecht", "", ("männlich", "weiblich")),
    ]


def test_chinese_is_read_from_gb_18030(tmp_path: Path) -> None:
    lines = [
        "患者ID,性别,乙肝表面抗原,谷丙转氨酶",
        *(f"P{p},{'男' if p % 2 else '女'},{'阳性' if p % 3 else '阴性'},{p}" for p in range(20)),
    ]
    emr = read(tmp_path / "t.csv", "\n".join(lines), "gb18030")
    assert [(c.name, c.categories) for c in emr.columns] == [("性别", ("女", "男")), ("乙肝表面抗原", ("阴性", "阳性")), ("谷丙转氨酶", ())]


def test_a_minus_is_a_result_where_others_are_plus_and_missing_elsewhere(tmp_path: Path) -> None:
    lines = ["patient_id,hbsag,alt", *(f"P{p},{'+-'[p % 2]},{'-' if p == 4 else p}" for p in range(20))]
    emr = read(tmp_path / "t.csv", "\n".join(lines))
    assert emr.columns[0].categories == ("-", "+")
    assert (emr.rows["P3"]["hbsag"], emr.rows["P4"]["hbsag"], emr.rows["P4"]["alt"]) == (0.0, 1.0, None)


def test_sheets_of_one_header_are_one_table_and_others_are_told(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.active.append(["This export was made for research"])
    for year in (0, 1):
        sheet = book.create_sheet(str(2019 + year))
        sheet.append(["Lab export"])
        sheet.append(["patient_id", "alt"])
        for p in range(10):
            sheet.append([f"P{10 * year + p}", p])
    legend = book.create_sheet("legend")
    legend.append(["code", "meaning"])
    legend.append(["alt", "alanine transaminase"])
    book.save(tmp_path / "t.xlsx")
    emr = read_table(tmp_path / "t.xlsx")
    assert emr.rows == {f"P{10 * year + p}": {"alt": p} for year in (0, 1) for p in range(10)}
    assert [(f.file, f.outcome, f.check) for f in emr.findings] == [("t.xlsx#sheet 4", "ignored", "sheet")]


@pytest.mark.parametrize(
    "form", ["{d:02d}-Jan-2020", "{d} January 2020", "January {d}, 2020", "Jan {d}, 2020", "2020.1.{d}", "2020年1月{d}日", "202001{d:02d}"]
)
def test_visits_are_read_from_dates_in_words_and_numbers(tmp_path: Path, form: str) -> None:
    lines = ["patient_id,visit_date,alt", *(f'P{p},"{form.format(d=d)}",{20 + p + d}' for p in range(4) for d in DAYS)]
    emr = read(tmp_path / "t.csv", "\n".join(lines))
    assert emr.sequences["P2"].days.tolist() == [0, 4, 6]
    assert emr.sequences["P2"].values[:, 0].tolist() == [25, 29, 31]


@pytest.mark.parametrize("form", ["{d:02d}/02/2020", "{d:02d}/02/20", "20/1/{d}"])
def test_visits_of_dates_that_nobody_can_read_are_refused_not_dropped(tmp_path: Path, form: str) -> None:
    text = "\n".join(["patient_id,visit_date,alt", *(f"P{p},{form.format(d=d)},{20 + p + d}" for p in range(4) for d in DAYS)])
    with pytest.raises(
        IngestError, match=r"^column 2 of the EMR table can't be read as days or dates of visits, in one way that leaves no"
    ):
        read(tmp_path / "t.csv", text)
    assert len(read(tmp_path / "t.csv", text, time="none").rows) == 4


def test_a_column_called_date_of_other_texts_is_told_of(tmp_path: Path) -> None:
    text = "\n".join(["patient_id,date,alt", *(f"P{p},{word},{20 + p + i}" for p in range(4) for i, word in enumerate(("first", "last")))])
    emr = read(tmp_path / "t.csv", text)
    assert [f.reason for f in emr.findings if f.check == "no-date"] == [
        "column 2 has the name of a day or date, but most of it can't be read as such, so that its rows are no visits"
    ]


def test_a_month_that_is_no_month_is_no_date():
    assert read_days(["3-Jan-2020", "5-Sept-2020"]) == [737427.0, 737673.0]
    assert read_days(["3-Foo-2020", "5-Bar-2020"]) is None
    assert read_days(["31-Feb-2020"]) is None


@pytest.mark.parametrize(
    ("header", "texts", "reason"),
    [
        ("seen", [f"2020010{d}" for d in range(1, 10)], "it holds dates"),
        ("seen", [f"{d}-Jan-2020" for d in range(1, 10)], "it holds dates"),
        ("seen", [f"2020年1月{d}日" for d in range(1, 10)], "it holds dates"),
        ("code", [str(5_550_000 + 13 * i) for i in range(20)], "it holds long whole numbers"),
        *(
            (header, [str(i) for i in range(20)], "its header names an identifier or a date")
            for header in (
                "联系方式", "床号", "条码号", "就诊卡号", "检查号", "邮编", "入院时间", "主治医师", "籍贯", "DateOfBirth", "geburtsdatum",
                "social_security_number", "Visit No", "case_no", "Attending Physician", "Unnamed: 0", "index", "year of birth",
                "Birth Date", "出生日期", "出生", "采样时间",
            )
        ),
    ],
)  # fmt: skip
def test_what_could_name_a_person_is_no_feature(header: str, texts: list[str], reason: str) -> None:
    found = describe(header, texts)
    assert isinstance(found, str)
    assert found.startswith(reason)


@pytest.mark.parametrize(
    ("header", "texts"),
    [
        ("hbv_dna [IU/mL]", [str(10_000_000 + 7919 * i) for i in range(20)]),
        ("platelets", [str(150_000 + 1000 * i) for i in range(20)]),
        ("viral load", [str(2**i) for i in range(30)]),
        ("year", [str(2000 + i) for i in range(20)]),
        *(
            (header, [str(i) for i in range(20)])
            for header in (
                "住院天数",
                "凝血酶原时间",
                "出生体重",
                "Body Mass Index",
                "FIB-4 index",
                "birth_weight",
                "white_cell_count",
                "Prothrombin Time",
                "time to birth",
                "tidal volume",
                "stage",
                "caseload",
                "cardiac index",
            )
        ),
    ],
)
def test_measurements_stay_numbers(header: str, texts: list[str]) -> None:
    found = describe(header, texts)
    assert not isinstance(found, str)
    assert found.kind == "number"


def test_a_table_without_any_feature_is_refused_with_the_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEPDIST_SALT", SALT)
    path = tmp_path / "t.csv"
    path.write_text("patient_id,phone,note,label\n" + "\n".join(f"P{p},{p},a text of {p},{p % 2}" for p in range(20)))
    with pytest.raises(
        IngestError, match=r"^there is nothing to learn from, .* \(column 2 is no feature: its header .*; column 3 is no feat"
    ):
        ingest(str(path), str(tmp_path / "cohort"), ["label=label"])
