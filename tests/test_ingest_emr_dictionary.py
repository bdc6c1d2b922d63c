"""Declared dictionaries: units, codes, ranges and categories on made-up tables, and all four real tables as their documents describe them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from salts import SALT

from hepdist.errors import HepdistError
from hepdist.ingest import ingest
from hepdist.ingest.emr import EMRTable, read_table
from hepdist.ingest.emr_dictionary import Dictionary, load_dictionary
from hepdist.ingest.pseudonym import Pseudonyms
from hepdist.shards.format import decode

SIGNS = ["steroid", "antivirals", "fatigue", "malaise", "anorexia", "liver_big", "liver_firm", "spleen", "spiders", "ascites", "varices"]
NO_YES = "{type: category, categories: {1: no, 2: yes}}"
HEPATITIS = f"""
header: [class, age, sex, {", ".join(SIGNS)}, bilirubin, alk_phosphate, sgot, albumin, protime, histology]
key: row
label: class
columns:
  class: {{categories: {{1: die, 2: live}}}}
  age: {{unit: years, low: 0, high: 120}}
  sex: {{categories: {{1: male, 2: female}}}}
{"".join(f"  {sign}: {NO_YES}" + chr(10) for sign in SIGNS)}
  bilirubin: {{unit: mg/dL, to: µmol/L}}
  histology: {NO_YES}
"""
HCV = """
key: row
label: Category
columns:
  ALB: {unit: g/L}
  ALP: {unit: U/L}
  ALT: {unit: U/L}
  AST: {unit: U/L}
  BIL: {unit: umol/L, to: mg/dL}
  CHE: {unit: kU/L}
  CHOL: {unit: mmol/L, to: mg/dL}
  CREA: {unit: umol/L, to: mg/dL}
  GGT: {unit: U/L}
  PROT: {unit: g/L}
"""
PBC = """
label: status
time: {time}
columns:
  status: {{categories: {{0: censored, 1: transplant, 2: dead}}}}
  trt: {{categories: {trt}}}
  stage: {{type: ordinal, categories: [1, 2, 3, 4]}}
  edema: {{type: ordinal, categories: [0, 0.5, 1]}}
  bili: {{unit: mg/dl, to: µmol/L}}
  chol: {{unit: mg/dl, to: mmol/L}}
  albumin: {{unit: g/dl, to: g/L}}
  alk.phos: {{unit: U/L}}
  ast: {{unit: U/mL}}
  {follow_up}: {{type: ignore}}
"""


def declared(tmp_path: Path, text: str) -> Dictionary:
    path = tmp_path / "dictionary.yaml"
    path.write_text(text, encoding="utf-8")
    return load_dictionary(path)


def read(tmp_path: Path, table: str, dictionary: str) -> EMRTable:
    (tmp_path / "emr.csv").write_text(table, encoding="utf-8")
    return read_table(tmp_path / "emr.csv", dictionary=declared(tmp_path, dictionary))


def test_what_is_declared_counts_more_than_what_the_values_look_like(tmp_path: Path) -> None:
    emr = read(
        tmp_path,
        "id,site,bili,grade,note\n1,1,1.5,b,x\n2,2.0,999,a,x\n3,3,80,c,y\n4,1,-0.2,?,y\n",
        """
columns:
  site: {name: hospital, categories: {1: Basel, 2: Bern}}
  bili: {name: bilirubin, unit: mg/dL, to: umol/L, missing: [999], low: 0, high: 1000}
  grade: {type: ordinal, categories: [a, b, c]}
others: ignore
""",
    )
    assert [(c.name, c.kind, c.unit, c.categories, c.low, c.high, c.missing_share) for c in emr.columns] == [
        ("hospital", "category", "", ("Basel", "Bern"), None, None, 0.25),
        ("bilirubin", "number", "umol/L", (), 0.0, 1000.0, 0.75),
        ("grade", "ordinal", "", ("a", "b", "c"), None, None, 0.25),
    ]
    assert emr.rows["1"] == {"hospital": 0.0, "bilirubin": pytest.approx(25.656, rel=1e-4), "grade": 1.0}
    assert emr.rows["2"] == {"hospital": 1.0, "bilirubin": None, "grade": 0.0}
    assert [(f.file, f.outcome, f.check) for f in emr.findings] == [
        ("emr.csv#note", "ignored", "not-a-feature"),
        ("emr.csv#3.2", "ignored", "unknown-category"),
        ("emr.csv#3.3", "quarantined", "out-of-range"),
        ("emr.csv#4.3", "quarantined", "out-of-range"),
    ]


def test_each_row_may_say_its_own_unit(tmp_path: Path) -> None:
    emr = read(
        tmp_path,
        "id,creatinine,creatinine_unit\n1,1.0,mg/dL\n2,88.4,umol/L\n3,90,\n4,5,stones\n",
        "columns: {creatinine: {unit: µmol/L, unit_column: creatinine_unit}}",
    )
    assert [row["creatinine"] for row in emr.rows.values()] == [pytest.approx(88.40, abs=0.01), 88.4, 90.0, None]
    assert [(f.file, f.check) for f in emr.findings] == [("emr.csv#4.2", "unit")]
    assert "stones" not in repr(emr.findings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("columns: {alt: {unti: U/L}}", "dictionary key 'columns.alt.unti' is unknown"),
        ("columns: {alt: {low: 5, high: 1}}", "low 5 is above high 1; swap them"),
        ("columns: {protime: {unit: s, to: '%'}}", "column 'protime' can't be converted from s to %; check both"),
        ("columns: {alt: {to: U/L}}", "column 'alt' has no unit to convert from; say unit: beside to: U/L"),
        ("columns: {x: {analyte: gold}}", "analyte 'gold' is unknown; known are bilirubin_total, "),
        ("columns: {alt: {type: number, categories: [1]}}", "a number has no categories; set type: category or ordinal"),
        ("- alt", "holds no keys; it needs columns: with one entry a column"),
        ("a: [", "is no YAML in UTF-8; check its indentation"),
    ],
)
def test_a_wrong_dictionary_is_refused_in_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(HepdistError) as error:
        declared(tmp_path, text)
    assert message in str(error.value)


def test_a_dictionary_of_another_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        HepdistError, match="ingest key 'emr_dictionary' names column 'alp', which the table doesn't have; did you mean 'alt'"
    ):
        read(tmp_path, "id,alt\n1,2\n", "columns: {alp: {unit: U/L}}")


# Real tables


def test_uci_hepatitis_as_its_names_file_describes_it(tmp_path: Path, shared_data: Path) -> None:
    path = shared_data / "emr/uci_hepatitis/hepatitis.data"
    emr = read_table(path, dictionary=declared(tmp_path, HEPATITIS))
    raw = pd.read_csv(path, header=None, na_values="?")
    assert Counter(emr.labels.values()) == {"die": 32, "live": 123}
    assert emr.label_names == ("die", "live")
    # item 8 of hepatitis.names, except that PROTIME lacks 67 and ALBUMIN 16
    missing = [0, 0, 1, 0, 1, 1, 1, 10, 11, 5, 5, 5, 5, 6, 29, 4, 16, 67, 0]
    assert [round(c.missing_share * 155) for c in emr.columns] == missing == raw.isna().sum().tolist()[1:]
    assert sum(any(v is None for v in row.values()) for row in emr.rows.values()) == 75
    assert [c.name for c in emr.columns if c.kind == "number"] == ["age", "bilirubin", "alk_phosphate", "sgot", "albumin", "protime"]
    assert all(c.categories == ("no", "yes") for c in emr.columns if c.name in (*SIGNS, "histology"))
    assert emr.rows["1"]["bilirubin"] == pytest.approx(17.104, rel=1e-4)
    assert next(c.unit for c in emr.columns if c.name == "bilirubin") == "µmol/L"
    assert [emr.rows[str(i + 1)]["ascites"] for i in range(155)] == [None if pd.isna(v) else v - 1 for v in raw[12]]
    assert emr.findings == []


def test_uci_hcv_in_conventional_units(tmp_path: Path, shared_data: Path) -> None:
    path = shared_data / "emr/uci_hcv/hcvdat0.csv"
    emr, raw = read_table(path, dictionary=declared(tmp_path, HCV)), pd.read_csv(path)
    assert len(emr.rows) == 615
    assert len(emr.labels) == 615
    units = {c.name: c.unit for c in emr.columns if c.unit}
    assert units == {
        "ALB": "g/L", "ALP": "U/L", "ALT": "U/L", "AST": "U/L", "BIL": "mg/dL", "CHE": "kU/L", "CHOL": "mg/dL", "CREA": "mg/dL",
        "GGT": "U/L", "PROT": "g/L",
    }  # fmt: skip
    assert {c.name: round(c.missing_share * 615) for c in emr.columns if c.missing_share} == {
        "ALB": 1,
        "ALP": 18,
        "ALT": 1,
        "CHOL": 10,
        "PROT": 1,
    }
    rows = pd.DataFrame.from_dict(emr.rows, orient="index", dtype=float)
    assert rows.CREA.to_numpy() == pytest.approx(raw.CREA.to_numpy() / 88.402, rel=1e-4)
    assert rows.CHOL.to_numpy() == pytest.approx(raw.CHOL.to_numpy() * 38.665, rel=1e-4, nan_ok=True)
    assert rows.BIL.to_numpy() == pytest.approx(raw.BIL.to_numpy() / 17.104, rel=1e-4)
    assert emr.findings == []


def test_mayo_pbc_baseline_table(tmp_path: Path, shared_data: Path) -> None:
    path = shared_data / "emr/mayo_pbc/pbc.csv"
    dictionary = PBC.format(time="none", trt="{1: d-penicillamine, 2: placebo}", follow_up="time")
    emr, raw = read_table(path, dictionary=declared(tmp_path, dictionary)), pd.read_csv(path)
    assert len(emr.rows) == 340
    assert emr.label_names == ("censored", "transplant", "dead")
    shares = {c.name: round(c.missing_share * 340) for c in emr.columns}
    assert shares == raw.drop(columns=["rownames", "id", "time", "status"]).isna().sum().to_dict()
    assert (shares["trt"], shares["bili"]) == (106, 0)
    assert {c.name: c.unit for c in emr.columns if c.unit} == {
        "bili": "µmol/L", "chol": "mmol/L", "albumin": "g/L", "alk.phos": "U/L", "ast": "U/mL"
    }  # fmt: skip
    assert emr.rows["1"]["bili"] == pytest.approx(14.5 * 17.104, rel=1e-4)
    assert emr.rows["1"]["albumin"] == pytest.approx(26)
    # ast is documented in U/ml and holds U/l: no value is thrown away, and the audit says so
    assert [(f.file, f.check) for f in emr.findings if f.check != "not-a-feature"] == [("pbc.csv#ast", "unit-in-doubt")]


def test_mayo_pbcseq_visits_in_si_units(tmp_path: Path, shared_data: Path) -> None:
    path = shared_data / "emr/mayo_pbc/pbcseq.csv"
    dictionary = PBC.format(time="day", trt="{0: placebo, 1: d-penicillamine}", follow_up="futime")
    emr, raw = read_table(path, dictionary=declared(tmp_path, dictionary)), pd.read_csv(path)
    assert [c.name for c in emr.columns] == ["trt", "age", "sex"]
    assert Counter(emr.labels.values()) == {"censored": 106, "transplant": 23, "dead": 105}
    assert {c.name: c.unit for c in emr.sequence_columns if c.unit} == {
        "bili": "µmol/L", "chol": "mmol/L", "albumin": "g/L", "alk.phos": "U/L", "ast": "U/mL"
    }  # fmt: skip
    assert {c.name: c.categories for c in emr.sequence_columns if c.kind == "ordinal"} == {
        "edema": ("0", "0.5", "1"), "stage": ("1", "2", "3", "4")
    }  # fmt: skip
    names = [c.name for c in emr.sequence_columns]
    first, chol = emr.sequences["1"], names.index("chol")
    assert first.days.tolist() == [0, 192]
    assert first.missing[:, chol].tolist() == [0, 1]
    assert first.values[0, chol] == pytest.approx(261 / 38.665, rel=1e-4)
    assert sum(v.missing[:, chol].sum() for v in emr.sequences.values()) == raw.chol.isna().sum()


@pytest.mark.parametrize(
    ("table", "dictionary", "patients"),
    [
        ("uci_hepatitis/hepatitis.data", HEPATITIS, 155),
        ("uci_hcv/hcvdat0.csv", HCV, 615),
        ("mayo_pbc/pbc.csv", PBC.format(time="none", trt="{1: d-penicillamine, 2: placebo}", follow_up="time"), 340),
        ("mayo_pbc/pbcseq.csv", PBC.format(time="day", trt="{0: placebo, 1: d-penicillamine}", follow_up="futime"), 234),
    ],
)
def test_each_real_table_reaches_the_shards_with_its_units_and_missing_values(
    table: str, dictionary: str, patients: int, tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    salt = SALT
    monkeypatch.setenv("HEPDIST_SALT", salt)
    path, names = shared_data / "emr" / table, Pseudonyms(salt.encode())
    emr = read_table(path, dictionary=declared(tmp_path, dictionary))
    manifest = ingest(str(path), str(tmp_path / "cohort"), [f"emr_dictionary={tmp_path / 'dictionary.yaml'}", "emr_visits=16"])
    rows = pa.concat_tables([pq.read_table(tmp_path / "cohort" / shard.path) for shard in manifest.shards])
    assert rows.num_rows == len(emr.rows) == patients
    assert [(c.name, c.kind, c.unit) for c in manifest.emr] == [(c.name, c.kind, c.unit) for c in emr.columns]
    assert [(c.name, c.kind, c.unit) for c in manifest.sequence] == [(c.name, c.kind, c.unit) for c in emr.sequence_columns]
    there = rows["patient"].to_pylist()
    order = [there.index(names.of("patient", key)) for key in emr.rows]
    values, missing = (decode(manifest.fields[name], rows[name])[order] for name in ("emr", "emr_missing"))
    expected = np.array([[np.nan if row[c.name] is None else row[c.name] for c in emr.columns] for row in emr.rows.values()], np.float32)
    assert np.array_equal(missing, np.isnan(expected))
    assert np.array_equal(values, np.nan_to_num(expected))
    labels = [None if index is None else manifest.label_names[index] for index in rows["label"].to_pylist()]
    assert [labels[place] for place in order] == [emr.labels.get(key) for key in emr.rows]
    if emr.sequences:
        visits, absent = (decode(manifest.fields[name], rows[name])[order] for name in ("sequence", "sequence_missing"))
        for key, one, gone in zip(emr.rows, visits, absent, strict=True):
            steps = len(emr.sequences[key].days)
            assert np.array_equal(gone[:steps], emr.sequences[key].missing)
            assert np.allclose(one[:steps], np.where(gone[:steps], 0, emr.sequences[key].values), rtol=1e-6)
