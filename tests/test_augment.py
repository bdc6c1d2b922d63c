"""A sample's augmentation is its own: the same however the batch is cut; images and masks move together; normalisation is exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torch import Tensor

from hepdist.augment import augment, normalise
from hepdist.augment.intensity import blur
from hepdist.augment.random import BLUR, normal, uniform
from hepdist.sections import AugmentSpec
from hepdist.shards.tensors import tensor_of

EVERYTHING = {
    "rotate": 20, "scale": 0.2, "translate": 0.1, "elastic": 0.05, "brightness": 0.3, "contrast": 0.3, "gamma": 0.3, "blur": 1.2,
    "noise": 0.2, "erase": 0.3,
}  # fmt: skip


def batch_of(rows: int, shape: tuple[int, ...], first: int = 100) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "image": torch.randn(rows, 2, *shape, generator=generator),
        "mask": torch.randint(3, (rows, 1, *shape), generator=generator, dtype=torch.uint8),
        "position": torch.arange(first, first + rows),
        "label": torch.arange(rows) % 2,
        "weight": torch.ones(rows),
    }


def cut(batch: dict[str, Tensor], part: slice) -> dict[str, Tensor]:
    return {name: tensor[part] for name, tensor in batch.items()}


def splitmix64(state: int) -> int:
    """The published C code, on Python's integers."""
    z = (state + 0x9E3779B97F4A7C15) % 2**64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return z ^ (z >> 31)


def test_draws_are_splitmix64_of_seed_epoch_stream_and_position():
    key = splitmix64(splitmix64(7) ^ 2) ^ 5
    start = splitmix64(splitmix64(key) ^ 41)
    expected = [splitmix64((start + i * 0x9E3779B97F4A7C15) % 2**64) % 2**24 / 2**24 for i in range(4)]
    assert uniform(torch.tensor([41]), seed=7, epoch=2, stream=5, n=4).tolist() == [expected]


def test_uniform_draws_are_uniform_and_differ_by_seed_epoch_stream_and_position():
    position = torch.arange(400)
    draws = [uniform(position, *key, 50) for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]
    assert stats.kstest(draws[0].flatten().numpy(), "uniform").pvalue > 0.001
    correlation = np.corrcoef([d.flatten().numpy() for d in draws])
    assert np.abs(correlation - np.eye(4)).max() < 0.03
    assert abs(np.corrcoef(draws[0][:-1].flatten(), draws[0][1:].flatten())[0, 1]) < 0.03


@pytest.mark.parametrize("n", [1, 49, 50])
def test_normal_draws_are_standard_normal(n):
    draws = normal(torch.arange(20_000 // n), 0, 0, 0, n)
    assert draws.shape == (20_000 // n, n)
    assert stats.kstest(draws.flatten().numpy(), "norm").pvalue > 0.001


@pytest.mark.parametrize(("shape", "flip", "crop"), [((21, 30), (0, 1), ()), ((9, 17, 12), (0, 2), ()), ((9, 17, 12), (1,), (8, 8, 12))])
def test_a_batch_cut_in_two_is_augmented_bit_for_bit_as_the_whole(shape, flip, crop):
    spec = AugmentSpec(**EVERYTHING, flip=flip, crop=crop)
    batch = batch_of(5, shape)
    whole = augment(batch, spec, seed=3, epoch=4)
    parts = [augment(cut(batch, part), spec, seed=3, epoch=4) for part in (slice(0, 2), slice(2, 5))]
    for name in ("image", "mask"):
        assert torch.equal(whole[name], torch.cat([part[name] for part in parts]))
    other = augment(batch, spec, seed=3, epoch=5)
    assert all(not torch.equal(whole["image"][i], other["image"][i]) for i in range(5))


def test_torchs_generator_is_neither_read_nor_moved():
    state = torch.get_rng_state()
    augment(batch_of(2, (8, 8)), AugmentSpec(**EVERYTHING, flip=(1,), mixup=0.4, cutmix=1.0), 0, 0)
    assert torch.equal(state, torch.get_rng_state())


def test_no_augmentation_returns_the_batch_as_it_is():
    batch = batch_of(3, (8, 9))
    out = augment(batch, AugmentSpec(), 0, 0)
    assert out.keys() == batch.keys() and all(torch.equal(out[name], batch[name]) for name in batch)


def test_an_empty_part_of_a_batch_stays_empty():
    out = augment(cut(batch_of(2, (8, 9)), slice(0, 0)), AugmentSpec(**EVERYTHING, mixup=0.2), 0, 0)
    assert len(out["image"]) == 0


@pytest.mark.parametrize("shape", [(31, 40), (17, 24, 20)])
def test_mask_moves_with_the_image(shape):
    centre = [side / 2 + 2 for side in shape]
    grid = np.stack(np.meshgrid(*(np.arange(side) for side in shape), indexing="ij"))
    ball = sum(((g - c) / (side / 5)) ** 2 for g, c, side in zip(grid, centre, shape, strict=True)) < 1
    batch = batch_of(6, shape)
    batch["image"] = torch.from_numpy(ball.astype(np.float32)).expand(6, 2, *shape).clone()
    batch["mask"] = torch.from_numpy(ball.astype(np.uint8)).expand(6, 1, *shape).clone()
    out = augment(batch, AugmentSpec(rotate=30, scale=0.2, translate=0.15, flip=(0, 1)), 1, 1)
    overlap = ((out["image"][:, :1] > 0.5) == (out["mask"] > 0)).flatten(1).float().mean(1)
    assert (overlap > 0.98).all()
    assert any(not torch.equal(out["mask"][i], batch["mask"][i]) for i in range(6))


def test_rotation_equals_scipy_in_the_plane():
    image = torch.from_numpy(ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(33, 33)), 2).astype(np.float32))[None, None]
    position = torch.tensor([9])
    rotated = augment({"image": image, "position": position}, AugmentSpec(rotate=40), 0, 0)["image"][0, 0].numpy()
    angle = float(uniform(position, 0, 0, 0, 1)[0, 0] * 2 - 1) * 40
    expected = ndimage.rotate(image[0, 0].numpy(), -angle, reshape=False, order=1, mode="nearest")
    assert np.abs(rotated - expected)[8:-8, 8:-8].max() < 1e-3


def test_rotation_of_thick_slices_keeps_lengths_in_millimetres():
    side = torch.arange(41) - 20.0
    line = (side[:, None].abs() < 1.5) & (side[None].abs() < 30)
    batch = {
        "image": line.float()[None, None].repeat(8, 1, 1, 1),
        "position": torch.arange(8),
        "spacing": torch.tensor([[4.0, 1.0]]).repeat(8, 1),
    }
    out = augment(batch, AugmentSpec(rotate=60), 0, 0)["image"]
    angles = (uniform(batch["position"], 0, 0, 0, 1)[:, 0] * 2 - 1) * 60
    for image, angle in zip(out[:, 0], angles.tolist(), strict=True):
        rows, columns = torch.nonzero(image > 0.5, as_tuple=True)
        slope = np.polyfit(columns.numpy() - 20.0, 4.0 * (rows.numpy() - 20.0), 1)[0]
        assert abs(np.degrees(np.arctan(slope))) == pytest.approx(abs(angle), abs=6)


@pytest.mark.parametrize("shape", [(20, 24), (10, 12, 14)])
def test_a_window_without_other_changes_is_a_plain_slice(shape):
    batch = batch_of(4, shape)
    window = tuple(side // 2 for side in shape)
    out = augment(batch, AugmentSpec(crop=window), 0, 0)
    assert out["image"].shape == (4, 2, *window) and out["mask"].shape == (4, 1, *window)
    for i in range(4):
        unfolded = batch["image"][i]
        for axis, length in enumerate(window):
            unfolded = unfolded.unfold(axis + 1, length, 1)
        windows = unfolded.reshape(2, -1, *window)
        assert (windows == out["image"][i][:, None]).flatten(2).all(2).all(0).sum() == 1


def test_a_window_of_a_moved_image_is_cut_from_the_moved_image():
    batch = batch_of(4, (20, 24))
    spec = {"rotate": 15, "scale": 0.1}
    whole = augment(batch, AugmentSpec(**spec), 0, 0)["image"]
    window = augment(batch, AugmentSpec(**spec, crop=(12, 24)), 0, 0)["image"]
    for i in range(4):
        distances = [(whole[i, :, top : top + 12] - window[i]).abs().max().item() for top in range(9)]
        assert min(distances) < 1e-4


@pytest.mark.parametrize("shape", [(40, 48), (16, 20, 24)])
def test_elastic_deformation_is_smooth_bounded_and_folds_nothing(shape):
    """Coordinates as images: what comes back says where each voxel was taken from."""
    grid = torch.stack(torch.meshgrid(*(torch.arange(side, dtype=torch.float32) for side in shape), indexing="ij"))
    batch = {"image": grid[None].repeat(20, *(1,) * (len(shape) + 1)), "position": torch.arange(20)}
    out = augment(batch, AugmentSpec(elastic=0.1), 0, 0)["image"]
    for axis, side in enumerate(shape):
        moved = (out - batch["image"])[:, axis].abs().flatten(1).amax(1)
        assert (moved <= 0.1 * side + 1e-3).all() and (moved > 0.02 * side).all()
        inner = tuple(slice(s // 8, -(s // 8)) for s in shape)  # the border continues, so that steps there are zero
        steps = out[:, axis][(slice(None), *inner)].diff(dim=axis + 1)
        assert (steps > 0).all(), "order along the axis is kept"
        assert steps.diff(dim=axis + 1).abs().max() < 0.35, "no kinks"


def test_control_points_of_one_shift_move_everything_by_it():
    from hepdist.augment.geometry import _cubic

    t = torch.linspace(0, 1, 11)
    torch.testing.assert_close(sum(_cubic(t)), torch.ones(11))
    torch.testing.assert_close(sum((tap - 1) * w for tap, w in enumerate(_cubic(t))), t)  # a straight line stays one


@pytest.mark.parametrize("shape", [(21, 30), (9, 17, 12)])
def test_blur_equals_scipys_gaussian(shape):
    batch = batch_of(4, shape)
    out = augment(batch, AugmentSpec(blur=2.0), 5, 1)["image"]
    sigma = uniform(batch["position"], 5, 1, BLUR, 1)[:, 0] * 2.0
    for image, blurred, width in zip(batch["image"], out, sigma.tolist(), strict=True):
        expected = [ndimage.gaussian_filter(channel.numpy(), width, mode="nearest", radius=6) for channel in image]
        np.testing.assert_allclose(blurred.numpy(), expected, atol=1e-5)
    still = blur(batch["image"], torch.zeros(4), 3)
    assert torch.equal(still, batch["image"])


@pytest.mark.parametrize("shape", [(40, 32), (12, 16, 20)])
def test_erasing_sets_one_box_to_the_mean_and_leaves_the_rest(shape):
    batch = batch_of(30, shape)
    out = augment(batch, AugmentSpec(erase=0.4), 0, 0)["image"]
    shares = []
    for before, after in zip(batch["image"], out, strict=True):
        changed = (before != after).all(0)
        assert torch.equal(after[:, ~changed], before[:, ~changed])
        where = torch.nonzero(changed)
        lengths = where.amax(0) - where.amin(0) + 1 if len(where) else torch.zeros(len(shape))
        assert len(where) == lengths.prod(), "a box"
        torch.testing.assert_close(after[:, changed], before.flatten(1).mean(1)[:, None].expand(-1, len(where)), atol=1e-5, rtol=0)
        shares.append(len(where) / changed.numel())
    assert max(shares) < 0.44 and max(shares) > 0.3 and min(shares) < 0.1
    assert torch.equal(augment(batch, AugmentSpec(erase=0.4), 0, 0)["mask"], batch["mask"])


def test_cutmix_sets_a_box_of_the_row_before_and_says_what_share_is_left():
    batch = batch_of(40, (20, 30))
    batch["label"][2], batch["weight"][4] = -1, 0.0
    out = augment(batch, AugmentSpec(cutmix=1.0), 0, 0)
    other = batch["image"].roll(1, 0)
    foreign = (out["image"] != batch["image"]).all(1)
    assert torch.equal(out["image"], torch.where(foreign[:, None], other, batch["image"]))
    torch.testing.assert_close(out["mixed_share"], 1 - foreign.flatten(1).float().mean(1))
    assert (out["mixed_share"] >= 0.48).all() and out["mixed_share"].min() < 0.6
    assert not foreign[[2, 3, 4, 5]].any(), "rows 2 and 4 neither mix nor are mixed into the next"
    assert torch.equal(out["mixed_label"], batch["label"].roll(1, 0))


def test_with_both_mixup_and_cutmix_a_coin_gives_each_sample_one():
    batch = batch_of(200, (10, 10))
    both, mixup, cutmix = (
        augment(batch, AugmentSpec(**alpha), 0, 0) for alpha in ({"mixup": 1.0, "cutmix": 1.0}, {"mixup": 1.0}, {"cutmix": 1.0})
    )
    kinds = [(both["image"] == kind["image"]).flatten(1).all(1) for kind in (mixup, cutmix)]
    assert (kinds[0] | kinds[1]).all() and 70 < kinds[0].sum() < 130
    assert torch.equal(both["mixed_share"], torch.where(kinds[0], mixup["mixed_share"], cutmix["mixed_share"]))


def test_mixup_mixes_each_labelled_row_with_the_one_before_it():
    batch = batch_of(6, (8, 8))
    batch["label"][2], batch["weight"][4] = -1, 0.0
    out = augment(batch, AugmentSpec(mixup=0.4), 0, 0)
    share = out["mixed_share"]
    assert (share >= 0.5).all() and (share <= 1).all()
    assert share[[2, 3, 4, 5]].tolist() == [1, 1, 1, 1], "rows 2 and 4 neither mix nor are mixed into the next"
    assert share[0] < 1 and share[1] < 1
    expected = share[:, None, None, None] * batch["image"] + (1 - share)[:, None, None, None] * batch["image"].roll(1, 0)
    torch.testing.assert_close(out["image"], expected)
    assert torch.equal(out["mixed_label"], batch["label"].roll(1, 0))


def test_mixup_shares_are_beta_distributed():
    batch = {
        "image": torch.zeros(4000, 1, 1),
        "position": torch.arange(4000),
        "label": torch.zeros(4000).long(),
        "weight": torch.ones(4000),
    }
    share = augment(batch, AugmentSpec(mixup=0.4), 0, 0)["mixed_share"].numpy()
    folded = stats.beta(0.4, 0.4)
    assert stats.kstest(share, lambda x: folded.cdf(x) - folded.cdf(1 - x)).pvalue > 0.001


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.float32])
def test_cohort_normalisation_subtracts_the_train_mean_and_divides_by_its_deviation(dtype):
    image = torch.tensor([[[[0.0, 100], [200, 30]], [[7, 7], [7, 9]]]]).to(dtype)
    out = normalise({"image": image}, "cohort", {"image": {"mean": [50.0, 7.0], "std": [25.0, 0.0]}})["image"]
    torch.testing.assert_close(out, torch.tensor([[[[-2, 2], [6, -0.8]], [[0, 0], [0, 2]]]]))


def test_without_normalisation_integers_are_scaled_to_one_and_floats_are_left():
    for dtype, largest in ((torch.uint8, 255), (torch.uint16, 65535), (torch.int16, 32767)):
        assert normalise({"image": torch.tensor([[[0, largest]]]).to(dtype)}, "none", {})["image"].tolist() == [[[0, 1]]]
    assert normalise({"image": torch.tensor([[[0.5, 1e6]]])}, "none", {})["image"].tolist() == [[[0.5, 1e6]]]


@pytest.mark.parametrize(("dtype", "largest"), [("uint8", 255), ("int16", 32767), ("uint16", 65535)])
def test_without_normalisation_stored_integers_are_divided_by_the_largest_of_their_stored_type(dtype, largest):
    batch = {"image": tensor_of(np.array([[[0, 1, 100, largest]]], dtype))}  # uint16 comes as int32
    out = normalise(batch, "none", {})["image"]
    torch.testing.assert_close(out, torch.tensor([[[0, 1 / largest, 100 / largest, 1]]]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_image_normalisation_ignores_padding_outliers_and_scale(scale):
    rng = np.random.default_rng(0)
    tissue = rng.normal(100, 10, (20, 20, 20)).astype(np.float32)
    tissue[0, 0, 0] = 1e5  # one bright voxel, as in the hippocampus set
    padded = np.pad(tissue, 6)
    small, large = (normalise({"image": torch.from_numpy(x * scale)[None, None]}, "image", {})["image"][0, 0] for x in (tissue, padded))
    inside = large[6:-6, 6:-6, 6:-6]
    assert abs(inside.mean()) < 0.02 and abs(inside.std() - 1) < 0.05
    assert (inside - small).abs().max() < 0.2
    assert large.abs().max() < 4


def test_image_normalisation_of_a_constant_image_is_zero():
    assert not normalise({"image": torch.full((1, 2, 5, 5), 7, dtype=torch.uint8)}, "image", {})["image"].any()


def test_emr_is_normalised_and_missing_is_zero():
    batch = {"emr": torch.tensor([[60.0, 2.0], [0.0, 1.0]]), "emr_missing": torch.tensor([[0, 0], [1, 0]], dtype=torch.uint8)}
    out = normalise(batch, "none", {"emr": {"mean": [50.0, 0.0], "std": [5.0, 1.0]}})
    assert out["emr"].tolist() == [[2, 2], [0, 1]]
