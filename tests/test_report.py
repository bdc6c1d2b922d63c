"""The report says what result.json says, shows the right cases, holds all it needs and gives nothing away."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_runs import TRAIN, classification_run, segmentation_run
from sklearn import metrics as sk

from cohorts import tiny_classification_cohort, tiny_segmentation_cohort
from hepdist.errors import RunError
from hepdist.evaluation.cases import choose_cases, load_cases
from hepdist.evaluation.cohort_flow import cohort_flow
from hepdist.evaluation.curves import GRID, precision_recall_curve, reliability, roc_curve
from hepdist.evaluation.images import displayed, slice_of
from hepdist.evaluation.overlays import busiest_slice, outlines, panels
from hepdist.evaluation.provenance import shown_recipe
from hepdist.evaluation.report import write_report
from hepdist.evaluation.report_classification import confusion
from hepdist.evaluation.result import summarise, write_result
from hepdist.evaluation.wording import cautions, headlines, number, prevalence_caution, span

VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """What a page holds: its elements, the text of each table cell with data-score, and whether every element is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.cells: dict[tuple[str, str], str] = {}
        self.cell: tuple[str, str] | None = None
        self.words: list[str] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "td" and "data-score" in dict(attrs):
            self.cell = (dict(attrs)["data-split"], dict(attrs)["data-score"])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing, near {self.getpos()}"
        if tag == "td":
            self.cell = None

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)
        if self.cell:
            self.cells[self.cell] = self.cells.get(self.cell, "") + data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def of(self, tag: str, css: str | None = None) -> list[dict[str, str | None]]:
        return [a for t, a in self.elements if t == tag and (css is None or css in (a.get("class") or "").split())]


@pytest.fixture(scope="module")
def classified(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict, Page]:
    """Run, cohort, result.json and page of a binary classifier."""
    folder = tmp_path_factory.mktemp("surname-of-a-patient")
    tiny_classification_cohort(folder / "cohort", rows=100, unlabelled=2)
    result = classification_run(folder / "runs" / "binary", folder / "cohort")
    return folder / "runs" / "binary", folder / "cohort", result, Page(write_report(folder / "runs" / "binary", folder / "cohort"))


@pytest.fixture(scope="module")
def segmented(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict, Page]:
    folder = tmp_path_factory.mktemp("surname-of-a-patient")
    tiny_segmentation_cohort(folder / "cohort", rows=20)
    result = segmentation_run(folder / "runs" / "unet", folder / "cohort")
    return folder / "runs" / "unet", folder / "cohort", result, Page(write_report(folder / "runs" / "unet", folder / "cohort"))


@pytest.mark.parametrize("kind", ["classified", "segmented"])
def test_every_score_shown_is_the_one_in_result_json(kind: str, request: pytest.FixtureRequest) -> None:
    _, _, result, page = request.getfixturevalue(kind)
    shown = {key for split, key in page.cells if split == "test"}
    scalars = {k for k, v in result["split"]["test"].items() if f"{k}_ci" in result["split"]["test"] and not isinstance(v, dict)}
    assert shown == scalars - {k for k in scalars if k == "hd95_infinite_share" and not result["split"]["test"][k]}
    assert {split for split, _ in page.cells} == {"val", "test"}
    for (split, key), text in page.cells.items():
        block, unit = result["split"][split], " mm" if key == "hd95" else ""
        assert text == f"{number(block[key], unit)} ({span(block[f'{key}_ci'], unit)})", (split, key)


@pytest.mark.parametrize("kind", ["classified", "segmented"])
def test_page_needs_nothing_from_outside_itself(kind: str, request: pytest.FixtureRequest) -> None:
    page = request.getfixturevalue(kind)[3]
    assert page.open == [], "every element is closed"
    assert not page.of("script")
    assert not page.of("link")
    assert "http" not in page.source
    assert "@import" not in page.source
    assert set(re.findall(r"url\((.)", page.source)) <= {"#"}
    targets = [a[name] for _, a in page.elements for name in ("src", "href", "xlink:href") if name in a]
    assert all(t.startswith(("#", "data:image/png;base64,")) for t in targets)
    assert any(t.startswith("data:") for t in targets)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert not [name for name, times in Counter(ids).items() if times > 1]
    referred = {t[1:] for t in targets if t.startswith("#")} | set(re.findall(r"url\(#([^)]+)\)", page.source))
    assert referred <= set(ids)


@pytest.mark.parametrize("kind", ["classified", "segmented"])
def test_page_holds_no_path_of_the_machine(kind: str, request: pytest.FixtureRequest) -> None:
    run, cohort, _, page = request.getfixturevalue(kind)
    assert str(cohort) in (run / "recipe.yaml").read_text()
    assert "surname-of-a-patient" not in page.source
    assert str(Path.home()) + "/" not in page.source
    assert "cohort: cohort" in page.source


def test_page_is_the_same_byte_for_byte_when_written_again(classified) -> None:
    run, cohort, _, page = classified
    assert write_report(run, cohort).read_text() == page.source
    assert not list(run.glob(".*"))


def test_headline_says_how_many_were_recognised_and_how_the_threshold_was_set(classified) -> None:
    _, _, result, page = classified
    block = result["split"]["test"]
    positives, negatives = block["classes"]["hepatitis"], block["classes"]["normal"]
    assert f"{round(block['sensitivity'] * positives)} of {positives} hepatitis images were recognised" in page.text
    assert f"{round(block['specificity'] * negatives)} of {negatives} normal images were recognised" in page.text
    assert "from a predicted probability of 0.5, a threshold fixed before training" in page.text
    assert f"Only {block['patients']} patients were scored" in page.text
    assert "2 images of this split have no label and were not scored" in page.text


def test_report_says_when_the_threshold_was_chosen_on_validation(classified, tmp_path) -> None:
    run, cohort, result, _ = classified
    for name in ("recipe.yaml", "predictions.parquet"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    (tmp_path / "result.json").write_text(json.dumps(result | {"threshold": {"value": 0.37, "rule": "validation"}}))
    text = Page(write_report(tmp_path, cohort)).text
    assert "probability of 0.37, the threshold with the best balanced accuracy on the validation split" in text
    assert "The checkpoint and the threshold were chosen on validation; test had no part in it." in text


def test_confusion_matrix_counts_every_labelled_row_once(classified) -> None:
    _, _, result, page = classified
    block = result["split"]["test"]
    counted = [int(n) for n in re.findall(r"<b>(\d+)</b><small>[\d.]+ %</small>", page.source)]
    assert sum(counted) == block["n"]
    assert (counted[0] + counted[3]) / block["n"] == pytest.approx(block["accuracy"])
    label, decision = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 2, 0, 2])
    rows = confusion(label, decision, "abc").rows
    np.testing.assert_array_equal([[n for n, _ in row] for row in rows], sk.confusion_matrix(label, decision))
    assert rows[2][2][1] == pytest.approx(200 / 3)


def test_errors_come_first_and_the_most_confident_first(classified) -> None:
    run, _, result, page = classified
    table = pd.read_parquet(run / "predictions.parquet").query("split == 'test'")
    table = table[table["label"].notna()]
    positive = table["probability_1"].to_numpy(float)
    wrong = (positive >= 0.5) != (table["label"] == 1)
    expected = (
        table.assign(sure=np.maximum(positive, 1 - positive))[wrong.to_numpy(bool)]
        .sort_values("sure", ascending=False)["sample_id"]
        .tolist()
    )
    shown = [a["alt"].split()[1].rstrip(",") for a in page.of("img")]
    assert len(expected) == round((1 - result["split"]["test"]["accuracy"]) * result["split"]["test"]["n"]) > 0
    assert shown[: len(expected[:12])] == expected[:12]


def test_right_cases_take_turns_between_classes() -> None:
    table = pd.DataFrame({"sample_id": list("abcdef"), "patient": list("abcdef")})
    positive = np.array([0.1, 0.2, 0.3, 0.6, 0.7, 0.45])
    chosen = choose_cases(table, np.array([0, 0, 0, 1, 1, 1]), np.stack([1 - positive, positive], axis=1), 0.5)
    assert [c.sample_id for c in chosen["right"]] == ["a", "e", "b", "d", "c"]
    assert [(c.sample_id, c.truth, c.decision, c.probability) for c in chosen["wrong"]] == [("f", 1, 0, 0.55)]


def test_rows_of_cases_are_the_cohorts(classified) -> None:
    _, cohort, _, _ = classified
    manifest = tiny_classification_cohort(cohort.parent / "again", rows=100, unlabelled=2)
    from hepdist.shards.read import SplitReader

    reader = SplitReader(cohort, manifest, "test")
    ids = reader.strings(["sample_id"])["sample_id"].to_pylist()
    rows = dict(load_cases(cohort, manifest, [ids[3], ids[0], "not there"], ("image", "emr")))
    assert set(rows) == {ids[0], ids[3]}
    np.testing.assert_array_equal(rows[ids[3]]["image"], reader.arrays(np.array([3]), ["image"])["image"][0])


def test_cohort_flow_accounts_for_every_file_and_row(classified) -> None:
    _, cohort, _, page = classified
    from hepdist.shards.manifest import Manifest

    manifest = Manifest.load(cohort)
    flow = cohort_flow(cohort, manifest)
    assert (flow.found, flow.ingested, flow.rows) == (104, 100, 100)
    assert [(item.outcome, item.check, item.files) for item in flow.left_out] == [
        ("quarantined", "truncated", 2),
        ("quarantined", "nan", 1),
        ("ignored", "hidden-file", 1),
    ]
    assert [s.rows for s in flow.splits] == [60, 20, 20]
    assert list(flow.splits[0].classes) == ["normal", "hepatitis"]
    assert "104 files and table rows found" in page.text
    assert "4 left out 2 truncated quarantined the file ends inside its pixel data" in page.text
    assert f"100 images of {flow.patients} patients" in page.text


def test_training_facts_versions_and_commands_are_shown(classified) -> None:
    _, _, result, page = classified
    for fact in (
        "412 samples/s",
        "3.1 % of the time",
        "2.5 min",
        "2, ZeRO stage 0, fp32",
        result["versions"]["torch"],
        result["cohort_sha256"],
    ):
        assert fact in page.text
    assert "hepdist train binary/recipe.yaml name=binary-again" in page.text
    assert "hepdist evaluate binary --split test" in page.text
    assert len(page.of("svg", "plot")) == 6 + 4


def test_external_validation_has_no_learning_curves_and_says_so(classified, tmp_path) -> None:
    run, cohort, result, _ = classified
    table = pd.read_parquet(run / "predictions.parquet").assign(split="external")
    table.to_parquet(tmp_path / "predictions.parquet")
    (tmp_path / "recipe.yaml").write_bytes((run / "recipe.yaml").read_bytes())
    block = summarise("classification", table, 0.5, ("normal", "hepatitis"), 50, 0)
    train = {**TRAIN, "epochs": 0, "samples": 0, "samples_per_s": None, "data_wait_share": None, "wall_s": None}
    write_result(
        tmp_path,
        task="classification",
        split={"external": block},
        train=train,
        cohort_sha256="0" * 64,
        seed=0,
        threshold=result["threshold"],
        positive="hepatitis",
    )
    page = Page(write_report(tmp_path, cohort, split="external"))
    assert "External validation · external split" in page.text
    assert "The learning curves are in the report of the run itself." in page.text
    assert len(page.of("svg", "plot")) == 6


def test_three_classes_are_drawn_one_against_the_rest(tmp_path) -> None:
    tiny_classification_cohort(tmp_path / "cohort", rows=80, classes=3)
    result = classification_run(tmp_path / "run", tmp_path / "cohort", resamples=30)
    page = Page(write_report(tmp_path / "run", tmp_path / "cohort"))
    block = result["split"]["test"]
    for name, value in block["auroc_per_class"].items():
        assert f"{name} {number(value)}" in page.text, "legend of the ROC"
    assert f"{round(block['accuracy'] * block['n'])} of {block['n']} images were given the right one of 3 classes" in page.text
    assert len(re.findall(r"<b>\d+</b><small>[\d.]+ %</small>", page.source)) == 9


def test_several_findings_at_once_have_curves_but_no_confusion_matrix(tmp_path) -> None:
    manifest = tiny_classification_cohort(tmp_path / "cohort", rows=60, classes=3)
    replace(manifest, multilabel=True).save(tmp_path / "cohort")
    classification_run(tmp_path / "run", tmp_path / "cohort", resamples=30)
    table = pd.read_parquet(tmp_path / "run" / "predictions.parquet").query("split == 'test'")
    table = table.assign(**{f"label_{k}": (table["label"] == k).astype(np.int64) for k in range(3)}).drop(columns="label")
    table.to_parquet(tmp_path / "run" / "predictions.parquet")
    block = summarise("classification", table, 0.5, manifest.label_names, 30, 0)
    facts = {"threshold": {"value": 0.5, "rule": "half"}, "label_names": manifest.label_names}
    write_result(tmp_path / "run", task="classification", split={"test": block}, train=TRAIN, cohort_sha256="0" * 64, seed=0, **facts)
    page = Page(write_report(tmp_path / "run", tmp_path / "cohort"))
    assert not page.of("table", "confusion")
    assert f"cirrhosis {number(block['auroc_per_class']['cirrhosis'])}" in page.text
    assert f"Of {3 * block['n']} decisions" in page.text


def test_cohort_without_images_has_cases_without_pictures(tmp_path) -> None:
    manifest = tiny_classification_cohort(tmp_path / "cohort", rows=40, emr=True)
    replace(manifest, tensors={k: v for k, v in manifest.tensors.items() if k != "image"}).save(tmp_path / "cohort")
    classification_run(tmp_path / "run", tmp_path / "cohort", resamples=20)
    page = Page(write_report(tmp_path / "run", tmp_path / "cohort"))
    assert not page.of("img")
    assert len(page.of("div", "card")) == 8
    assert "40 records of" in page.text


def test_examples_go_from_worst_to_best_with_truth_prediction_and_errors(segmented) -> None:
    run, _, _, page = segmented
    table = pd.read_parquet(run / "predictions.parquet").query("split == 'test'")
    order = table.assign(mean=table[["dice_anterior", "dice_posterior"]].mean(axis=1)).sort_values(["mean", "sample_id"])
    labels = [a["aria-label"] for a in page.of("svg", "overlay")]
    assert labels == [f"{kind} of {name}" for name in order["sample_id"] for kind in ("image", "truth", "prediction", "errors")]
    assert f"Worst of {len(order)} · Dice anterior {number(order['dice_anterior'].iloc[0])}" in page.text
    assert len(page.of("image")) == len(order), "each picture is in the page once"
    assert len(page.of("svg", "plot")) == 4 + 4


def test_run_without_example_masks_still_has_a_report(tmp_path) -> None:
    tiny_segmentation_cohort(tmp_path / "cohort", rows=10, shape=(16, 12))
    segmentation_run(tmp_path / "run", tmp_path / "cohort", resamples=20)
    assert len(Page(write_report(tmp_path / "run", tmp_path / "cohort")).of("svg", "overlay")) == 2 * 4, "2D works too"
    (tmp_path / "run" / "examples.npz").unlink()
    assert "No example masks were kept for this split." in Page(write_report(tmp_path / "run", tmp_path / "cohort")).text


def test_split_without_scores_is_refused_with_the_way_out(classified) -> None:
    run, cohort, _, _ = classified
    with pytest.raises(
        RunError, match=r"split 'train' of run 'binary' has no scores; make them with: hepdist evaluate binary --split train"
    ):
        write_report(run, cohort, split="train")


def test_class_names_can_not_inject_markup(tmp_path) -> None:
    manifest = tiny_classification_cohort(tmp_path / "cohort", rows=40)
    names = ("<b>no</b>", '"><script>alert(1)</script>')
    counts = {
        s: {**c, "classes": dict(zip(names, c["classes"].values(), strict=True))} if "classes" in c else c
        for s, c in manifest.counts.items()
    }
    replace(manifest, label_names=names, counts=counts).save(tmp_path / "cohort")
    classification_run(tmp_path / "run", tmp_path / "cohort", resamples=20)
    page = Page(write_report(tmp_path / "run", tmp_path / "cohort"))
    assert page.open == []
    assert not page.of("script")
    assert "<b>no</b>" not in page.source


def test_outline_runs_along_the_border_of_the_region() -> None:
    mask = np.zeros((6, 8), np.uint8)
    mask[1:4, 2:7] = 2
    path = outlines(mask)
    assert path.startswith('<path class="outline c2" d="M')
    points = np.array([[float(v) for v in pair.split()] for pair in re.findall(r"[ML]([-\d.]+ [-\d.]+)", path)])
    assert points.min(axis=0).tolist() == [2.0, 1.0]
    assert points.max(axis=0).tolist() == [7.0, 4.0]
    x, y = points.T
    area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    assert area == pytest.approx(3 * 5 - 4 * 0.125), "the corners of pixels are cut"
    assert outlines(np.zeros((3, 3), np.uint8)) == ""


def test_error_map_tells_missed_false_and_confused_apart() -> None:
    truth, prediction = np.zeros((1, 3, 8, 8), np.uint8), np.zeros((1, 3, 8, 8), np.uint8)
    truth[0, 1, 2:5, 2:5], prediction[0, 1, 2:5, 2:5] = 1, 1
    image = np.random.default_rng(0).normal(0, 1, (1, 3, 8, 8)).astype(np.float32)
    assert busiest_slice(truth, prediction) == 1
    assert "region" not in panels(image, truth, prediction, (1.0, 1.0, 1.0), "x")["errors"]
    prediction[0, 1, 2, 2], truth[0, 1, 6, 6], prediction[0, 1, 7, 0] = 2, 1, 1
    drawn = panels(image, truth, prediction, (3.0, 1.0, 2.0), "x")["errors"]
    assert re.findall(r'class="region (\w+)"', drawn) == ["missed", "false", "confused"]
    assert 'viewBox="0 0 16 8"' in drawn, "columns of 2 mm, rows of 1 mm"


def test_pictures_show_stored_values_in_a_fair_window() -> None:
    assert displayed(np.array([[[0, 128, 255]]], np.uint8)).tolist() == [[0, 128, 255]]
    assert displayed(np.array([[[-1000.0, 0.0, 500.0, 9000.0]]]), (0.0, 1000.0)).tolist() == [[0, 0, 128, 255]]
    assert displayed(np.zeros((3, 4, 5), np.uint8)).shape == (4, 5, 3)
    assert displayed(np.array([[[np.nan, 1.0]]]), (0.0, 1.0)).tolist() == [[0, 255]], "what is not a number is black"
    assert slice_of(np.arange(24).reshape(1, 3, 2, 4)).tolist() == np.arange(8, 16).reshape(1, 2, 4).tolist()


def test_curves_equal_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    label = rng.random(150) < 0.4
    score = (label * 0.3 + rng.random(150)).round(2)
    patient = np.arange(150).astype(str)
    roc = roc_curve(label, score, patient, 40, seed=0)
    fpr, tpr, _ = sk.roc_curve(label, score, drop_intermediate=False)
    np.testing.assert_allclose([roc.x, roc.y], [fpr, tpr], atol=1e-12)
    pr = precision_recall_curve(label, score, patient, 40, seed=0)
    precision, recall, _ = sk.precision_recall_curve(label, score)
    np.testing.assert_allclose([pr.x[1:], pr.y[1:]], [recall[:-1][::-1], precision[:-1][::-1]], atol=1e-12)
    assert (np.diff(pr.x) * pr.y[1:]).sum() == pytest.approx(sk.average_precision_score(label, score))
    inside = (roc.low <= np.interp(GRID, roc.x, roc.y) + 1e-9) & (np.interp(GRID, roc.x, roc.y) <= roc.high + 1e-9)
    assert inside.mean() > 0.95


def test_reliability_counts_every_row_and_leaves_empty_bins_out() -> None:
    stated, observed = np.array([0.05, 0.05, 0.95, 1.0]), np.array([0.0, 1.0, 1.0, 1.0])
    curve = reliability(stated, observed, np.array(list("abcd")), 50, seed=0, bins=10)
    assert curve.counts.tolist() == [2, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    np.testing.assert_allclose(curve.stated, [0.05, 0.975])
    np.testing.assert_allclose(curve.observed, [0.5, 1.0])
    assert curve.low[1] == curve.high[1] == 1.0


def test_cautions_name_what_a_careful_reader_should_know() -> None:
    block = {"patients": 400, "unlabelled": 0, "resamples": 1000, "resamples_skipped": {}, "auroc": 0.90, "auroc_ci": [0.88, 0.92]}
    result = {"task": "classification", "split": {"val": {"auroc": 0.97, "auroc_ci": [0.95, 0.99]}}}
    assert cautions({**block, "auroc": 0.96, "auroc_ci": [0.94, 0.98]}, result, "test", "image") == []
    assert cautions(block, result, "test", "image")[0].startswith(
        "AUROC is 0.970 on validation and 0.900 here, and the intervals do not overlap"
    )
    assert cautions(block, result, "val", "image") == []
    skipped = cautions({**block, "resamples_skipped": {"auroc": 40}}, {**result, "split": {}}, "test", "image")
    assert skipped == ["AUROC could not be computed in 40 of 1000 resamples, which its interval leaves out."]
    shift = prevalence_caution({"classes": {"normal": 234, "pneumonia": 390}}, {"normal": 1214, "pneumonia": 3494}, "test")
    assert shift[0].startswith("normal makes up 38 % of test and 26 % of train")
    assert prevalence_caution({"classes": {"normal": 260, "pneumonia": 740}}, {"normal": 1214, "pneumonia": 3494}, "test") == []


def test_undefined_scores_are_a_dash_and_have_no_bar() -> None:
    shown = headlines({"auroc": 0.75, "auroc_ci": [0.5, 1.0], "specificity": None, "specificity_ci": [None, None]}, "binary")
    assert [(s.key, s.bar) for s in shown] == [("auroc", (0.0, 50.0, 100.0))]
    assert number(None) == "–"
    assert span([None, None]) == ""
    assert span([-1.5, 2.0], " ml") == "−1.50 to 2.00 ml"


def test_shown_recipe_keeps_relative_paths_and_cuts_absolute_ones() -> None:
    shown = shown_recipe("name: x\nruns: runs\ndata: {cohort: /home/ann/ward-7/liver, list: [/a/b, c/d]}\n")
    assert shown == "name: x\nruns: runs\ndata:\n  cohort: liver\n  list:\n  - b\n  - c/d\n"
