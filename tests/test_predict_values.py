"""Predictions from tables of patients, of visits, and of images with values of which some are missing: a new table is read as the cohort's was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import predictors
import pytest
from dicom_files import save
from predictors import RESNET, saved_run, xray

from hepdist.inference.run import predict
from hepdist.ingest import ingest

PROBABILITY = "probability_ill"


salt = predictors.salt


def patients(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(["patient_id,alt [U/L],sex,ill", *lines]) + "\n", encoding="utf-8")
    return path


def known(number: int) -> str:
    return f"P{number},{20 + 3 * number},{'fm'[number % 2]},{'ill' if number % 3 == 0 else 'well'}"


LABEL = ["label=ill", "label_names=well,ill"]


@pytest.fixture(scope="module")
def values(tmp_path_factory) -> Path:
    """An MLP over a table of thirty patients, beside its cohort and its source."""
    folder = tmp_path_factory.mktemp("values")
    ingest(str(patients(folder / "table.csv", [known(n) for n in range(30)])), str(folder / "cohort"), LABEL)
    data = {"cohort": str(folder / "cohort"), "emr": True}
    return saved_run(folder / "run", folder / "cohort", "classification", {"family": "mlp", "width": 16}, data=data)


def by_patient(table: pd.DataFrame) -> pd.Series:
    return table.set_index("patient")[PROBABILITY].sort_index()


def test_new_patients_of_a_table_are_predicted_as_its_cohort_is(values, tmp_path):
    of_rows = by_patient(predict(str(values), str(values.parent / "cohort"), str(tmp_path / "rows")).table)
    of_table = by_patient(predict(str(values), str(values.parent / "table.csv"), str(tmp_path / "table")).table)
    pd.testing.assert_series_equal(of_rows, of_table, atol=1e-6)
    assert of_table.std() > 0.01, "a model that says the same of everybody would prove nothing"


def test_a_table_in_another_order_of_columns_with_gaps_and_without_labels_is_read_by_name(values, tmp_path):
    (tmp_path / "new.csv").write_text("sex,patient_id,alt [U/L]\nm,N1,77\n,N2,77\nm,N3,\nf,N4,77\n", encoding="utf-8")
    summary = predict(str(values), str(tmp_path / "new.csv"), str(tmp_path / "out"), ["identify=true"])
    keys = pd.read_csv(tmp_path / "out/keys.csv").set_index("sample_id")["patient_key"]
    found = {keys[row.sample_id]: row.probability_ill for row in summary.table.itertuples()}
    same = patients(tmp_path / "same.csv", ["N1,77,m,ill", "N4,77,f,well"])
    again = predict(str(values), str(same), str(tmp_path / "again")).table
    assert sorted(again[PROBABILITY]) == pytest.approx(sorted([found["N1"], found["N4"]]), abs=1e-6)
    assert len({round(p, 6) for p in found.values()}) == 4, "what is missing is not what is there"
    assert {"overlay", "mask", "sr"}.isdisjoint(summary.table)
    assert "N1" not in (tmp_path / "out/index.html").read_text(encoding="utf-8")


def test_a_table_that_was_written_again_is_predicted_again(values, tmp_path):
    table = patients(tmp_path / "new.csv", [known(40)])
    first = predict(str(values), str(table), str(tmp_path / "out")).table[PROBABILITY].item()
    patients(table, [known(40).replace("140", "20")])
    assert predict(str(values), str(table), str(tmp_path / "out")).table[PROBABILITY].item() != first


def test_dropout_tells_the_same_of_a_row_of_a_table_and_of_a_cohort(values, tmp_path):
    of_table, of_rows = (
        predict(str(values), str(values.parent / source), str(tmp_path / source), ["dropout_samples=10"]).table.set_index("patient")
        for source in ("table.csv", "cohort")
    )
    assert (of_table["uncertainty"] > 0).all() and (of_table["mutual_information_nats"] < of_table["entropy_nats"]).all()
    for column in ("uncertainty", "entropy_nats", "mutual_information_nats"):
        np.testing.assert_allclose(of_table[column], of_rows.loc[of_table.index, column], atol=1e-5)


def visits(path: Path, people: range) -> Path:
    rng, lines = np.random.default_rng(0), ["patient_id,day,sex,alt [U/L],ill"]
    for number in people:
        for day in range(0, 30 * (1 + number % 4), 30):
            alt = "" if rng.random() < 0.2 else f"{rng.normal(40 + 2 * number, 5):.1f}"
            lines.append(f"V{number},{day},{'fm'[number % 2]},{alt},{'ill' if number % 3 == 0 else 'well'}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_table_of_visits_gives_one_answer_a_patient_as_its_cohort_does(tmp_path):
    table = visits(tmp_path / "visits.csv", range(24))
    ingest(str(table), str(tmp_path / "cohort"), LABEL)
    data = {"cohort": str(tmp_path / "cohort"), "emr": True}
    run = saved_run(tmp_path / "run", tmp_path / "cohort", "classification", {"family": "rnn", "width": 8, "layers": 2}, data=data)
    of_rows = by_patient(predict(str(run), str(tmp_path / "cohort"), str(tmp_path / "rows")).table)
    of_table = by_patient(predict(str(run), str(table), str(tmp_path / "table")).table)
    assert len(of_table) == 24
    pd.testing.assert_series_equal(of_rows, of_table, atol=1e-6)
    fewer = predict(str(run), str(visits(tmp_path / "first.csv", range(3))), str(tmp_path / "first"), ["dropout_samples=5"])
    assert set(fewer.table["patient"]) < set(of_table.index)
    again = predict(str(run), str(tmp_path / "first.csv"), str(tmp_path / "again"), ["dropout_samples=5"]).table
    pd.testing.assert_series_equal(fewer.table["uncertainty"], again["uncertainty"])


@pytest.fixture(scope="module")
def fused(tmp_path_factory) -> Path:
    """An image encoder with an MLP over values, on a cohort in which some patients have no image, beside it."""
    folder = tmp_path_factory.mktemp("fused")
    save([xray(number) for number in range(16)], folder / "cr")
    table = patients(folder / "table.csv", [known(n) for n in range(22)])
    options = [f"emr={table}", *LABEL, "size=32,32", "keep_unmatched=true"]
    ingest(str(folder / "cr"), str(folder / "cohort"), options)
    model = {"family": "fusion", "image": {**RESNET, "dropout": 0.0}, "emr": {"width": 8, "dropout": 0.0}, "dropout": 0.3}
    return saved_run(folder / "run", folder / "cohort", "classification", model, data={"cohort": str(folder / "cohort"), "emr": True})


def test_images_with_values_images_alone_and_values_alone_are_each_predicted(fused, tmp_path):
    save([xray(number) for number in (40, 41)], tmp_path / "in")
    both = patients(tmp_path / "both.csv", [known(40), known(41)])
    one = patients(tmp_path / "one.csv", [known(40)])
    with_both, with_one, alone, by_values = (
        by_patient(predict(str(fused), str(source), str(tmp_path / name), options).table)
        for name, source, options in (
            ("a", tmp_path / "in", [f"emr={both}"]), ("b", tmp_path / "in", [f"emr={one}"]), ("c", tmp_path / "in", []), ("d", both, []),
        )
    )  # fmt: skip
    assert list(with_both.index) == list(with_one.index) == list(alone.index) == list(by_values.index)
    same = np.isclose(with_one, with_both, atol=1e-7)
    assert sorted(same) == [False, True], "the patient who is in both tables has the same answer, the other one has not"
    np.testing.assert_allclose(with_one[~same], alone[~same], atol=1e-6)
    assert not np.isclose(alone, with_both, atol=1e-4).any() and not np.isclose(by_values, with_both, atol=1e-4).any()


def test_a_fusion_predicts_a_cohort_with_missing_images_as_its_sources(fused, tmp_path):
    of_rows = by_patient(predict(str(fused), str(fused.parent / "cohort"), str(tmp_path / "rows")).table)
    assert len(of_rows) == 22
    options = [f"emr={fused.parent / 'table.csv'}"]
    of_images = by_patient(predict(str(fused), str(fused.parent / "cr"), str(tmp_path / "images"), options).table)
    assert len(of_images) == 16
    np.testing.assert_allclose(of_images, of_rows[of_images.index], atol=1e-6)
    of_values = by_patient(predict(str(fused), str(fused.parent / "table.csv"), str(tmp_path / "values")).table)
    without = of_rows.index.difference(of_images.index)
    np.testing.assert_allclose(of_values[without], of_rows[without], atol=1e-6)
