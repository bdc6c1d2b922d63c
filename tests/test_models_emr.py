"""EMR networks: padding and what is stored under a mask never matter, packing equals stepping, inputs may be missing, ensembles are ensembles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.preprocessing import QuantileTransformer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from hepdist.augment import normalise
from hepdist.errors import RecipeError
from hepdist.models import Inputs, build
from hepdist.models.columns import ColumnEncoder, normal_score
from hepdist.models.fusion import lose_one
from hepdist.models.rnn import carried
from hepdist.models.specs import FusionSpec, MLPSpec, ModelSpec, ResNetSpec, RNNSpec, parse_model
from hepdist.shards.manifest import EMRColumn

EMR = (
    EMRColumn("age", "number", "a"),
    EMRColumn("sex", "category", categories=("female", "male")),
    EMRColumn("alt", "number", "U/l"),
    EMRColumn("site", "category", categories=("a", "b", "c")),
)
VISITS = (
    EMRColumn("bili", "number"),
    EMRColumn("stage", "ordinal", categories=("1", "2", "3")),
    EMRColumn("oedema", "category", categories=("no", "yes")),
)
QUANTILES = tuple(tuple(np.linspace(-2, 2, 33).tolist()) for _ in range(4))
STEPS = 5
INPUTS = Inputs((1, 16, 16), EMR, VISITS, STEPS, QUANTILES, QUANTILES[:3])


def network(spec: ModelSpec, inputs: Inputs = INPUTS, classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return build(spec, inputs, classes)


def rows(n: int, seed: int = 1) -> dict[str, Tensor]:
    """A batch of every kind of input, as it comes from `normalise`; patient 0 has no visit, patient 1 has all of them."""
    rng = torch.Generator().manual_seed(seed)
    emr_missing = (torch.rand(n, 4, generator=rng) < 0.3).to(torch.uint8)
    codes = torch.stack([torch.randint(0, 2, (n,), generator=rng), torch.randint(0, 3, (n,), generator=rng)], 1).float()
    numbers = torch.randn(n, 2, generator=rng)
    emr = torch.stack([numbers[:, 0], codes[:, 0], numbers[:, 1], codes[:, 1]], 1)
    length = torch.randint(0, STEPS + 1, (n, 1), generator=rng, dtype=torch.int32)
    length[0], length[1 % n] = 0, STEPS
    sequence = torch.cat((torch.randn(n, STEPS, 1, generator=rng), torch.randint(0, 2, (n, STEPS, 2), generator=rng)), 2)
    padding = torch.arange(STEPS)[None, :, None] >= length[:, :, None]
    missing = ((torch.rand(n, STEPS, 3, generator=rng) < 0.3) | padding).to(torch.uint8)
    gap = torch.randint(1, 400, (n, STEPS), generator=rng).float()
    gap[:, 0] = 0
    return {
        "image": torch.randn(n, 1, 16, 16, generator=rng), "image_missing": torch.zeros(n, 1, dtype=torch.uint8),
        "emr": emr.masked_fill(emr_missing.bool(), 0), "emr_missing": emr_missing,
        "sequence": sequence.masked_fill(missing.bool(), 0), "sequence_missing": missing,
        "sequence_gap": gap.masked_fill(padding[..., 0], 0), "sequence_length": length,
    }  # fmt: skip


def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(*(batch[name] for name in model.inputs))


FAMILIES = [
    MLPSpec(width=8),
    MLPSpec(width=8, numbers="quantile", residual=True, depth=3, members=4),
    MLPSpec(width=8, numbers="piecewise", embedding=6),
    RNNSpec(width=8),
    RNNSpec(width=8, cell="lstm", layers=2, numbers="piecewise", static=False, last_visit=False, carry=False),
    RNNSpec(width=8, numbers="quantile", members=3),
    FusionSpec(image=ResNetSpec(depth=10, width=4), emr=MLPSpec(width=8), visits=RNNSpec(width=8), join="gated"),
    FusionSpec(image=ResNetSpec(depth=10, width=4), emr=None, visits=RNNSpec(width=8), join="film"),
    FusionSpec(image=ResNetSpec(depth=10, width=4), emr=MLPSpec(width=8, numbers="quantile")),
]


def named(spec: ModelSpec) -> str:
    said = spec.model_dump(exclude_defaults=True, exclude={"image", "emr", "visits", "width"})
    return "-".join(map(str, (spec.family, *said.values())))


@pytest.mark.parametrize("spec", FAMILIES, ids=named)
def test_logits_have_the_promised_shape_and_gradients_reach_every_parameter(spec):
    model = network(spec).train()
    found = logits(model, rows(7))
    members = getattr(spec, "members", 1)
    assert found.shape == ((7, 3) if members == 1 else (7, members, 3))
    found.square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []


@pytest.mark.parametrize("spec", FAMILIES, ids=named)
def test_what_is_stored_where_nothing_was_measured_has_no_influence(spec):
    model, batch = network(spec).eval(), rows(9)
    noisy = dict(batch)
    for name in ("emr", "sequence"):
        noisy[name] = torch.where(batch[f"{name}_missing"].bool(), torch.full_like(batch[name], 77.0), batch[name])
    assert torch.equal(logits(model, batch), logits(model, noisy))


@pytest.mark.parametrize("spec", [s for s in FAMILIES if "sequence" in s.reads], ids=named)
def test_padding_after_the_last_visit_has_no_influence(spec):
    model, batch = network(spec).eval(), rows(9)
    padding = torch.arange(STEPS)[None] >= batch["sequence_length"]
    noisy = {
        **batch,
        "sequence": torch.where(padding[..., None], 5.0, batch["sequence"]),
        "sequence_missing": torch.where(padding[..., None], 0, batch["sequence_missing"]).to(torch.uint8),
        "sequence_gap": torch.where(padding, 1000.0, batch["sequence_gap"]),
    }
    assert torch.equal(logits(model, batch), logits(model, noisy))
    longer = {name: nn.functional.pad(batch[name], (0, 0, 0, 3)) for name in ("sequence", "sequence_missing")}
    longer = {**batch, **longer, "sequence_gap": nn.functional.pad(batch["sequence_gap"], (0, 3))}
    assert torch.allclose(logits(model, batch), logits(model, longer), atol=1e-6)


def test_the_packed_network_equals_the_cell_stepped_visit_by_visit():
    model, batch = network(RNNSpec(width=8, static=False, last_visit=False)).eval(), rows(6)
    member = model.networks[0]
    visits = member.visits(batch["sequence"], batch["sequence_missing"], batch["sequence_gap"])
    cell = nn.GRUCell(visits.shape[2], 8)
    for name, parameter in member.cell.named_parameters():
        getattr(cell, name.removesuffix("_l0")).data.copy_(parameter.data)
    for i, length in enumerate(batch["sequence_length"][:, 0].tolist()):
        state = torch.zeros(1, 8)
        for step in range(length):
            state = cell(visits[i, step][None], state)
        expected = model.heads[0](member.layers(state))
        assert torch.allclose(logits(model, {k: v[i : i + 1] for k, v in batch.items()}), expected, atol=1e-6)


def test_a_patient_without_visits_is_judged_by_static_columns_alone():
    model, batch = network(RNNSpec(width=8)).eval(), rows(1)
    other = {**rows(1, seed=2), "emr": batch["emr"], "emr_missing": batch["emr_missing"], "sequence_length": batch["sequence_length"]}
    assert batch["sequence_length"].tolist() == [[STEPS]]
    none = [{**b, "sequence_length": torch.zeros(1, 1, dtype=torch.int32)} for b in (batch, other)]
    assert torch.equal(logits(model, none[0]), logits(model, none[1]))
    assert not torch.equal(logits(model, batch), logits(model, other))


def test_days_between_visits_and_their_order_matter():
    model, batch = network(RNNSpec(width=8)).eval(), rows(2)
    slower = {**batch, "sequence_gap": batch["sequence_gap"] * 4}
    turned = {**batch, "sequence": batch["sequence"].flip(1), "sequence_missing": batch["sequence_missing"].flip(1)}
    for changed in (slower, turned):
        assert not torch.allclose(logits(model, batch)[1], logits(model, changed)[1], atol=1e-5)


def test_carrying_forward_takes_the_last_known_value_and_leaves_what_was_never_known_missing():
    nan = float("nan")
    values = torch.tensor([[[nan, 1.0], [2.0, nan], [nan, nan], [5.0, 4.0]]])
    filled, missing = carried(values.nan_to_num(9.0), values.isnan())
    assert missing.tolist() == [[[1, 0], [0, 0], [0, 0], [0, 0]]]
    assert filled[missing == 0].tolist() == [1.0, 2.0, 1.0, 2.0, 1.0, 5.0, 4.0]


def test_normal_scores_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    train = np.stack([rng.lognormal(0, 1, 400), rng.integers(0, 4, 400).astype(float)], axis=1)
    knots = np.quantile(train, np.linspace(0, 1, 33), axis=0)
    reference = QuantileTransformer(n_quantiles=33, output_distribution="normal").fit(train)
    inside = train[(train[:, 0] > knots[1, 0]) & (train[:, 0] < knots[-2, 0]) & (train[:, 1] > 0) & (train[:, 1] < 3)]
    found = normal_score(torch.from_numpy(inside).float(), torch.from_numpy(knots.T.copy()).float())
    assert len(inside) > 150
    assert np.allclose(found.numpy(), reference.transform(inside), atol=1e-3)
    beyond = normal_score(torch.tensor([[1e6, 1e6], [-1e6, -1e6]]), torch.from_numpy(knots.T.copy()).float())
    assert beyond[0].tolist() == pytest.approx([2.417, 2.417], abs=1e-3) and torch.equal(beyond[1], -beyond[0])


def test_piecewise_numbers_fill_their_bins_from_left_to_right():
    column = (EMRColumn("alt", "number"),)
    encoder = ColumnEncoder(column, (tuple(float(v) for v in range(33)),), "piecewise")  # bins end at 0, 4, 8, ... 32
    found = encoder(torch.tensor([[6.0], [-3.0], [40.0]]), torch.zeros(3, 1))
    assert found.tolist() == [[1, 0.5, *[0] * 6, 0], [0] * 9, [*[1] * 8, 0]]
    assert encoder(torch.tensor([[6.0]]), torch.ones(1, 1)).tolist() == [[*[0] * 8, 1]]


def test_quantiles_that_a_cohort_does_not_hold_are_refused_in_a_sentence():
    with pytest.raises(RecipeError, match=r"^recipe key 'model.numbers' is 'quantile', but the cohort doesn't hold the quantiles"):
        network(MLPSpec(numbers="quantile"), Inputs(emr=EMR))


def test_the_parameters_of_an_ensemble_are_one_matrix_and_scales_of_each_member():
    inputs = 2 + 2 + 3 + 4  # numbers, one-hot categories, mask
    alone, several = (sum(p.numel() for p in network(MLPSpec(width=16, depth=2, members=m)).parameters()) for m in (1, 5))
    assert alone == (inputs * 16 + 16) + (16 * 16 + 16) + 2 * 32 + (16 * 3 + 3)
    assert several == inputs * 16 + 16 * 16 + 2 * 32 + 5 * ((inputs + 16 + 16) + (16 + 16 + 16) + (16 * 3 + 3))


def test_members_of_an_ensemble_do_not_share_a_loss():
    model = network(MLPSpec(width=8, members=3)).train()
    logits(model, rows(6))[:, 1].sum().backward()
    reached = {name: p.grad.abs().sum(tuple(range(1, p.ndim))) > 0 for name, p in model.named_parameters() if p.shape[0] == 3}
    assert len(reached) == 8 and all(found.tolist() == [False, True, False] for found in reached.values())


@pytest.mark.parametrize("spec", FAMILIES, ids=named)
def test_a_network_learns_one_batch_by_heart(spec):
    model, batch = network(spec).train(), rows(8)
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    label = torch.arange(8) % 3
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(150):
        found = logits(model, batch)
        found = found if found.ndim == 2 else found.flatten(0, 1)
        loss = cross_entropy(found, label.repeat_interleave(len(found) // 8))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.02


@pytest.mark.parametrize("join", ["concat", "film", "gated"])
@pytest.mark.parametrize("shape", [(1, 40, 31), (1, 16, 17, 18)])
def test_fusion_works_when_any_of_its_inputs_is_missing(join, shape):
    spec = FusionSpec(image=ResNetSpec(depth=10, width=4), emr=MLPSpec(width=8), visits=RNNSpec(width=8), join=join)
    model = network(spec, Inputs(shape, EMR, VISITS, STEPS)).eval()
    for vector in model.absent:
        nn.init.normal_(vector)
    if join == "film":
        nn.init.normal_(model.join.modulation.weight)
    batch = {**rows(2), "image": torch.randn(2, *shape)}
    batch["sequence_length"][:] = 3
    gone = {
        "image": {"image_missing": torch.ones(2, 1, dtype=torch.uint8)},
        "emr": {"emr_missing": torch.ones(2, 4, dtype=torch.uint8)},
        "sequence": {"sequence_length": torch.zeros(2, 1, dtype=torch.int32)},
    }
    whole = logits(model, batch)
    for name, changes in gone.items():
        without = logits(model, {**batch, **changes})
        assert not torch.allclose(whole, without, atol=1e-5), name
        filled = logits(model, {**batch, **changes, name: torch.full_like(batch[name], 0.7)})
        assert torch.equal(without, filled), f"what fills a missing {name} does not matter"


def test_an_image_is_there_unless_the_cohort_says_otherwise():
    batch = {"image": torch.zeros(2, 1, 4, 4, dtype=torch.uint8)}
    assert normalise(batch, "none", {})["image_missing"].tolist() == [[0], [0]]
    said = torch.tensor([[1], [0]], dtype=torch.uint8)
    assert normalise({**batch, "image_missing": said}, "none", {})["image_missing"] is said


def test_visits_are_normalised_by_feature_and_zero_where_missing():
    values = torch.tensor([[[10.0, 1.0], [30.0, 1.0]]])
    missing = torch.tensor([[[0, 0], [0, 1]]], dtype=torch.uint8)
    stats = {"sequence": {"mean": [20.0, 0.0], "std": [5.0, 1.0]}}
    assert normalise({"sequence": values, "sequence_missing": missing}, "none", stats)["sequence"].tolist() == [[[-2, 1], [2, 0]]]


def test_modality_dropout_takes_one_input_of_its_share_of_samples_and_never_the_last():
    there = torch.tensor([[True, True, True], [True, False, True], [False, True, False], [False, False, False]]).repeat(2000, 1)
    torch.manual_seed(0)
    left = lose_one(there, 0.5)
    lost = (there & ~left).reshape(2000, 4, 3)
    assert lost.sum(2).max() == 1 and not lost[:, 2:].any()
    assert lost[:, 0].float().mean(0).tolist() == pytest.approx([1 / 6] * 3, abs=0.03)
    assert lost[:, 1].float().mean(0).tolist() == pytest.approx([1 / 4, 0, 1 / 4], abs=0.03)


def test_a_fusion_takes_any_family_that_classifies_images_and_refuses_the_others():
    spec = parse_model({"family": "fusion", "image": {"family": "resnet", "depth": 10, "width": 4}, "visits": {"width": 8}})
    assert isinstance(spec.image, ResNetSpec) and spec.reads == ("image", "emr", "sequence")
    assert parse_model(spec.model_dump(mode="json")) == spec
    with pytest.raises(
        RecipeError, match=r"^recipe key 'model.image' is .*'unet' is no family that classifies images; choose one of .*resnet"
    ):
        parse_model({"family": "fusion", "image": {"family": "unet"}})
    with pytest.raises(RecipeError, match=r"recipe key 'model.image.deph' is unknown; did you mean 'model.image.depth'\?"):
        parse_model({"family": "fusion", "image": {"deph": 10}})
    with pytest.raises(RecipeError, match=r"a fusion needs emr or visits beside the image"):
        parse_model({"family": "fusion", "emr": None})
