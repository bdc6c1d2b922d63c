"""EMR tables: keys, kinds of columns, units, missing values, labels, and what is left out and why."""

from __future__ import annotations

import datetime
from collections import Counter
from pathlib import Path

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hepdist.errors import IngestError
from hepdist.ingest.emr import read_table
from hepdist.ingest.emr_columns import in_order, name_and_unit

TABLE = """\
patient_id,age,sex,bilirubin [mg/dL],alt_u_l,city,seen,notes,hepatitis
P1,41,F,1.5,30,Basel,2020-01-02,first CANARY1,yes
P2,?,M,NA,45.5,Basel,2020-01-03,second CANARY2,no
P3,17,,n/a,,Bern,2020-02-01,third CANARY3,
P4,60,F,0.4,999,Bern,2020-03-01,fourth CANARY4,no
"""


def table(tmp_path: Path, text: str = TABLE, name: str = "emr.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_columns_get_their_kind_unit_and_missing_share(tmp_path: Path) -> None:
    emr = read_table(table(tmp_path), label="hepatitis", missing=("999",))
    assert [(c.name, c.kind, c.unit, c.categories, c.missing_share) for c in emr.columns] == [
        ("age", "number", "", (), 0.25),
        ("sex", "category", "", ("F", "M"), 0.25),
        ("bilirubin", "number", "mg/dL", (), 0.5),
        ("alt", "number", "U/L", (), 0.5),
    ]
    assert emr.rows["P1"] == {"age": 41.0, "sex": 0.0, "bilirubin": 1.5, "alt": 30.0}
    assert emr.rows["P2"] == {"age": None, "sex": 1.0, "bilirubin": None, "alt": 45.5}
    assert emr.labels == {"P1": "yes", "P2": "no", "P4": "no"}
    assert emr.label_names == ("no", "yes")
    assert emr.row_of("P3") == 3


def test_identifiers_dates_and_free_text_are_no_features_and_are_quoted_nowhere(tmp_path: Path) -> None:
    emr = read_table(table(tmp_path), label="hepatitis")
    left_out = {f.file: f.reason for f in emr.findings}
    assert left_out == {
        "emr.csv#city": "column 6 is no feature: its header names an identifier or a date",
        "emr.csv#seen": "column 7 is no feature: it holds dates",
        "emr.csv#notes": "column 8 is no feature: it holds free text",
    }
    assert "CANARY" not in repr((emr.columns, emr.findings))


def test_a_text_that_one_row_alone_holds_becomes_missing(tmp_path: Path) -> None:
    rows = [f"P{i},{'ward A' if i % 2 else 'ward B'},{'yes' if i == 3 else 'no'}" for i in range(10)] + ["P10,CANARY,no"]
    emr = read_table(table(tmp_path, "id,ward,ascites\n" + "\n".join(rows)))
    assert [c.categories for c in emr.columns] == [("ward A", "ward B"), ("no", "yes")]  # 'yes' is no secret
    assert emr.rows["P10"]["ward"] is None
    assert [(f.file, f.outcome, f.check) for f in emr.findings] == [("emr.csv#11.2", "ignored", "rare-category")]


def test_a_typing_error_costs_one_value_not_the_column(tmp_path: Path) -> None:
    rows = [f"P{i},{i / 2}" for i in range(60)] + ["P60,1O.5", "P61,inf"]
    emr = read_table(table(tmp_path, "id,albumin\n" + "\n".join(rows)))
    assert emr.columns[0].kind == "number"
    assert emr.rows["P60"]["albumin"] is None
    assert emr.rows["P61"]["albumin"] is None
    assert [f.check for f in emr.findings] == ["not-a-number", "not-a-number"]
    assert emr.columns[0].missing_share == 2 / 62


def test_rows_that_cannot_be_used_are_found_one_by_one(tmp_path: Path) -> None:
    text = "PatientID,alt\nP1,10\nP1,10\nP1,11\n,12\nP2,13,14\nP3,15\n"
    emr = read_table(table(tmp_path, text))
    assert emr.rows == {"P1": {"alt": 10.0}, "P3": {"alt": 15.0}}
    findings = sorted(emr.findings, key=lambda f: f.file)
    assert [(f.file, f.outcome, f.check) for f in findings] == [
        ("emr.csv#2", "ignored", "duplicate-row"),
        ("emr.csv#3", "quarantined", "duplicate-row"),
        ("emr.csv#4", "quarantined", "no-patient-key"),
        ("emr.csv#5", "quarantined", "ragged-row"),
    ]
    assert findings[1].reason == "differs from row 1 of the same patient, which is used"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.tsv", "subject\talt\n1\t3.5\n2\t4\n"),
        ("a.csv", "\ufeffsubject;alt\r\n1;3.5\r\n2;4\r\n"),
        ("a.csv", 'subject,alt\n"1","3.5"\n"2","4"\n\n'),
    ],
)
def test_delimiters_quotes_and_marks_are_recognised(tmp_path: Path, name: str, text: str) -> None:
    assert read_table(table(tmp_path, text, name)).rows == {"1": {"alt": 3.5}, "2": {"alt": 4.0}}


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16", "utf-8-sig"])
def test_chinese_tables_are_read_in_what_spreadsheets_write(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.csv").write_bytes("id,性别,姓名\n1,男,王\n2,女,李\n3,男,张\n4,女,赵\n".encode(encoding))
    emr = read_table(tmp_path / "a.csv")
    assert [(c.name, c.categories) for c in emr.columns] == [("性别", ("女", "男"))]
    assert len(emr.findings) == 1  # the names


def test_parquet_gives_what_csv_gives(tmp_path: Path) -> None:
    columns = {"patient_id": [17.0, 18.0], "alt": [3.5, None], "ok": ["yes", "no"]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    from_parquet = read_table(tmp_path / "a.parquet", label="ok")
    from_csv = read_table(table(tmp_path, "patient_id,alt,ok\n17,3.5,yes\n18,,no\n"), label="ok")
    assert (from_parquet.rows, from_parquet.labels, from_parquet.columns) == (from_csv.rows, from_csv.labels, from_csv.columns)


def test_excel_gives_what_csv_gives(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for row in (["id", "alt", "seen"], [17, 3.5, datetime.date(2020, 1, 31)], ["018", None, None]):
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    assert read_table(tmp_path / "a.xlsx").rows == {"17": {"alt": 3.5}, "018": {"alt": None}}
    (tmp_path / "b.xlsx").write_bytes(b"PK\3\4")
    with pytest.raises(IngestError, match="is no valid Excel file; save it as CSV"):
        read_table(tmp_path / "b.xlsx")


def test_files_without_a_header_take_its_names_from_the_option(tmp_path: Path) -> None:
    path = table(tmp_path, "P1,3.5\nP2,4\n")
    assert read_table(path, header=("id", "alt")).rows == {"P1": {"alt": 3.5}, "P2": {"alt": 4.0}}
    with pytest.raises(IngestError, match="has 2 columns, but 3 are named; give as many names in emr_header"):
        read_table(path, header=("id", "alt", "ast"))


def test_decimal_commas_are_read_where_semicolons_separate(tmp_path: Path) -> None:
    assert read_table(table(tmp_path, "id;alt\n1;3,5\n2;4,25\n")).rows == {"1": {"alt": 3.5}, "2": {"alt": 4.25}}


def test_a_value_beyond_the_detection_limit_is_the_limit_and_is_said(tmp_path: Path) -> None:
    emr = read_table(table(tmp_path, "id,afp\n1,<0.5\n2,≥ 1000\n3,7\n"))
    assert [row["afp"] for row in emr.rows.values()] == [0.5, 1000.0, 7.0]
    assert [(f.file, f.check) for f in emr.findings] == [("emr.csv#1.2", "detection-limit"), ("emr.csv#2.2", "detection-limit")]


def test_values_that_no_patient_can_have_become_missing_without_being_quoted(tmp_path: Path) -> None:
    rows = "\n".join(f"P{i},{0.5 + i / 10}" for i in range(40))
    emr = read_table(table(tmp_path, f"id,bilirubin [mg/dL]\n{rows}\nP40,9876\nP41,-1\n"))
    assert emr.rows["P40"] == emr.rows["P41"] == {"bilirubin": None}
    assert [(f.file, f.outcome, f.check) for f in emr.findings] == [
        ("emr.csv#41.2", "quarantined", "out-of-range"),
        ("emr.csv#42.2", "quarantined", "out-of-range"),
    ]
    assert [f.reason for f in emr.findings] == [
        "row 41, column 2 is above 87.699; taken as missing",
        "row 42, column 2 is below 0; taken as missing",
    ]
    assert "9876" not in repr(emr.findings)


def test_a_unit_that_fits_few_patients_is_doubted_and_the_values_are_kept(tmp_path: Path) -> None:
    rows = "\n".join(f"P{i},{40 + i}" for i in range(40))  # g/L under a header that says g/dL
    emr = read_table(table(tmp_path, f"id,albumin [g/dL]\n{rows}\n"))
    assert emr.rows["P0"] == {"albumin": 40.0}
    assert [f.check for f in emr.findings] == ["unit-in-doubt"]


def test_columns_that_tell_the_answer_can_be_left_out(tmp_path: Path) -> None:
    emr = read_table(table(tmp_path), label="hepatitis", drop=("alt", "sex"))
    assert [c.name for c in emr.columns] == ["age", "bilirubin"]
    assert {f.reason for f in emr.findings if "emr_drop" in f.reason} == {
        "column 3 is left out by emr_drop",
        "column 5 is left out by emr_drop",
    }


def test_texts_for_label_rules_are_given_by_patient_and_are_no_features(tmp_path: Path) -> None:
    emr = read_table(table(tmp_path), keep_texts=("notes",))
    assert emr.texts["P2"] == {"notes": ["second CANARY2"]}
    assert "notes" not in {c.name for c in emr.columns}
    assert "CANARY" not in repr((emr.columns, emr.findings))


def test_only_the_columns_asked_for_become_features(tmp_path: Path) -> None:
    emr = read_table(table(tmp_path), columns=("sex", "alt"))
    assert [c.name for c in emr.columns] == ["sex", "alt"]
    assert {f.check for f in emr.findings} == {"not-a-feature"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "hepatits"}, "ingest key 'label' names column 'hepatits', which the table doesn't have; did you mean 'hepatitis'?"),
        ({"patient_key": "xyz"}, "ingest key 'patient_key' names column 'xyz', which the table doesn't have; it has patient_id, age, "),
    ],
)
def test_a_column_that_is_not_there_is_refused_in_one_sentence(tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(IngestError) as error:
        read_table(table(tmp_path), **options)  # type: ignore[arg-type]
    assert message in str(error.value)


def test_tables_that_cannot_be_used_are_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(IngestError, match="no column of the table names the patient; name it with patient_key=COLUMN"):
        read_table(table(tmp_path, "alt,ast\n1,2\n"))
    with pytest.raises(IngestError, match="does not exist"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(IngestError, match="holds no rows"):
        read_table(table(tmp_path, "id,alt\n"))
    with pytest.raises(IngestError, match=r"^columns 2 and 3 of the EMR table have the same name; rename one$"):
        read_table(table(tmp_path, "id,alt,alt\n1,2,3\n"))
    with pytest.raises(IngestError, match=r"unknown kind '\.docx'"):
        read_table(table(tmp_path, "", "a.docx"))


def test_negative_class_comes_first() -> None:
    assert in_order(["yes", "no", "yes"]) == ("no", "yes")
    assert in_order(["10", "9", "0"]) == ("0", "9", "10")
    assert in_order(["Viral", "normal", "Abscess"]) == ("normal", "Abscess", "Viral")


def test_units_are_read_from_headers() -> None:
    assert name_and_unit("bilirubin (µmol/L)") == ("bilirubin", "µmol/L")
    assert name_and_unit("AST_IU_L") == ("AST", "IU/L")
    assert name_and_unit("inr") == ("inr", "")
    assert name_and_unit("pressure [mm[Hg]]") == ("pressure", "mm[Hg]")
    assert name_and_unit("bilirubin (total) [mg/dL]") == ("bilirubin (total)", "mg/dL")


# Real tables


def test_uci_hcv_has_no_patient_column_and_is_read_by_row(shared_data: Path) -> None:
    path = shared_data / "emr/uci_hcv/hcvdat0.csv"
    with pytest.raises(IngestError, match="or set patient_key=row where each row is a patient"):
        read_table(path)
    emr = read_table(path, patient_key="row", label="Category")
    assert Counter(emr.labels.values()) == {
        "0=Blood Donor": 533, "0s=suspect Blood Donor": 7, "1=Hepatitis": 24, "2=Fibrosis": 21, "3=Cirrhosis": 30,
    }  # fmt: skip
    missing = {c.name: round(c.missing_share * 615) for c in emr.columns if c.missing_share}
    assert missing == {"ALB": 1, "ALP": 18, "ALT": 1, "CHOL": 10, "PROT": 1}
    assert [(c.name, c.categories) for c in emr.columns if c.kind == "category"] == [("Sex", ("f", "m"))]


def test_uci_hepatitis_without_header_has_its_question_marks_missing(shared_data: Path) -> None:
    signs = [
        "steroid",
        "antivirals",
        "fatigue",
        "malaise",
        "anorexia",
        "liver_big",
        "liver_firm",
        "spleen",
        "spiders",
        "ascites",
        "varices",
    ]
    header = ["class", "age", "sex", *signs, "bilirubin_mg_dl", "alk_phosphate", "sgot", "albumin", "protime", "histology"]
    emr = read_table(shared_data / "emr/uci_hepatitis/hepatitis.data", header=header, patient_key="row", label="class")
    assert Counter(emr.labels.values()) == {"1": 32, "2": 123}
    missing = {c.name: round(c.missing_share * 155) for c in emr.columns}
    assert (missing["protime"], missing["alk_phosphate"], missing["albumin"], missing["age"]) == (67, 29, 16, 0)
    assert next(c.unit for c in emr.columns if c.name == "bilirubin") == "mg/dL"


def test_covid_metadata_gives_labels_and_no_free_text(shared_data: Path) -> None:
    emr = read_table(shared_data / "covid_cxr/metadata.csv", label="finding", unlabelled=("todo",))
    assert len(emr.rows) == 66
    assert "todo" not in emr.label_names
    assert emr.labels["17"] == "COVID-19"
    names = {c.name for c in emr.columns}
    assert {"age", "sex", "temperature"} <= names
    assert not names & {"clinical_notes", "other_notes", "filename", "url", "doi", "location", "date"}
