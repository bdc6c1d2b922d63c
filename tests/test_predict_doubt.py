"""How far passes differ, by an ensemble or by dropout: the numbers are the formulas', the passes plain PyTorch's, the map lies on the file's grid."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import predictors
import pytest
import torch
from dicom_files import save
from PIL import Image
from predictors import RESNET, SALT, UNET, nifti_cohort, picture_cohort, saved_run, xray, xray_cohort
from scipy import stats
from torch import nn

from hepdist.cli import main
from hepdist.inference.case import Case
from hepdist.inference.doubt import STEPS, Agreement, entropy, mutual_information
from hepdist.inference.dropout import dropout_layers
from hepdist.inference.overlays import DOUBT, GAP, HEIGHT, overlay
from hepdist.inference.predictor import Predictor
from hepdist.inference.reading import Reading
from hepdist.inference.run import predict
from hepdist.ingest.pseudonym import Pseudonyms
from hepdist.models import Inputs, build
from hepdist.models.specs import parse_model
from hepdist.shards.manifest import EMRColumn
from hepdist.tasks.volumes import Assembly

DROPPING = {**RESNET, "dropout": 0.4}


salt = predictors.salt


@pytest.fixture(scope="module")
def chest(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("chest")
    return saved_run(folder / "run", xray_cohort(folder), "classification", DROPPING)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("volumes")
    return saved_run(folder / "run", nifti_cohort(folder), "segmentation", {**UNET, "dropout": 0.3})


def cases(predictor: Predictor, source: Path) -> list[Case]:
    reading = Reading(str(source), predictor.signature, [], Pseudonyms(SALT.encode()))
    return [case for item in reading.items for case in reading.read(item) if isinstance(case, Case)]


def with_dropout_on(model: nn.Module) -> None:
    model.eval()
    for layer in model.modules():
        if isinstance(layer, (nn.Dropout, nn.Dropout2d, nn.Dropout3d)):
            layer.train()


def test_entropy_and_mutual_information_are_scipys():
    passes = np.random.default_rng(0).dirichlet([0.5, 1, 2], 8)
    assert entropy(passes.mean(0), multilabel=False) == pytest.approx(stats.entropy(passes.mean(0)), rel=1e-12)
    apart = np.mean([stats.entropy(p, passes.mean(0)) for p in passes])  # BALD as a mean divergence
    assert mutual_information(passes, multilabel=False) == pytest.approx(apart, rel=1e-9)
    findings = np.array([[0.5, 0.0], [0.5, 1.0]])
    assert entropy(findings.mean(0), multilabel=True) == pytest.approx(math.log(2))
    assert mutual_information(findings, multilabel=True) == pytest.approx(math.log(2) / 2)  # both unsure of one, each sure of the other
    assert mutual_information(np.full((5, 2), 0.5), multilabel=False) == 0


@pytest.mark.parametrize("overlapping", [False, True])
def test_agreement_over_a_volume_is_what_keeping_all_passes_gives(overlapping):
    shape, rng = (20, 6, 7), np.random.default_rng(1)
    passes = rng.dirichlet([1, 1, 1], (4, *shape)).astype(np.float32)
    passes = np.moveaxis(rng.random(passes.shape, np.float32) if overlapping else passes, -1, 1)
    passes[0, 2] = 0  # the first pass finds nothing of the last class
    if not overlapping:
        passes /= passes.sum(1, keepdims=True)
    agreement = Agreement(3, overlapping, shape)
    for probability in passes:
        assembly = Assembly(3, overlapping, shape, torch.ones(shape), agreement.total)
        assembly.add(torch.from_numpy(probability), None, [0, 0, 0])
        agreement.add(assembly)
    mean = passes.mean(0)
    index, levels = agreement.decided()
    if overlapping:
        np.testing.assert_array_equal(index, np.where(mean[2] > 0.5, 2, np.where(mean[1] > 0.5, 1, 0)))
        masks, nats = passes[:, 1:] > 0.5, stats.entropy(np.stack([mean[1:], 1 - mean[1:]])).mean(0)
    else:
        np.testing.assert_array_equal(index, mean.argmax(0))
        masks, nats = passes.argmax(1)[:, None] == np.array([1, 2])[:, None, None, None], stats.entropy(mean)
    step = math.log(2 if overlapping else 3) / STEPS
    np.testing.assert_allclose(levels * step, nats, atol=0.5001 * step)
    voxels = masks.sum((2, 3, 4))
    assert voxels[0, 1] == 0 and voxels[1:].all()
    np.testing.assert_allclose(agreement.size_variation(), voxels.std(0) / voxels.mean(0))
    dice = [[2 * (a[k] & b[k]).sum() / (a[k].sum() + b[k].sum()) for a, b in combinations(masks, 2)] for k in range(2)]
    np.testing.assert_allclose(agreement.pairwise_dice(), np.mean(dice, axis=1))


def test_a_class_that_no_pass_found_has_no_agreement():
    agreement = Agreement(2, False, (1, 2, 2))
    for _ in range(2):
        assembly = Assembly(2, False, (1, 2, 2), torch.ones(1, 2, 2), agreement.total)
        assembly.add(torch.tensor([0.9, 0.1])[:, None, None, None].expand(2, 1, 2, 2), None, [0, 0, 0])
        agreement.add(assembly)
    assert np.isnan(agreement.size_variation()).all() and np.isnan(agreement.pairwise_dice()).all()


def test_only_layers_that_a_pass_goes_through_count_as_dropout():
    columns = (EMRColumn("alt", "number"), EMRColumn("sex", "category", categories=("f", "m")))
    inputs = Inputs((1, 32, 32), columns, columns, 3)
    batch = {
        "image": torch.zeros(1, 1, 32, 32), "image_missing": torch.zeros(1, 1, dtype=torch.uint8), "emr": torch.zeros(1, 2),
        "emr_missing": torch.zeros(1, 2, dtype=torch.uint8), "sequence": torch.zeros(1, 3, 2), "sequence_gap": torch.zeros(1, 3),
        "sequence_missing": torch.zeros(1, 3, 2, dtype=torch.uint8), "sequence_length": torch.ones(1, 1, dtype=torch.int32),
    }  # fmt: skip

    def found(**model) -> list[nn.Module]:
        return dropout_layers(build(parse_model(model), inputs, 2).eval(), batch)

    assert found(family="resnet", depth=10, width=8) == []
    # GoogLeNet's auxiliary heads drop 70 %, in training
    assert found(family="inception", variant="googlenet", stem="small", depth=2, width=0.25, auxiliary=True) == []
    assert found(family="fusion", image={"family": "resnet", "depth": 10, "width": 8, "dropout": 0.5}, emr={"dropout": 0}, dropout=0) == []
    assert [type(layer) for layer in found(family="rnn", width=8, layers=2, dropout=0.3)] == [nn.GRU, nn.Dropout]
    assert [type(layer) for layer in found(family="rnn", width=8, layers=1, dropout=0.3)] == [nn.Dropout]


def test_passes_with_dropout_are_those_of_plain_pytorch_and_leave_all_else_as_it_was(chest, tmp_path):
    save([xray(50)], tmp_path)
    predictor, plain = Predictor([chest], dropout_samples=40), Predictor([chest])
    (case,) = cases(predictor, tmp_path)
    before = {name: values.clone() for name, values in predictor.members[0].model.state_dict().items()}
    torch.manual_seed(7)
    drawn = torch.rand(1)
    torch.manual_seed(7)
    (answer,) = predictor([case])
    assert torch.rand(1) == drawn, "the generator that others draw from is as it was"
    assert answer.passes.shape == (1, 40, 2)
    np.testing.assert_allclose(answer.probability, answer.passes[0].mean(0), atol=1e-6)
    assert answer.passes[0, :, 1].std() > 0.01
    after = predictor.members[0].model
    assert not any(layer.training for layer in after.modules())
    assert all(torch.equal(values, before[name]) for name, values in after.state_dict().items())

    model = plain.members[0].model
    image = plain._normalised(plain.members[0], plain.batch([case]))["image"]
    with_dropout_on(model)
    torch.manual_seed(0)
    with torch.no_grad():  # in batches of evaluation.batch, 32 and 8
        reference = torch.cat([model(image.expand(n, -1, -1, -1)).softmax(1) for n in (32, 8)])
    np.testing.assert_allclose(answer.passes[0], reference, atol=1e-6)


def test_a_case_has_the_same_numbers_alone_and_among_others(chest, tmp_path):
    save([xray(number) for number in (50, 51, 52)], tmp_path)
    predictor = Predictor([chest], dropout_samples=5)
    found = cases(predictor, tmp_path)
    together = predictor(found)
    for case, answer in zip(reversed(found), reversed(together), strict=True):
        np.testing.assert_array_equal(predictor([case])[0].passes, answer.passes)
    assert not np.array_equal(together[0].passes, together[1].passes)


def test_the_table_tells_of_members_and_their_passes_together(chest, tmp_path):
    save([xray(50)], tmp_path / "in")
    other = saved_run(tmp_path / "other", chest.parent / "cohort", "classification", {**DROPPING, "dropout": 0.2}, seed=1)
    summary = predict(f"{chest}+{other}", str(tmp_path / "in"), str(tmp_path / "out"), ["dropout_samples=6", "dicom=false"])
    row = summary.table.iloc[0]
    predictor = Predictor([chest, other], dropout_samples=6)
    (answer,) = predictor(cases(predictor, tmp_path / "in"))
    passes = answer.passes.reshape(12, 2)
    assert row["probability_pneumonia"] == pytest.approx(passes[:, 1].mean(), abs=1e-6)
    assert row["uncertainty"] == pytest.approx(passes[:, 1].std(), abs=1e-6)
    assert row["entropy_nats"] == pytest.approx(stats.entropy(passes.mean(0)), abs=1e-6)
    assert row["mutual_information_nats"] == pytest.approx(np.mean([stats.entropy(p, passes.mean(0)) for p in passes]), abs=1e-6)
    assert summary.identity.parameters["dropout samples"] == "6 a model"
    assert "mutual information" in (tmp_path / "out/index.html").read_text(encoding="utf-8")


def test_a_network_without_dropout_is_refused_in_one_sentence(chest, tmp_path, capsys):
    sure = saved_run(tmp_path / "sure", chest.parent / "cohort", "classification", RESNET)
    save([xray(50)], tmp_path / "in")
    for run, option, words in (
        (sure, "dropout_samples=5", "predict key 'dropout_samples' is 5, but run 'sure' has no dropout in its network"),
        (chest, "dropout_samples=1", "predict key 'dropout_samples' is '1': input should be greater than or equal to 2"),
    ):
        assert main(["predict", str(run), str(tmp_path / "in"), str(tmp_path / "out"), option]) == 2
        assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_map_lies_on_the_files_grid_and_says_the_entropy_of_the_mean_of_all_passes(volumes, tmp_path):
    plain = nib.load(volumes.parent / "nii/imagesTr/case3.nii.gz")
    (tmp_path / "in").mkdir()
    nib.save(plain.as_reoriented(nib.orientations.axcodes2ornt("PIR")), tmp_path / "in/case3.nii.gz")
    row = predict(str(volumes), str(tmp_path / "in"), str(tmp_path / "out"), ["dropout_samples=4"]).table.iloc[0]
    found = nib.load(tmp_path / "out" / row["entropy_map"])
    turned = nib.load(tmp_path / "in/case3.nii.gz")
    assert found.shape == turned.shape and found.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(found.affine, turned.affine)

    predictor = Predictor([volumes])
    member = predictor.members[0]
    (case,) = cases(predictor, tmp_path / "in")
    image = predictor._normalised(member, {"image": torch.from_numpy(np.ascontiguousarray(case.sample.image[None]))})["image"]
    assert image.shape[2:] == predictor.layout.size, "one window, so that plain passes are the whole reference"
    with_dropout_on(member.model)
    passes = []
    for seed in range(4):
        torch.manual_seed(seed)
        passes.append(member.task.probability(member.model, {"image": image})[0].numpy())
    mean, masks = np.mean(passes, axis=0), np.array([p.argmax(0) == 1 for p in passes])
    own = nib.Nifti1Image(
        stats.entropy(mean).transpose(2, 1, 0).astype(np.float32), np.diag([-1.0, -1, 1, 1]) @ case.sample.affine[:, [2, 1, 0, 3]]
    )
    there = nib.orientations.ornt_transform(nib.io_orientation(own.affine), nib.io_orientation(found.affine))
    nats = found.get_fdata()
    np.testing.assert_allclose(nats, np.asarray(own.as_reoriented(there).dataobj), atol=0.51 * math.log(2) / STEPS)
    assert nats.max() > 0.5 and nats.std() > 0.01
    mask = nib.load(tmp_path / "out" / row["mask"])
    assert np.count_nonzero(mask.dataobj) == np.count_nonzero(mean.argmax(0))
    voxels = masks.sum((1, 2, 3))
    assert row["volume_cv_liver"] == pytest.approx(voxels.std() / voxels.mean(), rel=1e-6)
    dice = [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in combinations(masks, 2)]
    assert row["pairwise_dice_liver"] == pytest.approx(np.mean(dice), rel=1e-6)
    page = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    assert "entropy map" in page and "liver volume varies by" in page and DOUBT in page


def test_an_ensemble_on_pictures_gets_maps_of_their_size(tmp_path):
    picture_cohort(tmp_path / "png", tmp_path / "cohort")
    runs = [saved_run(tmp_path / name, tmp_path / "cohort", "segmentation", UNET, seed=seed) for seed, name in enumerate("ab")]
    (tmp_path / "in").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70), dtype=np.uint8)).save(tmp_path / "in/a.png")
    row = predict("+".join(map(str, runs)), str(tmp_path / "in"), str(tmp_path / "out")).table.iloc[0]
    found = np.asarray(Image.open(tmp_path / "out" / row["entropy_map"]))
    assert found.shape == (50, 70) and found.dtype == np.uint8 and found.std() > 1
    assert row["area_cv_foreground"] >= 0 and 0 <= row["pairwise_dice_foreground"] <= 1
    picture = Image.open(tmp_path / "out" / row["overlay"])
    assert picture.width == 2 * HEIGHT + GAP


def test_the_abstention_curve_of_the_documents_is_drawn_from_the_two_tables(chest, tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[1] / "docs/evaluation.md").read_text(encoding="utf-8")
    (code,) = [block.partition("```")[0] for block in page.split("```python\n") if "risk_by_coverage" in block]
    monkeypatch.chdir(tmp_path)
    options = ["dropout_samples=5", "overlays=false"]
    table = predict(str(chest), str(chest.parent / "cohort"), "out", options, split="test").table
    run = Path("runs/pneumonia-resnet")
    run.mkdir(parents=True)
    (run / "result.json").write_text('{"label_names": ["normal", "pneumonia"]}')
    right = table["label"].map({"normal": 0, "pneumonia": 1})
    unsure = table["entropy_nats"] > table["entropy_nats"].median()
    truth = pd.DataFrame({"sample_id": table["sample_id"], "label": right.where(~unsure, 1 - right), "split": "test"})
    truth.sample(frac=1, random_state=0).to_parquet(run / "predictions.parquet")
    exec(code, {})
    assert f"entropy_nats: {unsure.mean():.3f} wrong of all, 0.000 of the surer half" in capsys.readouterr().out
    assert Image.open("abstention.png").width > 100


def test_an_overlay_tints_what_is_open_in_a_second_picture_and_outlines_in_the_first():
    image, mask, nats = np.full((1, 10, 10), 80, np.uint8), np.zeros((10, 10), np.uint8), np.zeros((10, 10), np.uint8)
    mask[2:5, 2:5], nats[6:9, 6:9] = 1, 255
    picture = np.asarray(overlay(image, mask, None, None, "display 0..255", entropy=(nats, math.log(2) / 255)))
    tint = np.array([int(DOUBT[i : i + 2], 16) for i in (1, 3, 5)])
    first, second = picture[:, :HEIGHT], picture[:, HEIGHT + GAP :]
    assert second[int(7.5 * HEIGHT / 10), int(7.5 * HEIGHT / 10)].tolist() == tint.tolist()
    assert second[int(3.5 * HEIGHT / 10), int(3.5 * HEIGHT / 10)].tolist() == [80, 80, 80]
    assert not (first == tint).all(-1).any() and (first != 80).any()
