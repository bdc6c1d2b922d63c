"""Every network gives logits of the right shape for any input, learns one batch by heart, and equals its reference where there is one."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from networks import EMR, copy_layer_by_layer, fit, network, parameters
from torch import Tensor
from torch.nn.functional import cross_entropy

from hepdist.errors import RecipeError
from hepdist.models import Inputs, build
from hepdist.models.specs import FusionSpec, MLPSpec, ResNetSpec


def emr_rows(rows: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    emr = torch.randn(rows, 4, generator=generator)
    emr[:, 1] = torch.randint(2, (rows,), generator=generator).float()
    emr[:, 3] = torch.randint(3, (rows,), generator=generator).float()
    missing = (torch.rand(rows, 4, generator=generator) < 0.3).to(torch.uint8)
    return emr.masked_fill(missing.bool(), 0.0), missing


@pytest.mark.parametrize("norm", ["group", "instance"])
@pytest.mark.parametrize("preactivation", [True, False])
@pytest.mark.parametrize(
    ("depth", "shape", "classes"), [(10, (1, 28, 28), 2), (18, (3, 65, 71), 5), (50, (2, 33, 31), 1), (10, (2, 17, 33, 70), 3)]
)
def test_resnet_gives_logits_for_any_size_and_channels(depth, shape, classes, preactivation, norm):
    model = network(ResNetSpec(depth=depth, width=4, preactivation=preactivation, norm=norm), shape, classes)
    logits = model(torch.randn(2, *shape))
    assert logits.shape == (2, classes)
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(("depth", "published"), [(18, 11_689_512), (50, 25_557_032), (152, 60_192_808)])
def test_resnet_has_the_published_number_of_parameters(depth, published, monkeypatch):
    monkeypatch.setattr("hepdist.models.resnet.initialise", lambda _: None)  # only counted
    assert parameters(network(ResNetSpec(depth=depth, width=64, preactivation=False), (3, 224, 224), 1000)) == published


@pytest.mark.parametrize(("depth", "dims"), [(18, 2), (50, 3)])
def test_resnet_equals_monai(depth, dims):
    from monai.networks.nets import ResNet
    from monai.networks.nets.resnet import ResNetBlock, ResNetBottleneck

    shape = (1, *(70,) * dims) if dims == 2 else (1, 66, 64, 65)
    ours = network(ResNetSpec(depth=depth, width=8, preactivation=False, norm="syncbatch"), shape, 3)
    layers = {18: [2, 2, 2, 2], 50: [3, 4, 6, 3]}[depth]
    block = ResNetBlock if depth < 50 else ResNetBottleneck
    theirs = ResNet(
        block, layers, [8, 16, 32, 64], spatial_dims=dims, n_input_channels=1, num_classes=3, conv1_t_stride=2, bias_downsample=False
    )
    image = torch.randn(2, *shape)
    copy_layer_by_layer(theirs, ours, image)
    torch.testing.assert_close(ours(image), theirs(image), rtol=1e-3, atol=1e-4)


def test_mlp_tells_missing_from_zero_and_embeds_categories():
    model = network(MLPSpec(width=8)).eval()
    emr = torch.zeros(1, 4)
    there = torch.zeros(1, 4, dtype=torch.uint8)
    missing = torch.tensor([[1, 0, 0, 0]], dtype=torch.uint8)
    male, unknown = torch.tensor([[0.0, 1, 0, 0]]), torch.tensor([[0.0, 9, 0, 0]])
    logits = [model(e, m) for e, m in ((emr, there), (emr, missing), (male, there), (unknown, there))]
    assert all(not torch.equal(a, b) for i, a in enumerate(logits) for b in logits[:i])


def test_a_missing_value_has_no_influence_whatever_was_stored():
    model = network(MLPSpec(width=8)).eval()
    missing = torch.ones(1, 4, dtype=torch.uint8)
    assert torch.equal(model(torch.zeros(1, 4), missing), model(torch.full((1, 4), 2.0), missing))


@pytest.mark.parametrize(
    "spec",
    [
        ResNetSpec(depth=10, width=8),
        ResNetSpec(depth=50, width=4, preactivation=False),
        MLPSpec(width=32, dropout=0),
        FusionSpec(image=ResNetSpec(depth=10, width=4), emr=MLPSpec(dropout=0), join="film"),
        FusionSpec(image=ResNetSpec(depth=10, width=4), emr=MLPSpec(dropout=0), join="gated"),
    ],
    ids=lambda spec: f"{spec.family}-{getattr(spec, 'join', getattr(spec, 'depth', ''))}",
)
def test_a_classifier_learns_one_batch_by_heart(spec):
    model = network(spec, (1, 16, 16), 3)
    emr, missing = emr_rows(8)
    batch = {"image": torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(2)), "emr": emr, "emr_missing": missing}
    batch["image_missing"] = torch.zeros(8, 1)
    label = torch.arange(8) % 3
    loss = fit(model, lambda: cross_entropy(model(*(batch[k] for k in model.inputs)), label))
    assert loss < 0.02


def test_a_family_without_its_columns_is_refused_in_one_sentence():
    with pytest.raises(RecipeError, match=r"^recipe key 'model.family' is 'resnet', but the cohort has no images; use model.family=mlp$"):
        build(ResNetSpec(), Inputs(emr=EMR), 2)
    with pytest.raises(
        RecipeError, match=r"^recipe key 'model.family' is 'mlp', but the cohort has no EMR columns; ingest it with emr=TABLE.csv$"
    ):
        build(MLPSpec(), Inputs(), 2)


RANK = """
import sys, torch, torch.distributed as dist
from hepdist.models.layers import normalisation
rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
x = torch.linspace(-1, 3, 5 * 8 * 6).reshape(5, 8, 6).sin().reshape(5, 8, 2, 3)
weight = torch.linspace(0, 1, x.numel()).reshape(x.shape)
norm = normalisation("syncbatch", 2, 8)
part = slice(0, 2) if rank == 0 else slice(2, 5)
mine = x[part].clone().requires_grad_()
(norm(mine) * weight[part]).sum().backward()
whole, alone = x.clone().requires_grad_(), torch.nn.BatchNorm2d(8)
(alone(whole) * weight).sum().backward()
torch.testing.assert_close(mine.grad, whole.grad[part])
torch.testing.assert_close(norm.running_mean, alone.running_mean)
torch.testing.assert_close(norm.running_var, alone.running_var)
print("same")
"""


def test_syncbatch_on_two_cpu_workers_equals_batch_norm_of_the_whole_batch(tmp_path):
    command = [sys.executable, "-c", RANK]
    ranks = [subprocess.Popen([*command, str(rank), str(tmp_path / "store")], stdout=subprocess.PIPE, text=True) for rank in (0, 1)]
    assert [rank.communicate(timeout=120)[0].strip() for rank in ranks] == ["same", "same"]


def test_models_tasks_and_augmentation_import_neither_ray_nor_deepspeed_nor_monai():
    code = (
        "import hepdist.models.resnet, hepdist.models.unet, hepdist.models.vnet, hepdist.models.fusion, hepdist.tasks.classification, hepdist.tasks.segmentation,"
        " hepdist.augment, sys; print([m for m in ('ray', 'deepspeed', 'monai', 'sklearn', 'scipy') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
