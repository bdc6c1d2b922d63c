"""Every network gives logits of the right shape for any input, learns one batch by heart, and equals its reference where there is one."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from hepdist.errors import RecipeError
from hepdist.models import Inputs, build
from hepdist.models.specs import FusionSpec, MLPSpec, ModelSpec, ResNetSpec, UNetSpec
from hepdist.shards.manifest import EMRColumn

EMR = (
    EMRColumn("age", "number", "a"),
    EMRColumn("sex", "category", categories=("female", "male")),
    EMRColumn("alt", "number", "U/l"),
    EMRColumn("site", "category", categories=("a", "b", "c")),
)


def network(spec: ModelSpec, shape: tuple[int, ...] = (1, 28, 28), classes: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return build(spec, Inputs(shape, EMR), classes)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


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


def copy_layer_by_layer(source: nn.Module, target: nn.Module, image: Tensor) -> None:
    """Copy the weights of layers in the order in which they are called, which does not depend on how modules are named."""
    called: dict[nn.Module, list[nn.Module]] = {source: [], target: []}
    hooks = [
        layer.register_forward_pre_hook(lambda m, _, model=model: called[model].append(m))
        for model in (source, target)
        for layer in model.modules()
        if next(layer.children(), None) is None and next(layer.parameters(), None) is not None
    ]
    with torch.no_grad():
        source(image), target(image)
    for hook in hooks:
        hook.remove()
    by_shape = [sorted(called[m], key=lambda layer: [tuple(p.shape) for p in layer.parameters()]) for m in (source, target)]
    assert [[p.shape for p in layer.parameters()] for layer in by_shape[0]] == [
        [p.shape for p in layer.parameters()] for layer in by_shape[1]
    ]
    with torch.no_grad():
        for theirs, ours in zip(*by_shape, strict=True):
            for a, b in zip(theirs.parameters(), ours.parameters(), strict=True):
                b.copy_(a)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("shape", "classes"), [((1, 32, 32), 2), ((3, 37, 50), 4), ((1, 9, 31, 18), 3), ((2, 3, 40, 21), 2)])
def test_unet_gives_logits_of_the_input_size(shape, classes, stride, residual):
    model = network(UNetSpec(width=4, stride=stride, residual=residual, norm="group"), shape, classes)
    logits = model(torch.randn(2, *shape))
    assert logits.shape == (2, classes, *shape[1:])
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_unet_takes_sizes_it_was_not_built_for():
    model = network(UNetSpec(width=4, norm="group"), (1, 32, 32))
    assert model(torch.randn(1, 1, 45, 27)).shape == (1, 2, 45, 27)


def test_unet_never_halves_a_side_below_four_voxels():
    sizes = []
    model = network(UNetSpec(width=2, depth=7, norm="group"), (1, 5, 64, 17))
    for stage in model.encoder:
        stage.register_forward_hook(lambda _m, _i, out: sizes.append(tuple(out.shape[2:])))
    model(torch.randn(1, 1, 5, 64, 17))
    assert sizes == [(5, 64, 17), (5, 32, 9), (5, 16, 5), (5, 8, 5), (5, 4, 5)]


def test_deep_supervision_gives_each_decoder_level_in_training_and_one_output_in_evaluation():
    model = network(UNetSpec(width=4, depth=4, deep_supervision=True, norm="group"), (1, 16, 32, 24), 3)
    image = torch.randn(1, 1, 16, 32, 24)
    assert [tuple(o.shape) for o in model(image)] == [(1, 3, 16, 32, 24), (1, 3, 8, 16, 12), (1, 3, 4, 8, 6)]
    assert model.eval()(image).shape == (1, 3, 16, 32, 24)


@pytest.mark.parametrize("residual", [False, True])
def test_unet_equals_monai_dynunet(residual):
    from monai.networks.nets import DynUNet

    ours = network(UNetSpec(width=4, depth=4, residual=residual), (1, 32, 40, 48), 3)
    theirs = DynUNet(3, 1, 3, [3] * 4, [1, 2, 2, 2], [2, 2, 2], filters=[4, 8, 16, 32], res_block=residual)
    assert parameters(ours) == parameters(theirs)
    for (_, theirs_block), ours_block in zip(_dynunet_blocks(theirs), _unet_blocks(ours), strict=True):
        for a, b in zip(theirs_block, ours_block, strict=True):
            b.load_state_dict(a.state_dict())
    image = torch.randn(2, 1, 32, 40, 48)
    torch.testing.assert_close(ours.eval()(image), theirs.eval()(image), rtol=1e-4, atol=1e-4)


def _dynunet_blocks(net: nn.Module) -> list[tuple[str, list[nn.Module]]]:
    def layers(block: nn.Module) -> list[nn.Module]:
        found = [block.conv1.conv, block.conv2.conv, block.norm1, block.norm2]
        return found + ([block.conv3.conv, block.norm3] if hasattr(block, "conv3") else [])

    encoder = [("encoder", layers(block)) for block in (net.input_block, *net.downsamples, net.bottleneck)]
    decoder = [("decoder", [up.transp_conv.conv, *layers(up.conv_block)]) for up in reversed(net.upsamples)]
    return [*encoder, *decoder, ("head", [net.output_block.conv.conv])]


def _unet_blocks(net: nn.Module) -> list[list[nn.Module]]:
    def layers(block: nn.Module) -> list[nn.Module]:
        return [
            block.conv1,
            block.conv2,
            block.norm1,
            block.norm2,
            *(list(block.shortcut) if hasattr(block, "shortcut") and list(block.shortcut.children()) else []),
        ]

    return [*(layers(b) for b in net.encoder), *([up, *layers(b)] for up, b in zip(net.upsample, net.decoder, strict=True)), [net.heads[0]]]


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


@pytest.mark.parametrize("stride", [1, 2])
def test_a_unet_learns_one_batch_by_heart(stride):
    model = network(UNetSpec(width=8, depth=3, stride=stride, deep_supervision=True), (1, 12, 14, 16), 3)
    image = torch.randn(2, 1, 12, 14, 16, generator=torch.Generator().manual_seed(2))
    smooth = torch.nn.functional.avg_pool3d(image, 5, 1, 2)[:, 0]
    mask = (smooth > 0.05).long() + (smooth > 0.15).long()
    loss = fit(model, lambda: cross_entropy(model(image)[0], mask), steps=120)
    assert loss < 0.05


def fit(model: nn.Module, loss_of, steps: int = 60) -> float:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        optimizer.step()
    return loss.item()


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
        "import hepdist.models.resnet, hepdist.models.unet, hepdist.models.fusion, hepdist.tasks.classification, hepdist.tasks.segmentation,"
        " hepdist.augment, sys; print([m for m in ('ray', 'deepspeed', 'monai', 'sklearn', 'scipy') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
