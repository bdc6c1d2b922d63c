"""Exported files answer as the live model does, for every family; what is written beside them is true; what can't be exported is refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_runs import classification_run

from cohorts import tiny_classification_cohort, tiny_segmentation_cohort
from hepdist.cli import main
from hepdist.errors import ExportError, RunError
from hepdist.export import export as exporting
from hepdist.export import onnx_file, program
from hepdist.export.deployable import Deployable
from hepdist.export.describe import decision_of
from hepdist.export.export import export
from hepdist.export.samples import draw
from hepdist.export.verify import Decision, compare
from hepdist.recipe import Recipe
from hepdist.shards.manifest import EMRColumn, Manifest
from hepdist.spec import parse
from hepdist.training.saved_model import Signature, build_model, load_model, save_model

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (pip install 'hepdist[export]')")
TOLERANCE = 1e-5
"""On probabilities: ten times stricter than what a user is promised."""


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory) -> Path:
    """c2 (images and EMR with quantiles), c3, s2 (odd sides), s3."""
    folder = tmp_path_factory.mktemp("cohorts")
    tiny_classification_cohort(folder / "c2", {"train": 20, "val": 7, "test": 5}, emr=True)
    tiny_classification_cohort(folder / "c3", {"train": 9, "val": 4}, axes=3)
    tiny_segmentation_cohort(folder / "s2", {"train": 6, "val": 4}, shape=(24, 33))
    tiny_segmentation_cohort(folder / "s3", {"train": 6, "val": 3}, shape=(8, 12, 10))
    manifest = Manifest.load(folder / "c2")
    manifest.normalisation["emr"]["quantiles"] = [
        [-2 + k / 8 for k in range(33)],
        [-1.5 + k / 11 for k in range(33)],
        [0.0] * 16 + [1.0] * 17,
    ]
    manifest.save(folder / "c2")
    return folder


def saved_run(folder: Path, cohort: Path, task: dict[str, Any], model: dict[str, Any], **sections: Any) -> Path:
    """A run's model/ and recipe with random weights, none of them zero: as training leaves them, in milliseconds."""
    values = {"name": folder.name, "runs": str(folder.parent), "task": task, "model": model, **sections}
    values["data"] = {"cohort": str(cohort), **sections.get("data", {})}
    recipe = parse(Recipe, values)
    signature = Signature.of(Manifest.load(cohort))
    network = build_model(recipe, signature)
    generator = torch.Generator().manual_seed(1)
    weights = {
        name: value + 0.05 * torch.randn(value.shape, generator=generator) if name in dict(network.named_parameters()) else value
        for name, value in network.state_dict().items()
    }
    save_model(folder, {name: value.contiguous() for name, value in weights.items()}, recipe, signature, 0)
    return folder


def agreements(run: Path, tmp_path: Path, *, free: bool = False, onnx: bool = True):
    """The saved program and the ONNX file held against the live model on the run's val rows."""
    model, recipe, signature = load_model(run)
    manifest = Manifest.load(recipe.data.cohort)
    samples = draw(model, recipe, signature, manifest, "val", 50)
    module = Deployable(load_model(run)[0], recipe, signature, manifest)
    grid = program.grid_of(module) if free else ()
    traced = program.trace(module, [torch.from_numpy(values[[0, -1]]) for values in samples.inputs.values()], grid)
    decision = decision_of(recipe, signature, manifest, {})
    program.save(traced, tmp_path / "m.pt2", "{}")
    found = [compare(program.runner(tmp_path / "m.pt2"), samples, decision, TOLERANCE)]
    if onnx:
        onnx_file.write(traced, tmp_path / "m.onnx", list(samples.inputs), "out", {})
        found.append(compare(onnx_file.runner(tmp_path / "m.onnx"), samples, decision, TOLERANCE))
    return found


C, S, EMR = {"kind": "classification"}, {"kind": "segmentation"}, {"data": {"emr": True}}
CASES = {
    "resnet": ("c2", C, {"family": "resnet", "depth": 10, "width": 8}, {"augment": {"test_flip": [1]}}),
    "resnet-3d": ("c3", C, {"family": "resnet", "depth": 10, "width": 4, "norm": "syncbatch"}, {"data": {"normalise": "none"}}),
    "densenet": ("c2", C, {"family": "densenet", "blocks": [1, 1], "growth": 8}, {"data": {"normalise": "image"}}),
    "densenet-3d": ("c3", C, {"family": "densenet", "blocks": [1, 1], "growth": 8}, {}),
    "inception": ("c2", C, {"family": "inception", "depth": 1, "width": 0.1, "auxiliary": True}, {}),
    "inception-3d": ("c3", C, {"family": "inception", "depth": 1, "width": 0.1}, {}),
    "cnn": ("c2", {**C, "ordinal": True}, {"family": "cnn", "width": 8}, {}),
    "cnn-3d": ("c3", C, {"family": "cnn", "width": 8}, {}),
    "mlp-quantile": ("c2", C, {"family": "mlp", "width": 8, "members": 3, "numbers": "quantile"}, EMR),
    "mlp-embedding": ("c2", C, {"family": "mlp", "width": 8, "embedding": 4, "numbers": "piecewise"}, EMR),
    "fusion": ("c2", C, {"family": "fusion", "image": {"depth": 10, "width": 4}, "emr": {"width": 8}, "join": "gated"}, EMR),
    "unet": ("s2", {**S, "activation": "sigmoid"}, {"family": "unet", "width": 8, "depth": 3}, {"data": {"normalise": "image"}}),
    "unet-3d": ("s3", S, {"family": "unet", "width": 8, "depth": 2, "stride": 2}, {"augment": {"test_flip": [2], "test_shift": 1}}),
    "unet-windows": ("s2", S, {"family": "unet", "width": 8, "depth": 2}, {"evaluation": {"window": [16, 16]}}),
    "vnet": ("s2", S, {"family": "vnet", "width": 8, "convolutions": [1, 2], "kernel": 3}, {}),
    "vnet-3d": ("s3", S, {"family": "vnet", "width": 8, "convolutions": [1, 1], "kernel": 3}, {}),
    "restorer": ("c2", {"kind": "restoration"}, {"family": "restorer", "width": 8, "encoder": [1], "decoder": [1]}, {"degrade": {"kinds": ["noise", "blur"]}}),
    "restorer-3d": ("c3", {"kind": "restoration"}, {"family": "restorer", "width": 8, "encoder": [1], "decoder": [1]}, {"degrade": {"kinds": ["occlusion"]}}),
}  # fmt: skip

QUICK = ("resnet", "mlp-quantile", "unet")
"""A convolutional classifier, a table and a segmentation; an ONNX export takes 5 to 15 seconds of a core."""


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES])
def test_a_program_and_an_onnx_file_answer_as_the_live_model(name, cohorts, tmp_path):
    cohort, task, model, sections = CASES[name]
    run = saved_run(tmp_path / "run", cohorts / cohort, task, model, **sections)
    for agreement in agreements(run, tmp_path):
        assert agreement.largest_difference <= TOLERANCE
        assert agreement.decisions_differing == 0
        assert agreement.samples == Manifest.load(cohorts / cohort).rows("val")


RNN = {"family": "rnn", "width": 8, "numbers": "quantile"}


@pytest.mark.slow
@pytest.mark.parametrize("model", [RNN, {**RNN, "cell": "lstm", "layers": 2, "members": 2, "static": False}], ids=["gru", "lstm"])
def test_visits_of_any_number_answer_as_the_packed_live_model(model, tmp_path):
    """Lengths from no visit to all; the live model packs them, the graph runs over the padding."""
    rng, visits = np.random.default_rng(0), 5
    columns = (EMRColumn("alt", "number"), EMRColumn("sex", "category", categories=("f", "m")))
    quantiles = [[-2 + k / 8 for k in range(33)]] * 2
    statistics = {"mean": [0.3, 0.0], "std": [1.2, 1.0], "quantiles": quantiles}
    shapes = {
        "sequence": ("float32", (visits, 2)), "sequence_missing": ("uint8", (visits, 2)), "sequence_gap": ("float32", (visits,)),
        "sequence_length": ("int32", (1,)), "emr": ("float32", (2,)), "emr_missing": ("uint8", (2,)),
    }  # fmt: skip
    manifest = Manifest(
        "visits", "table", {name: {"dtype": dtype, "shape": list(shape)} for name, (dtype, shape) in shapes.items()}, (),
        label_names=("no", "yes"), emr=columns, sequence=columns, normalisation={"emr": statistics, "sequence": statistics},
    )  # fmt: skip
    recipe = parse(Recipe, {"name": "r", "data": {"cohort": "none", "emr": True}, "task": C, "model": model})
    signature = Signature.of(manifest)
    live = build_model(recipe, signature).eval()
    length = np.array([0, 1, 3, 5, 2, 5, 4], np.int32)
    after = np.arange(visits)[None] >= length[:, None]
    stored = {
        "sequence": rng.normal(size=(7, visits, 2)).astype(np.float32),
        "sequence_missing": ((rng.random((7, visits, 2)) < 0.3) | after[..., None]).astype(np.uint8),
        "sequence_gap": np.where(after, 0, rng.integers(0, 300, (7, visits))).astype(np.float32),
        "sequence_length": length[:, None],
        "emr": rng.normal(size=(7, 2)).astype(np.float32),
        "emr_missing": (rng.random((7, 2)) < 0.3).astype(np.uint8),
    }  # fmt: skip
    from hepdist.export.deployable import answer, normalised
    from hepdist.export.samples import Samples
    from hepdist.tasks import build as build_task

    inputs = {name: stored[name] for name in live.inputs}
    tensors = {name: torch.from_numpy(values) for name, values in inputs.items()}
    answers = answer(build_task(recipe, manifest), live, normalised(tensors, recipe, signature), recipe, signature).numpy()
    graph = build_model(recipe, signature).eval()
    graph.load_state_dict(live.state_dict())
    traced = program.trace(Deployable(graph, recipe, signature, manifest), [values[[2, 3]] for values in tensors.values()])
    onnx_file.write(traced, tmp_path / "m.onnx", list(inputs), "probability", {})
    agreement = compare(onnx_file.runner(tmp_path / "m.onnx"), Samples("val", inputs, answers, 3), Decision("two classes"), TOLERANCE)
    assert agreement.within and agreement.decisions == 7
    assert np.ptp(answers[:, 1]) > 1e-3  # rows differ, so that agreement says something


def test_what_onnx_lacks_is_written_out_exactly():
    x = torch.cat((torch.linspace(-0.999, 0.999, 2001), torch.tensor([0.0, 1e-6, -1e-6])))
    torch.testing.assert_close(onnx_file._erfinv(x), torch.erfinv(x), rtol=3e-6, atol=1e-7)
    values = torch.randint(0, 4, (3, 6, 2), generator=torch.Generator().manual_seed(0))
    for ours, theirs in zip(onnx_file._cummax(values, 1), values.cummax(1), strict=True):
        assert torch.equal(ours, theirs)
    knots, asked = torch.tensor([[0.0, 1, 1, 2]]).repeat(2, 1), torch.tensor([[-1.0, 0, 1, 1.5, 3]] * 2)
    for right in (False, True):
        assert torch.equal(onnx_file._searchsorted(knots, asked, right=right), torch.searchsorted(knots, asked, right=right))


@pytest.mark.slow
def test_free_sides_take_images_of_other_sizes(cohorts, tmp_path):
    run = saved_run(tmp_path / "run", cohorts / "s2", S, {"family": "unet", "width": 8, "depth": 3})
    assert all(agreement.within for agreement in agreements(run, tmp_path, free=True))
    model, recipe, signature = load_model(run)
    from hepdist.export.deployable import answer, normalised
    from hepdist.tasks import build as build_task

    image = torch.from_numpy(np.random.default_rng(0).normal(300, 40, (1, 1, 32, 49)).astype(np.float32))  # 8n x 4n + 1
    task = build_task(recipe, Manifest.load(cohorts / "s2"))
    live = answer(task, model, normalised({"image": image}, recipe, signature), recipe, signature).numpy()
    for runner, file in ((program.runner, "m.pt2"), (onnx_file.runner, "m.onnx")):
        assert np.abs(runner(tmp_path / file)([image.numpy()]) - live).max() <= TOLERANCE


@pytest.fixture(scope="module")
def evaluated(cohorts, tmp_path_factory) -> Path:
    """A run of two classes with model/, result.json and predictions."""
    run = tmp_path_factory.mktemp("runs") / "tiny"
    classification_run(run, cohorts / "c2")
    return saved_run(run, cohorts / "c2", C, {"family": "cnn", "width": 8})


@pytest.fixture(scope="module")
def written(evaluated, tmp_path_factory) -> Path:
    """All formats of that run."""
    out = tmp_path_factory.mktemp("export") / "out"
    record = export(evaluated, out)
    assert not record["failed"]
    return out


def test_every_format_is_within_the_tolerance_and_recorded(written):
    record = json.loads((written / "export.json").read_text())
    assert set(record["files"]) == {"onnx", "torch", "bundle"}
    for found in record["files"].values():
        assert found["samples"] == 7 and found["largest_difference"] <= record["tolerance"] == 1e-4
        assert found["decisions_differing"] == 0 and found["decisions"] == 7
        assert (written / found["file"]).stat().st_size == found["bytes"]


def test_metadata_is_the_same_beside_and_inside_the_files(written, evaluated):
    import onnx

    facts = json.loads((written / "metadata.json").read_text())
    assert facts["inputs"][0] | {"meaning": ""} == {
        "name": "image", "dtype": "uint8", "shape": ["batch", 1, 16, 16], "axes": "CHW", "unit": "display 0..255", "meaning": "",
    }  # fmt: skip
    assert facts["outputs"][0]["shape"] == ["batch", 2]
    assert facts["classes"] == ["normal", "hepatitis"]
    assert facts["decision"]["threshold"] == json.loads((evaluated / "result.json").read_text())["threshold"]["value"]
    extra = {"metadata.json": ""}
    torch.export.load(written / "model.pt2", extra_files=extra)
    assert json.loads(extra["metadata.json"]) == facts
    properties = {entry.key: entry.value for entry in onnx.load(written / "model.onnx").metadata_props}
    assert json.loads(properties["hepdist.inputs"]) == facts["inputs"]
    assert properties["hepdist.cohort_sha256"] == facts["cohort_sha256"]
    session = onnxruntime.InferenceSession(written / "model.onnx")
    assert [(entry.name, entry.type) for entry in session.get_inputs()] == [("image", "tensor(uint8)")]
    assert [entry.name for entry in session.get_outputs()] == ["probability"]


BUNDLE_KEYS = (
    "version", "monai_version", "pytorch_version", "numpy_version", "optional_packages_version", "task", "description", "authors", "copyright",
    "network_data_format",
)  # fmt: skip
TENSOR_KEYS = ("type", "format", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data", "channel_def")


def test_the_bundle_has_what_monais_specification_asks_for(written):
    bundle = written / "bundle"
    for name in ("configs/metadata.json", "configs/inference.json", "models/model.pt", "docs/README.md", "LICENSE"):
        assert (bundle / name).stat().st_size
    metadata = json.loads((bundle / "configs/metadata.json").read_text())
    assert all(key in metadata for key in BUNDLE_KEYS)
    for entries in metadata["network_data_format"].values():
        for entry in entries.values():
            assert all(key in entry for key in TENSOR_KEYS)
    state = torch.load(bundle / "models/model.pt", weights_only=True)
    assert sum(value.numel() for value in state.values()) > 0
    assert not re.search(r"^\s*(?:from|import) hepdist", (bundle / "scripts/__init__.py").read_text(), re.MULTILINE)


def test_the_card_states_the_numbers_of_result_json(written, evaluated):
    result = json.loads((evaluated / "result.json").read_text())
    card = (written / "model_card.md").read_text()
    block = result["split"]["test"]
    assert f"| AUROC | {block['auroc']:.3f} | {block['auroc_ci'][0]:.3f} to {block['auroc_ci'][1]:.3f} |" in card
    assert f"test: {block['n']} scored, {block['patients']} patients" in card
    assert result["cohort_sha256"] in card
    assert "Not a medical device" in card and "from a predicted probability of 0.5" in card
    fitted = result["calibration"]
    assert f"Temperature {fitted['temperature']:.3f}, fitted on {fitted['n']} validation cases" in card
    told = [group for group in block["subgroups"]["groups"] if group["column"] == "sex"]
    assert told and all(f"| test | sex | {group['group']} |" in card for group in told)
    assert "| sex | female " in card and re.search(r"\| age \| median [\d.]+ years, middle half", card)
    assert "scored on no other cohort" in card and "were trained on." in card
    assert "hepdist train" in card and f"| seed | {result['seed']} |" in card
    page = (written / "model_card.html").read_text()
    assert f"{block['auroc']:.3f}" in page and "http" not in re.sub(r"<style>.*</style>", "", page, flags=re.DOTALL)
    assert str(evaluated.parent) not in card


def test_the_card_prints_temperature_and_subgroups_where_the_run_has_them(evaluated, cohorts):
    from hepdist.export.card import _calibration, _subgroups

    result = json.loads((evaluated / "result.json").read_text())
    score = {"value": 0.75, "ci": [0.5, 0.875], "p_holm": 0.25}
    result["split"]["val"].pop("subgroups")
    result["split"]["test"]["subgroups"] = {
        "tests": 1,
        "groups": [{"column": "sex", "group": "male", "n": 9, "patients": 6, "scores": {"auroc": score}},
                   {"column": "sex", "group": "female", "note": "1 patient"}],
    }  # fmt: skip
    result["calibration"] = {"temperature": 1.25, "n": 40}
    assert "Temperature 1.250, fitted on 40 validation cases" in _calibration(result)[1]
    assert _subgroups(result)[0].rows == (
        ("test", "sex", "male", "6", "auroc", "0.750", "0.500 to 0.875", "0.25"),
        ("test", "sex", "female", "", "", "1 patient", "", ""),
    )


def test_a_file_that_answers_otherwise_is_removed_and_the_command_fails(evaluated, tmp_path, monkeypatch, capsys):
    real = program.runner
    monkeypatch.setattr(exporting.program, "runner", lambda path: lambda arrays: real(path)(arrays) + 2e-4)
    assert main(["export", str(evaluated), str(tmp_path / "out"), "--format", "torch"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: model.pt2 differs by 0.0002 from the live model, more than the tolerance of 0.0001; removed"
    )
    assert not (tmp_path / "out" / "model.pt2").exists()
    assert json.loads((tmp_path / "out" / "export.json").read_text())["failed"] == ["torch"]


def test_nan_and_another_shape_are_no_agreement(evaluated):
    model, recipe, signature = load_model(evaluated)
    samples = draw(model, recipe, signature, Manifest.load(recipe.data.cohort), "val", 3)
    assert len(samples.live) == 3
    assert not compare(lambda arrays: np.full((len(arrays[0]), 2), np.nan, np.float32), samples, Decision("two classes"), 1.0).within
    assert not compare(lambda arrays: np.zeros((len(arrays[0]), 3), np.float32), samples, Decision("two classes"), 1.0).within
    swapped = replace(samples, live=samples.live[:, ::-1])
    found = compare(lambda arrays: samples.live[: len(arrays[0])], replace(swapped, at_once=3), Decision("two classes"), 1.0)
    assert found.decisions_differing and not found.within


def test_a_damaged_run_another_cohort_and_other_files_are_refused(evaluated, tmp_path, monkeypatch):
    import shutil

    run = tmp_path / "run"
    shutil.copytree(evaluated, run)
    (run / "cohort.sha256").write_text("0" * 64)
    with pytest.raises(ExportError, match="was trained on another state of cohort 'tiny-classification'"):
        export(run, tmp_path / "out")
    weights = bytearray((run / "model/model.safetensors").read_bytes())
    weights[-1] ^= 1
    (run / "model/model.safetensors").write_bytes(weights)
    with pytest.raises(RunError, match=r"model\.safetensors' is missing or damaged"):
        export(run, tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(ExportError, match="holds other files; give a new folder"):
        export(evaluated, tmp_path / "mine")
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"needs the package onnx, which is not installed: pip install 'hepdist\[export\]'$"):
        export(evaluated, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_trained_run_is_exported_from_the_command_line(ray_cluster, tmp_path, capsys):
    from hepdist.training.launch import train

    tiny_classification_cohort(tmp_path / "cohort", {"train": 16, "val": 6, "test": 6}, emr=True)
    values = {
        "name": "run", "runs": str(tmp_path / "runs"), "data": {"cohort": str(tmp_path / "cohort"), "emr": True}, "task": C,
        "model": {"family": "fusion", "image": {"family": "cnn", "width": 4}, "emr": {"width": 8}},
        "train": {"epochs": 1, "global_batch": 8, "workers": 1, "max_failures": 0}, "evaluation": {"bootstrap": 20},
    }  # fmt: skip
    run = train(parse(Recipe, values))
    assert main(["export", str(run), str(tmp_path / "out"), "--format", "onnx", "--format", "torch", "--split", "test"]) == 0
    assert "6 rows of test: largest difference" in capsys.readouterr().out
    assert (tmp_path / "out" / "model.onnx").is_file() and not (tmp_path / "out" / "bundle").exists()
