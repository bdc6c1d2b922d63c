"""Each image classifier gives logits for any input in 2D and 3D, has its reference's layers, and learns one batch by heart."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from hepdist.models import Inputs, build
from hepdist.models.specs import FAMILIES, CNNSpec, DenseNetSpec, InceptionSpec, ModelSpec, ResNetSpec

SMALL: dict[str, ModelSpec] = {
    "resnet": ResNetSpec(depth=10, width=8),
    "resnet-bottleneck": ResNetSpec(depth=50, width=4, preactivation=False),
    "densenet": DenseNetSpec(blocks=(2, 3), growth=8),
    "googlenet": InceptionSpec(depth=1, width=0.125),
    "googlenet-auxiliary": InceptionSpec(depth=2, width=0.0625, five="5x5", auxiliary=True),
    "v3": InceptionSpec(variant="v3", depth=1, width=0.0625),
    "v3-auxiliary": InceptionSpec(variant="v3", depth=1, width=0.0625, auxiliary=True),
    "cnn": CNNSpec(width=8, dense=16),
}
SHAPES = ((1, 28, 28), (3, 65, 31), (2, 17, 5), (1, 9, 13, 10), (2, 66, 8, 3))

small = pytest.mark.parametrize("spec", SMALL.values(), ids=SMALL)


def network(spec: ModelSpec, shape: tuple[int, ...] = (1, 28, 28), classes: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return build(spec, Inputs(shape), classes)


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def parameters(spec: ModelSpec, shape: tuple[int, ...] = (3, 224, 224), classes: int = 1000) -> int:
    """Counted without memory for them."""
    with torch.device("meta"):
        return sum(p.numel() for p in build(spec, Inputs(shape), classes).parameters())


def loss_of(outputs: Tensor | list[Tensor], label: Tensor) -> Tensor:
    main, *others = outputs if isinstance(outputs, list) else [outputs]
    return cross_entropy(main, label) + 0.3 * sum((cross_entropy(x, label) for x in others), torch.zeros(()))


@small
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_logits_for_any_size_and_channels_and_a_gradient_for_each_weight(spec, shape):
    model = network(spec, shape, 3)
    image = images(2, *shape)
    loss_of(model(image), torch.tensor([0, 2])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    logits, features = model(image), model.features(image)
    assert logits.shape == (2, 3) and logits.isfinite().all()
    assert features.shape == (2, model.feature_size)
    torch.testing.assert_close(logits, model.head(features))


@small
def test_a_size_that_it_was_not_built_for_is_taken(spec):
    assert network(spec).eval()(images(1, 1, 45, 27)).shape == (1, 2)


@pytest.mark.parametrize("shape", [(1, 30, 21), (2, 9, 17, 13)], ids=str)
@pytest.mark.parametrize("name", ["resnet", "densenet", "googlenet"])
def test_a_patch_stem_reads_the_last_voxels_of_any_size(name, shape):
    model = network(SMALL[name].model_copy(update={"stem": "patch"}), shape).eval()
    image = images(1, *shape)
    other = image.clone()
    other[..., -1] += images(*other.shape[:-1]) * 3
    assert not torch.equal(model(image), model(other))


@pytest.mark.parametrize(
    ("stem", "sides"), [("auto", (28, 28)), ("small", (28, 28)), ("medium", (14, 14)), ("large", (7, 4)), ("patch", (7, 7))]
)
@pytest.mark.parametrize("name", ["resnet", "densenet", "googlenet", "v3"])
def test_a_stem_keeps_the_share_of_the_resolution_that_its_name_says(name, stem, sides):
    model = network(SMALL[name].model_copy(update={"stem": stem}))
    found = []
    model.stem.register_forward_hook(lambda _m, _i, out: found.append(tuple(out.shape[2:])))
    model(images(2, 1, 28, 28))
    side = sides[name in ("googlenet", "v3")]
    assert found == [(side, side)]


@pytest.mark.parametrize("norm", ["group", "instance", "syncbatch"])
@pytest.mark.parametrize("activation", ["relu", "prelu", "silu"])
@pytest.mark.parametrize("name", ["resnet", "resnet-bottleneck", "densenet", "googlenet", "cnn"])
def test_every_norm_and_activation_reaches_every_layer(name, norm, activation):
    model = network(SMALL[name].model_copy(update={"norm": norm, "activation": activation}), (1, 20, 20))
    kinds = {type(m).__name__ for m in model.modules()}
    norms = {"group": "GroupNorm", "instance": "InstanceNorm2d", "syncbatch": "SyncBatchNorm"}
    activations = {"relu": "ReLU", "prelu": "PReLU", "silu": "SiLU"}
    assert kinds & set(norms.values()) == {norms[norm]} and kinds & set(activations.values()) == {activations[activation]}
    assert model(images(2, 1, 20, 20)).isfinite().all()


@pytest.mark.parametrize(
    ("spec", "published"),
    [
        (ResNetSpec(depth=18, width=64, preactivation=False), 11_689_512),
        (ResNetSpec(depth=50, width=64, preactivation=False), 25_557_032),
        (ResNetSpec(depth=101, width=64, preactivation=False), 44_549_160),
        (DenseNetSpec(depth=121), 7_978_856),
        (DenseNetSpec(depth=169), 14_149_480),
        (DenseNetSpec(depth=201), 20_013_928),
        (InceptionSpec(width=1, five="3x3"), 6_624_904),
        (InceptionSpec(width=1, five="3x3", auxiliary=True), 13_004_888),
    ],
    ids=["resnet18", "resnet50", "resnet101", "densenet121", "densenet169", "densenet201", "googlenet", "googlenet-auxiliary"],
)
def test_the_number_of_parameters_is_torchvisions(spec, published):
    """torchvision's published counts, 1000 classes of 3 channels; its GoogLeNet has 3x3 where the paper has 5x5."""
    assert parameters(spec) == published


def test_inception_v3_has_torchvisions_parameters_but_for_the_auxiliary_head():
    """27,161,264 published, of which torchvision's own auxiliary head is 3,326,696 (768 -> 128, 5x5 to 768, 1000 logits)."""
    head = 768 * 128 + 2 * 128 + 128 * 768 * 25 + 2 * 768 + 768 * 1000 + 1000
    assert parameters(InceptionSpec(width=1, variant="v3"), (3, 299, 299)) == 27_161_264 - head


def test_the_papers_five_by_five_and_two_three_by_three_see_the_same_field():
    """A single voxel reaches a 5x5 field by both; the 3x3 of torchvision sees less."""
    fields = {}
    for five in ("5x5", "3x3+3x3", "3x3"):
        model = network(InceptionSpec(width=0.125, depth=1, five=five), (1, 28, 28)).eval()
        branch = [unit.conv for unit in model.body[0].branches[2]]
        x = torch.zeros(1, branch[0].in_channels, 11, 11)
        x[:, :, 5, 5] = 1
        for conv in branch:
            nn.init.ones_(conv.weight)
            x = conv(x)
        fields[five] = int((x[0, 0] > 0).sum())
    assert fields == {"5x5": 25, "3x3+3x3": 25, "3x3": 9}


@pytest.mark.parametrize("dims", [2, 3])
def test_v3_factorises_into_one_kernel_for_each_axis(dims):
    model = network(InceptionSpec(variant="v3", width=0.0625, depth=1), (1, *(12,) * dims))
    lines = {m.kernel_size for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d)) and 7 in m.kernel_size}
    assert lines == {tuple(7 if axis == along else 1 for axis in range(dims)) for along in range(dims)}


@pytest.mark.parametrize("dims", [2, 3])
def test_densenet_equals_monai(dims):
    from monai.networks.nets import DenseNet

    shape = (1, *(64,) * dims) if dims == 2 else (1, 64, 64, 32)
    ours = network(DenseNetSpec(blocks=(2, 3, 2), growth=8, norm="syncbatch"), shape, 3)
    theirs = DenseNet(dims, 1, 3, init_features=16, growth_rate=8, block_config=(2, 3, 2))
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))  # the order of layers is the same
    image = images(2, *shape)
    torch.testing.assert_close(ours(image), theirs(image), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ours.eval()(image), theirs.eval()(image), rtol=1e-3, atol=1e-4)


def test_densenet_264_has_monais_parameters():
    from monai.networks.nets import DenseNet264

    with torch.device("meta"):
        theirs = sum(p.numel() for p in DenseNet264(3, 1, 2).parameters())
    assert parameters(DenseNetSpec(depth=264), (1, 64, 64, 64), 2) == theirs


@pytest.mark.parametrize("variant", ["googlenet", "v3"])
def test_auxiliary_heads_answer_in_training_only(variant):
    model = network(InceptionSpec(variant=variant, width=0.125, auxiliary=True), (1, 28, 28), 3)
    image = images(2, 1, 28, 28)
    outputs = model(image)
    assert [tuple(o.shape) for o in outputs] == [(2, 3)] * (3 if variant == "googlenet" else 2)
    assert model.eval()(image).shape == (2, 3)


def test_googlenets_auxiliary_heads_read_4d_and_4a():
    model = network(InceptionSpec(width=1, auxiliary=True, stem="small"), (1, 8, 8))
    assert [head.conv.conv.in_channels for head in model.auxiliary] == [528, 512]


@small
def test_one_batch_is_learnt_by_heart(spec):
    model = network(spec, (1, 16, 16), 3)
    image, label = images(6, 1, 16, 16), torch.arange(6) % 3
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(80):
        optimizer.zero_grad()
        loss_of(model(image), label).backward()
        optimizer.step()
        model.eval()
        loss = cross_entropy(model(image), label).item()
        model.train()
        if loss < 0.02:
            break
    assert loss < 0.02


@small
@pytest.mark.parametrize(("norm", "shape"), [("group", (1, 20, 21)), ("syncbatch", (1, 12, 9, 10))], ids=["group-2d", "syncbatch-3d"])
def test_checkpointing_changes_neither_gradients_nor_running_statistics(spec, norm, shape):
    plain = network(spec.model_copy(update={"norm": norm, "dropout": 0.3}), shape)
    again = network(spec.model_copy(update={"norm": norm, "dropout": 0.3, "checkpointing": True}), shape)
    again.load_state_dict(copy.deepcopy(plain.state_dict()))
    for model in (plain, again):
        torch.manual_seed(7)
        loss_of(model(images(2, *shape)), torch.tensor([0, 1])).backward()
    for (name, a), b in zip(plain.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)
    for (name, a), b in zip(plain.named_buffers(), again.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def kept_bytes(forward: Callable[[], object]) -> int:
    """Of all memory that a forward pass keeps for its backward pass, each piece once."""
    pieces: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        pieces[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outcome = forward()
    total = sum(storage.nbytes() for storage in pieces.values())
    del outcome
    return total


@pytest.mark.parametrize("name", ["resnet", "densenet", "googlenet", "v3", "cnn"])
def test_checkpointing_keeps_less_for_the_backward_pass(name):
    kept = {}
    for checkpointing in (False, True):
        model = network(SMALL[name].model_copy(update={"checkpointing": checkpointing}), (1, 32, 32))
        kept[checkpointing] = kept_bytes(lambda model=model: model(images(2, 1, 32, 32)))
    assert kept[True] < 0.8 * kept[False]


@pytest.mark.parametrize(
    ("name", "checkpointing", "shape"),
    [
        ("resnet", False, (1, 20, 21)),
        ("densenet", False, (1, 20, 21)),
        ("googlenet-auxiliary", False, (1, 20, 21)),
        ("v3", False, (1, 20, 21)),
        ("cnn", False, (1, 9, 10, 12)),
        ("densenet", True, (1, 9, 10, 12)),
        ("resnet", True, (1, 20, 21)),
    ],
)
def test_the_whole_network_is_one_graph_for_torch_compile(name, checkpointing, shape):
    torch._dynamo.reset()
    model, image = network(SMALL[name].model_copy(update={"checkpointing": checkpointing}), shape), images(2, *shape)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.manual_seed(1)
    expected = model(image)
    torch.manual_seed(1)
    torch.testing.assert_close(compiled(image), expected)


@pytest.mark.parametrize("family", ["resnet", "densenet", "inception", "cnn"])
def test_each_value_that_a_search_may_try_is_one_that_the_spec_takes(family):
    spec = FAMILIES[family]
    for key, values in spec.search.items():
        for value in getattr(values, "options", None) or (values.low, values.high):
            assert getattr(spec.model_validate({"family": family, key: value}), key) == value
