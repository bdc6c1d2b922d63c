"""Restoration networks, critics and degradations: shapes, published sizes, exact facts of what is drawn, and who gets which gradient."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hepdist.augment.degrade import Scale, degrade, degraded_unit
from hepdist.augment.random import poisson
from hepdist.errors import RecipeError
from hepdist.models import Inputs, build
from hepdist.models.patchgan import PatchGAN
from hepdist.models.specs import AdversarySpec, RestorerSpec
from hepdist.recipe import Recipe
from hepdist.sections import DegradeSpec
from hepdist.shards.manifest import Manifest
from hepdist.spec import parse
from hepdist.tasks import Task
from hepdist.tasks import build as build_task
from hepdist.tasks.adversarial import judgement_loss, persuasion_loss, r1_penalty
from hepdist.tasks.restoration import HIGHEST_PSNR, psnr, ssim
from hepdist.training.adversary import Watched, frozen

SIZES = [(1, 28, 28), (3, 33, 47), (2, 11, 18, 13)]
KINDS = ("noise", "blur", "occlusion")


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def restorer(shape: tuple[int, ...], **spec) -> nn.Module:
    torch.manual_seed(0)
    return build(RestorerSpec(**spec), Inputs(shape), shape[0])


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def positions(rows: int, seed: int = 0, epoch: int = 0) -> tuple[Tensor, int, int]:
    return torch.arange(rows), seed, epoch


@pytest.mark.parametrize("shape", SIZES)
def test_a_restorer_gives_an_image_of_its_inputs_shape_and_starts_as_the_identity(shape):
    model, image = restorer(shape, width=8), noise(2, *shape)
    restored = model(image)
    assert torch.equal(restored, image)
    restored.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("encoder", "middle", "decoder", "published"),
    [((2, 2, 4, 8), 12, (2, 2, 2, 2), 29.16e6), ((1, 1, 1, 28), 1, (1, 1, 1, 1), 17.11e6)],
    ids=["SIDD", "GoPro"],
)
def test_a_restorer_of_width_32_has_nafnets_published_number_of_parameters(encoder, middle, decoder, published):
    with torch.device("meta"):
        model = build(RestorerSpec(width=32, encoder=encoder, middle=middle, decoder=decoder), Inputs((3, 256, 256)), 3)
    assert parameters(model) == pytest.approx(published, abs=5e3)


@pytest.mark.parametrize("shape", [(1, 18, 20), (1, 12, 14, 13)])
def test_checkpointing_changes_neither_output_nor_gradients(shape):
    plain, saving = restorer(shape, width=4), restorer(shape, width=4, checkpointing=True)
    for model in (plain, saving):
        torch.manual_seed(1)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.1)
        model(noise(1, *shape)).square().sum().backward()
    for ours, theirs in zip(plain.parameters(), saving.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("shape", [(1, 12, 12), (1, 8, 8, 8)])
def test_a_restorer_learns_one_batch_by_heart(shape):
    model, clean = restorer(shape, width=8), noise(4, *shape)
    degraded = clean + 0.5 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(9))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        loss = (model(degraded) - clean).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01 < 0.25  # of the noise's variance


@pytest.mark.parametrize("shape", [*SIZES, (1, 7, 50), (1, 4, 4)])
def test_a_critic_judges_patches_of_any_size(shape):
    critic = PatchGAN(AdversarySpec(width=4, layers=4), shape, 2)
    verdict = critic(noise(2, *shape), noise(2, 2, *shape[1:]))
    assert verdict.shape[:2] == (2, 1)
    assert min(verdict.shape[2:]) >= 1
    verdict.sum().backward()
    assert all(p.grad is not None for p in critic.parameters())


def test_a_critic_equals_pix2pixs_in_size_and_monais_in_size_and_patches():
    from monai.networks.nets import PatchDiscriminator

    ours = PatchGAN(AdversarySpec(width=64, layers=3, norm="syncbatch"), (3, 64, 64), 3)
    assert parameters(ours) == 2_768_705  # pix2pix prints 2.769 M for its 70x70 PatchGAN
    theirs = PatchDiscriminator(spatial_dims=2, channels=64, in_channels=6, num_layers_d=3, last_conv_kernel_size=4)
    pair = noise(1, 3, 64, 64), noise(1, 3, 64, 64)
    assert parameters(theirs) == parameters(ours)
    with torch.no_grad():  # the same layers in the same order: the same weights give the same verdict
        for mine, other in zip(ours.parameters(), sorted_by_layer(theirs), strict=True):
            other.copy_(mine)
    torch.testing.assert_close(ours(*pair), theirs(torch.cat(pair, dim=1))[-1])


def sorted_by_layer(theirs: nn.Module) -> list[Tensor]:
    """Parameters of MONAI's discriminator in the order of ours: convolutions first, then norms, then the last convolution."""
    convolutions = [m for m in theirs.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in theirs.modules() if isinstance(m, nn.BatchNorm2d)]
    return [p for m in (*convolutions[:-1], *norms, convolutions[-1]) for p in m.parameters()]


def test_an_image_too_small_for_a_critic_is_refused_in_one_sentence():
    with pytest.raises(
        RecipeError, match=r"^recipe key 'adversary' needs images of at least 4 pixels a side, but one side has 3; set adversary=null$"
    ):
        PatchGAN(AdversarySpec(), (1, 3, 64), 1)


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.9, 7.3, 120.0, 4000.0])
def test_poisson_draws_are_scipys_quantiles_of_the_same_uniforms(rate):
    from scipy.stats import poisson as reference

    from hepdist.augment.random import uniform

    key, n = (torch.arange(3), 5, 2, 77), 4000
    drawn = poisson(*key, torch.full((3, n), rate)).numpy()
    assert np.array_equal(drawn, reference.ppf(uniform(*key, n).double().numpy() + 2.0**-25, np.float32(rate)))


def test_noise_has_the_variance_of_photons_and_reading():
    spec = DegradeSpec(kinds=("noise",), photons=(50, 50), read_noise=(0.03, 0.03))
    for level in (0.0, 0.2, 0.8):
        noisy = degraded_unit(torch.full((8, 1, 128, 128), level), "noise", spec, positions(8)).double()
        expected = level / 50 + 0.03**2
        draws = noisy.numel()
        assert noisy.mean() == pytest.approx(level, abs=5 * math.sqrt(expected / draws))
        assert noisy.var() == pytest.approx(expected, rel=5 * math.sqrt(3 / draws))


@pytest.mark.parametrize("shape", [(1, 21, 30), (2, 9, 14, 12)])
def test_blur_equals_scipys_gaussian_filter(shape):
    from scipy.ndimage import gaussian_filter

    image, spec = noise(2, *shape), DegradeSpec(kinds=("blur",), blur=(1.3, 1.3))
    blurred = degraded_unit(image, "blur", spec, positions(2)).numpy()
    axes = tuple(range(2, image.ndim))
    np.testing.assert_allclose(blurred, gaussian_filter(image.numpy(), 1.3, axes=axes, mode="nearest", radius=4), atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 200, 300), (1, 60, 80, 70)])
def test_occlusion_is_one_box_of_one_grey_and_of_the_stated_share(shape):
    image, spec = noise(6, *shape) + 10, DegradeSpec(kinds=("occlusion",), occlusion=(0.1, 0.1))
    occluded = degraded_unit(image, "occlusion", spec, positions(6))
    covered = occluded != image
    assert covered.float().flatten(1).mean(1).numpy() == pytest.approx(0.1, rel=0.07)  # sides are whole pixels
    for one, where in zip(occluded, covered, strict=True):
        assert len(one[where].unique()) == 1
        assert 0 <= one[where][0] < 1
        places = where[0].nonzero()
        box = (places.amax(0) - places.amin(0) + 1).prod()
        assert box == where[0].sum(), "filled and without holes"
        assert all(torch.equal(where[0], channel) for channel in where)


def test_degradations_depend_on_seed_epoch_and_position_alone():
    spec, scale, image = DegradeSpec(kinds=KINDS), Scale((-2.0,), (2.0,)), noise(12, 1, 28, 28)
    batch = {"image": image, "position": torch.arange(12)}
    whole = degrade(batch, spec, scale, 1, 4)
    torch.manual_seed(99)
    order = torch.tensor([7, 2, 11])
    part = degrade({name: values[order] for name, values in batch.items()}, spec, scale, 1, 4)
    assert torch.equal(part["image"], whole["image"][order])
    assert torch.equal(whole["target"], image)
    for seed, epoch in ((2, 4), (1, 5)):
        assert not torch.equal(degrade(batch, spec, scale, seed, epoch)["image"], whole["image"])


def test_each_kind_is_drawn_about_as_often():
    spec, rows = DegradeSpec(kinds=KINDS), 3000
    batch = {"image": torch.full((rows, 1, 4, 4), 0.5), "position": torch.arange(rows)}
    degraded = degrade(batch, spec, Scale((0.0,), (1.0,)), 0, 0)["image"].flatten(1)
    values = torch.tensor([len(row.unique()) for row in degraded])  # a flat image: blur leaves it, a box adds one grey, noise many
    blur, box = ((degraded - 0.5).abs().amax(1) < 1e-6).sum() / rows, (values == 2).sum() / rows
    assert float(blur) == pytest.approx(1 / 3, abs=0.05)
    assert float(box) == pytest.approx(1 / 3, abs=0.05)


def recipe(**sections) -> Recipe:
    values = {
        "name": "t", "data": {"cohort": "c"}, "task": {"kind": "restoration"}, "model": {"family": "restorer"}, "degrade": {"kinds": list(KINDS)},
    }  # fmt: skip
    return parse(Recipe, values | sections)


def restoration(dtype: str = "uint8", side: int = 28, **sections) -> Task:
    image = {"dtype": dtype, "shape": [1, side, side]}
    manifest = Manifest(
        "c", "phantom", {"image": image}, (), normalisation={"image": {"mean": [100.0], "std": [50.0]}},
        fingerprint={"train_intensity_percentiles": {"0.5": -900.0, "50": 0.0, "99.5": 1100.0}},
    )  # fmt: skip
    return build_task(recipe(**sections), manifest)


class Identity(nn.Module):
    inputs = ("image",)

    def forward(self, image: Tensor) -> Tensor:
        return image


@pytest.mark.parametrize(
    ("dtype", "normalise", "black", "white"),
    [
        ("uint8", "cohort", -2.0, 3.1),
        ("uint8", "none", 0.0, 1.0),
        ("float32", "cohort", -20.0, 20.0),
        ("int16", "none", -900 / 32767, 1100 / 32767),
    ],
)
def test_black_and_white_are_the_types_or_the_cohorts(dtype, normalise, black, white):
    scale = restoration(dtype, data={"cohort": "c", "normalise": normalise}).scale
    assert scale.black == pytest.approx((black,))
    assert scale.white == pytest.approx((white,))


def test_quality_measures_equal_scikit_images():
    metrics = pytest.importorskip("skimage.metrics", reason="scikit-image is a development dependency")
    original = torch.rand(3, 1, 33, 28, generator=torch.Generator().manual_seed(0))
    image = (original + 0.1 * noise(3, 1, 33, 28)).clamp(0, 1)
    for row in range(3):
        a, b = original[row, 0].double().numpy(), image[row, 0].double().numpy()
        assert psnr(image, original)[row].item() == pytest.approx(metrics.peak_signal_noise_ratio(a, b, data_range=1), abs=1e-4)
        theirs = metrics.structural_similarity(a, b, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
        assert ssim(image, original)[row].item() == pytest.approx(theirs, abs=1e-4)
    assert psnr(original, original).tolist() == [HIGHEST_PSNR] * 3


def test_ssim_equals_monais_in_two_and_three_dimensions():
    from monai.losses import SSIMLoss

    for shape in ((2, 2, 20, 17), (2, 1, 12, 13, 15)):
        original = torch.rand(*shape, generator=torch.Generator().manual_seed(0))
        image = (original + 0.2 * noise(*shape)).clamp(0, 1)
        theirs = SSIMLoss(spatial_dims=len(shape) - 2, reduction="none")(image, original)
        torch.testing.assert_close(1 - ssim(image, original), theirs.flatten(1).mean(1), atol=1e-5, rtol=0)


def test_a_model_that_changes_nothing_scores_as_its_input_and_every_row_has_its_own_degradation():
    task, image = restoration(), 3 * torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(0)) - 1
    batch = {"image": image, "row": torch.arange(6)}
    found = task.predict(Identity(), batch, ("image",))
    assert found["psnr"].shape == (6, 3)
    assert np.array_equal(found["psnr"], found["psnr_input"])
    assert np.array_equal(found["ssim"], found["ssim_input"])
    assert found["image"].shape == (6, 3, 3, 1, 28, 28)
    again = task.predict(Identity(), {"image": image[4:], "row": batch["row"][4:]})
    assert np.allclose(again["psnr"], found["psnr"][4:], atol=1e-5), "however rows are cut into batches"
    scores = task.score(found)
    assert scores["psnr"] == pytest.approx(found["psnr"].mean())
    assert scores["ssim_input_blur"] == pytest.approx(found["ssim_input"][:, 1].mean())


def test_the_loss_is_zero_for_the_target_and_the_absolute_error_elsewhere():
    task = restoration(task={"kind": "restoration", "ssim_weight": 0.0})
    target = noise(2, 1, 28, 28)
    batch = {"image": target + 5.1 * 0.25, "target": target}  # a quarter of the way from black to white
    assert task.loss(Identity(), {**batch, "image": target}).tolist() == [0, 0]
    assert task.loss(Identity(), batch).tolist() == pytest.approx([0.25, 0.25], abs=1e-5)


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"degrade": {}}, r"recipe key 'degrade.kinds' is \[\], but task.kind is restoration; name what to undo, such as degrade.kinds=\[noise\]"),
        ({"degrade": {"kinds": ["blur"], "blur": [2, 1]}}, r"recipe key 'degrade.blur' is \[2, 1\]; give two ends of at least 0, the lower one first"),
        ({"degrade": {"kinds": ["blur"], "occlusion": [0.5, 2]}}, r"recipe key 'degrade.occlusion' is \[0.5, 2\]; give two ends of at least 0 and at most 1, the lower one first"),
        ({"model": {"family": "restorer", "encoder": [1]}}, "recipe key 'model.decoder' has 2 levels and 'model.encoder' 1; give both the same number"),
        ({"train": {"zero_stage": 3}, "adversary": {}}, "recipe key 'train.zero_stage' is 3, which can't hold two engines, the model's and the critic's; use train.zero_stage=2"),
        ({"task": {"kind": "classification"}, "model": {"family": "resnet"}, "degrade": {}, "adversary": {}}, "recipe key 'adversary' is for restoration and segmentation, but task.kind is classification; set adversary=null"),
    ],
)  # fmt: skip
def test_a_recipe_that_cannot_be_is_one_sentence(sections, sentence):
    with pytest.raises(RecipeError, match=f"^{sentence}$"):
        recipe(**sections)


def test_images_without_one_black_or_below_the_window_are_refused():
    with pytest.raises(
        RecipeError, match=r"recipe key 'data.normalise' is 'image', but restoration measures between one black and one white; use"
    ):
        restoration(data={"cohort": "c", "normalise": "image"})
    with pytest.raises(RecipeError, match="but the images have a side of 10 pixels and SSIM needs 11"):
        restoration(side=10)


@pytest.mark.parametrize(
    ("loss", "persuaded", "judged"),
    [
        ("cross_entropy", math.log(1 + math.exp(-0.5)), (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(0.5))) / 2),
        ("least_squares", 0.125, (0.5 + 0.125) / 2),
        ("hinge", -0.5, (0 + 1.5) / 2),
    ],
)
def test_adversarial_losses_are_the_papers(loss, persuaded, judged):
    true, claimed = torch.full((2, 1, 3, 3), 2.0), torch.full((2, 1, 3, 3), 0.5)
    assert persuasion_loss(claimed, loss).tolist() == pytest.approx([persuaded] * 2)
    assert judgement_loss(true, claimed, loss).tolist() == pytest.approx([judged] * 2)


def test_r1_is_half_the_squared_gradient_and_trains_the_critic():
    weight, true = torch.tensor([3.0, 4.0], requires_grad=True), noise(5, 2).requires_grad_()
    penalty = r1_penalty((true * weight).sum(1)[:, None, None], true)
    assert penalty.tolist() == pytest.approx([12.5] * 5)
    penalty.sum().backward()
    assert weight.grad.tolist() == pytest.approx([15.0, 20.0])


def test_the_critic_gets_no_gradient_in_the_models_step_and_the_model_gets_its_verdict():
    model, critic = Watched(restorer((1, 12, 12), width=4)), PatchGAN(AdversarySpec(width=4, layers=1), (1, 12, 12), 1)
    image = noise(2, 1, 12, 12)
    claim = model(image)
    assert claim is model.output
    with frozen(critic):
        verdict = critic(image, claim)
    persuasion_loss(verdict, "hinge").sum().backward()
    assert all(p.grad is None for p in critic.parameters())
    assert all(p.requires_grad for p in critic.parameters())
    assert model.model.last.weight.grad.abs().sum() > 0


def test_none_of_it_imports_ray_deepspeed_or_monai():
    code = (
        "import hepdist.models.restorer, hepdist.models.patchgan, hepdist.tasks.restoration, hepdist.tasks.adversarial, hepdist.tasks.outlining,"
        " hepdist.augment.degrade, sys; print([m for m in ('ray', 'deepspeed', 'monai', 'skimage', 'scipy') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
