"""U-Net and V-Net give logits of the image's size whatever it is, learn one batch by heart, and equal MONAI's networks configured alike."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from networks import copy_layer_by_layer, fit, network, parameters
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from hepdist.errors import RecipeError
from hepdist.models import Inputs, build
from hepdist.models.specs import FAMILIES, Choice, ModelSpec, UNetSpec, VNetSpec, parse_model
from hepdist.models.specs.common import Activation

SHAPES = [((1, 32, 32), 2), ((3, 37, 50), 4), ((1, 9, 31, 18), 3), ((2, 3, 40, 21), 2)]
"""Shapes of images, with odd and very short sides, and numbers of classes."""


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("shape", "classes"), SHAPES)
def test_unet_gives_logits_of_the_input_size(shape, classes, stride, residual):
    model = network(UNetSpec(width=4, stride=stride, residual=residual, norm="group"), shape, classes)
    logits = model(torch.randn(2, *shape))
    assert logits.shape == (2, classes, *shape[1:])
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("shape", "classes"), SHAPES)
def test_vnet_gives_logits_of_the_input_size(shape, classes, stride, kernel):
    model = network(VNetSpec(width=4, convolutions=(1, 2, 2), kernel=kernel, stride=stride, norm="group"), shape, classes)
    logits = model(torch.randn(2, *shape))
    assert logits.shape == (2, classes, *shape[1:])
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("spec", [UNetSpec(width=4, norm="group"), VNetSpec(width=4, kernel=3, norm="group")], ids=["unet", "vnet"])
def test_a_network_takes_sizes_it_was_not_built_for(spec):
    model = network(spec, (1, 32, 32))
    assert model(torch.randn(1, 1, 45, 27)).shape == (1, 2, 45, 27)


def test_vnet_has_fewer_levels_where_sides_are_too_short_to_halve():
    model = network(VNetSpec(width=2, kernel=3), (1, 6, 17, 12))
    assert [down.stride for down in model.down] == [(1, 2, 2), (1, 2, 1)]
    assert len(network(VNetSpec(width=2, kernel=3), (1, 5, 6)).up) == 0


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

    ours = network(UNetSpec(width=4, depth=4, residual=residual), (1, 32, 32, 40), 3)
    theirs = DynUNet(3, 1, 3, [3] * 4, [1, 2, 2, 2], [2, 2, 2], filters=[4, 8, 16, 32], res_block=residual)
    assert parameters(ours) == parameters(theirs)
    for (_, theirs_block), ours_block in zip(_dynunet_blocks(theirs), _unet_blocks(ours), strict=True):
        for a, b in zip(theirs_block, ours_block, strict=True):
            b.load_state_dict(a.state_dict())
    image = torch.randn(1, 1, 32, 32, 40)
    torch.testing.assert_close(ours.eval()(image), theirs.eval()(image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_unet_with_deep_supervision_has_as_many_parameters_as_monais(dims):
    from monai.networks.nets import DynUNet

    with torch.device("meta"):  # only counted
        ours = network(UNetSpec(width=32, depth=6, residual=True, deep_supervision=True), (2, *(128,) * dims), 4)
        filters, strides = [32, 64, 128, 256, 320, 320], [1, 2, 2, 2, 2, 2]
        theirs = DynUNet(dims, 2, 4, [3] * 6, strides, strides[1:], filters=filters, res_block=True, deep_supervision=True, deep_supr_num=4)
    assert parameters(ours) == parameters(theirs)


MONAIS_VNET = VNetSpec(convolutions=(1, 1, 2, 3, 2), decoder=(1, 1, 2, 2), norm="syncbatch", activation="elu")


@pytest.mark.parametrize(("dims", "channels", "classes"), [(2, 1, 1), (2, 4, 3), (3, 1, 2), (3, 2, 5)])
def test_vnet_has_as_many_parameters_as_monais(dims, channels, classes):
    from monai.networks.nets import VNet

    with torch.device("meta"):  # only counted
        ours = build(MONAIS_VNET, Inputs((channels, *(64,) * dims)), classes)
        theirs = VNet(dims, channels, classes)
    assert parameters(ours) == parameters(theirs)


def test_vnet_equals_monais_once_that_has_no_activation_before_a_stages_sum():
    from monai.networks.nets import VNet

    theirs = VNet(2, 2, 3)
    for layer in theirs.modules():
        if isinstance(layer, nn.Dropout2d | nn.Dropout3d):
            layer.p = 0.0
    for name, stage in theirs.named_children():
        if name.startswith(("down", "up")):
            stage.ops[-1].act_function = nn.Identity()  # the paper has none there
    ours = network(MONAIS_VNET, (2, 64, 80), 3)
    image = torch.randn(2, 2, 64, 80, generator=torch.Generator().manual_seed(1))
    copy_layer_by_layer(theirs, ours, image)
    torch.testing.assert_close(ours(image), theirs(image), rtol=1e-3, atol=1e-4)


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


LEARNERS = [
    UNetSpec(width=8, depth=2),
    UNetSpec(width=8, depth=3, stride=2, residual=True),
    VNetSpec(width=4, convolutions=(1, 2), kernel=3),
    VNetSpec(width=8, convolutions=(1, 2), kernel=3, stride=2),
]


@pytest.mark.parametrize("spec", LEARNERS, ids=lambda spec: f"{spec.family}-{spec.stride}")
def test_a_network_learns_one_batch_by_heart(spec):
    model = network(spec, (1, 12, 14, 16), 3)
    image, mask = learnable()
    loss = fit(model, lambda: cross_entropy(model(image), mask), steps=120)
    assert loss < 0.05


def learnable() -> tuple[Tensor, Tensor]:
    """Two volumes of noise, and three classes by their smoothed brightness."""
    image = torch.randn(2, 1, 12, 14, 16, generator=torch.Generator().manual_seed(2))
    smooth = nn.functional.avg_pool3d(image, 5, 1, 2)[:, 0]
    return image, (smooth > 0.05).long() + (smooth > 0.15).long()


OPTIONS = [
    UNetSpec(width=8, depth=3, residual=True, deep_supervision=True, norm="group", dropout=0.3),
    UNetSpec(width=8, depth=3, stride=2, norm="syncbatch", activation="gelu"),
    VNetSpec(width=8, convolutions=(1, 2, 2), kernel=3, norm="group", dropout=0.3),
    VNetSpec(width=8, convolutions=(1, 2, 1), kernel=3, stride=2, norm="syncbatch"),
]


def named(spec: ModelSpec) -> str:
    return f"{spec.family}-{spec.norm}"


def trained(model: nn.Module, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """The loss, all gradients and buffers after one backward pass, dropout being drawn alike each time."""
    torch.manual_seed(3)
    logits = model(image)
    loss = cross_entropy(logits[0] if isinstance(logits, list) else logits, mask)
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **gradients, **dict(model.named_buffers())}


@pytest.mark.parametrize("spec", OPTIONS, ids=named)
def test_checkpointing_changes_no_gradient_and_no_running_statistic(spec):
    image, mask = learnable()
    plain, less = (trained(network(spec.model_copy(update={"checkpointing": on}), (1, 12, 14, 16), 3), image, mask) for on in (False, True))
    assert plain.keys() == less.keys()
    for name, value in plain.items():
        torch.testing.assert_close(less[name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("spec", OPTIONS[::2], ids=named)
def test_checkpointing_keeps_less_than_half_for_the_backward_pass(spec):
    kept = []
    for on in (False, True):
        model = network(spec.model_copy(update={"checkpointing": on}), (1, 12, 14, 16), 3)
        sizes: dict[int, int] = {}
        with torch.autograd.graph.saved_tensors_hooks(lambda x, sizes=sizes: sizes.update({x.data_ptr(): x.nbytes}) or x, lambda x: x):
            model(learnable()[0])
        kept.append(sum(sizes.values()) - sum(p.nbytes for p in model.parameters()))
    assert kept[1] < kept[0] / 2


COMPILED = [
    UNetSpec(width=4, depth=2, residual=True, deep_supervision=True, norm="group", checkpointing=True),
    VNetSpec(width=4, convolutions=(1, 2), kernel=3, stride=2, norm="group"),
]


@pytest.mark.parametrize("spec", COMPILED, ids=named)
def test_a_network_compiles_whole_and_trains_alike(spec):
    image, mask = (x[..., 0] for x in learnable())
    model = network(spec, (1, 12, 14), 3)
    torch._dynamo.reset()
    compiled = trained(torch.compile(model, backend="aot_eager", fullgraph=True), image, mask)
    plain = trained(network(spec, (1, 12, 14), 3), image, mask)
    for name, value in plain.items():
        torch.testing.assert_close(compiled[f"_orig_mod.{name}" if name != "loss" else name], value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    "spec", [UNetSpec(width=16, depth=2, norm="group"), VNetSpec(width=16, convolutions=(1, 2), kernel=3, norm="group")], ids=named
)
def test_features_lie_channels_last(spec):
    model = network(spec, (1, 16, 16, 16))
    layouts = []
    for layer in model.modules():
        if isinstance(layer, nn.GroupNorm) and layer.num_channels % 8 == 0:
            layer.register_forward_pre_hook(lambda _m, x: layouts.append(x[0].is_contiguous(memory_format=torch.channels_last_3d)))
    model(torch.randn(2, 1, 16, 16, 16))
    assert layouts and all(layouts)


@pytest.mark.parametrize("kind", get_args(Activation))
@pytest.mark.parametrize("family", ["unet", "vnet"])
def test_every_activation_is_used_everywhere(family, kind):
    layers = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "prelu": nn.PReLU, "elu": nn.ELU, "gelu": nn.GELU, "silu": nn.SiLU}
    model = network(parse_model({"family": family, "width": 8, "norm": "group", "activation": kind}), (1, 16, 16))
    norms = [m for m in model.modules() if isinstance(m, nn.GroupNorm)]
    found = [m for m in model.modules() if isinstance(m, tuple(layers.values()))]
    assert len(found) == len(norms) and all(isinstance(m, layers[kind]) for m in found)
    model(torch.randn(2, 1, 16, 16)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("family", ["unet", "vnet"])
def test_a_search_tries_only_values_that_the_spec_takes(family):
    for field, space in FAMILIES[family].search.items():
        for value in space.options if isinstance(space, Choice) else (space.low, space.high):
            assert getattr(parse_model({"family": family, field: value}), field) == value


def test_a_decoder_of_another_depth_is_refused_in_one_sentence():
    with pytest.raises(
        RecipeError, match=r"^recipe key 'model.decoder' has 3 levels; give it 1, one fewer than model.convolutions, or leave"
    ):
        VNetSpec(convolutions=(1, 2), decoder=(1, 1, 1))
