"""Losses and scores equal those of torch, MONAI and scikit-learn, and rows without a label neither train nor count."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from hepdist.augment import augment
from hepdist.errors import RecipeError
from hepdist.recipe import Recipe
from hepdist.sections import AugmentSpec
from hepdist.shards.manifest import Manifest
from hepdist.tasks import Task, build
from hepdist.tasks.segmentation import boundary_loss, soft_dice_loss
from hepdist.tasks.surface import signed_distance, surface_agreement, surface_distance_95
from hepdist.training.batching import every_row_counts


class Fixed(nn.Module):
    """A model whose logits are given."""

    inputs = ("image",)

    def __init__(self, *logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        return self.logits[0] if len(self.logits) == 1 else list(self.logits)


class Identity(nn.Module):
    """The image's channels are the logits."""

    inputs = ("image",)

    def forward(self, image: Tensor) -> Tensor:
        return image


class Mean(Identity):
    def forward(self, image: Tensor) -> Tensor:
        ramp = torch.linspace(0, 1, image.shape[-1])
        return (image * ramp).flatten(2).mean(2)


def classification(
    names: tuple[str, ...] = ("no", "yes"), rows: tuple[int, ...] = (30, 10), multilabel: bool = False, flip=(), **task
) -> Task:
    recipe = Recipe(
        name="t", data={"cohort": "c"}, task={"kind": "classification", **task}, model={"family": "resnet"}, augment={"test_flip": flip}
    )
    counts = {"train": {"rows": 40, "classes": dict(zip(names, rows, strict=True))}}
    return build(recipe, Manifest("c", "phantom", {}, (), label_names=names, multilabel=multilabel, counts=counts))


def segmentation(classes: tuple[str, ...] = ("background", "a", "b"), flip=(), shift=0, window=(), tolerance_mm=1.0, **task) -> Task:
    recipe = Recipe(
        name="t",
        data={"cohort": "c"},
        task={"kind": "segmentation", **task},
        model={"family": "unet"},
        augment={"test_flip": flip, "test_shift": shift},
        evaluation={"window": window, "batch": 3, "tolerance_mm": tolerance_mm},
    )
    mask = {"dtype": "uint8", "shape": [1, 8, 8, 8], "classes": list(classes)}
    return build(recipe, Manifest("c", "phantom", {"mask": mask}, ()))


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(4))


def blobs(rows: int, classes: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """uint8[rows, 1, *shape]: smooth regions of each class index."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    fields = [[gaussian_filter(rng.normal(size=shape), 2) for _ in range(classes)] for _ in range(rows)]
    return torch.from_numpy(np.argmax(fields, axis=1).astype(np.uint8))[:, None]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_classification_loss_averages_to_torchs_cross_entropy(smoothing):
    logits, label = noise(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    task = classification(("a", "b", "c"), (20, 10, 10), label_smoothing=smoothing)
    losses = task.loss(Fixed(logits), {"image": logits, "label": label})
    assert losses.shape == (6,)
    torch.testing.assert_close(losses.mean(), cross_entropy(logits, label, label_smoothing=smoothing))


def test_balanced_weights_make_classes_count_alike_and_the_train_mean_one():
    logits, label = noise(40, 2), (torch.arange(40) >= 30).long()
    losses = classification(class_weights="balanced").loss(Fixed(logits), {"image": logits, "label": label})
    weights = torch.tensor([40 / 60, 40 / 20])
    torch.testing.assert_close(losses.mean(), cross_entropy(logits, label, weight=weights))
    assert weights[label].mean() == 1


@pytest.mark.parametrize(
    ("columns", "multilabel", "labelled", "every"),
    [
        (("image", "mask"), False, 0, True),
        (("image", "label"), False, 10, True),
        (("image", "label"), False, 9, False),
        (("image", "label"), True, 3, True),
        (("emr", "label", "followup"), False, 10, False),
    ],
)
def test_the_manifest_tells_whether_every_train_row_counts(columns, multilabel, labelled, every):
    counts = {"train": {"rows": 10, "patients": 10, "classes": {"well": labelled, "ill": 0}}}
    manifest = Manifest("c", "images", {}, (), label_names=("well", "ill"), multilabel=multilabel, counts=counts)
    assert every_row_counts(columns, manifest) is every


def test_unlabelled_rows_have_no_loss_and_no_score():
    logits, label = noise(4, 2), torch.tensor([0, -1, 1, -1])
    task = classification(label_smoothing=0.1, class_weights="balanced")
    losses = task.loss(Fixed(logits), {"image": logits, "label": label})
    assert (losses[[1, 3]] == 0).all() and (losses[[0, 2]] > 0).all()
    probability = logits.softmax(1).numpy()
    rows = {"probability": probability, "label": label.numpy()}
    assert task.score(rows) == task.score({name: values[[0, 2]] for name, values in rows.items()})


def test_mixup_mixes_the_losses_of_both_labels():
    batch = {"image": noise(4, 2, 3), "position": torch.arange(4), "label": torch.tensor([0, 1, 1, 0]), "weight": torch.ones(4)}
    mixed = augment(batch, AugmentSpec(mixup=1.0), 0, 0)
    logits = noise(4, 2)
    own, partner = (cross_entropy(logits, label, reduction="none") for label in (batch["label"], batch["label"].roll(1)))
    share = mixed["mixed_share"]
    torch.testing.assert_close(classification().loss(Fixed(logits), mixed), share * own + (1 - share) * partner)


def test_multi_label_loss_is_torchs_binary_cross_entropy():
    logits, label = noise(5, 3), (noise(5, 3) > 0).to(torch.uint8)
    task = classification(("a", "b", "c"), (20, 10, 10), multilabel=True)
    losses = task.loss(Fixed(logits), {"image": logits, "label": label})
    torch.testing.assert_close(losses.mean(), nn.functional.binary_cross_entropy_with_logits(logits, label.float()))


def test_focal_loss_is_cross_entropy_times_how_far_off_each_sample_is():
    logits, label = noise(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    losses = classification(("a", "b", "c"), (20, 10, 10), focal=2.0).loss(Fixed(logits), {"image": logits, "label": label})
    entropy = cross_entropy(logits, label, reduction="none")
    torch.testing.assert_close(losses, (1 - torch.exp(-entropy)) ** 2 * entropy)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_of_a_certain_sample_has_a_finite_slope(gamma):
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]]).requires_grad_()
    losses = classification(focal=gamma).loss(Fixed(logits), {"image": logits, "label": torch.tensor([0, 0])})
    losses.sum().backward()
    assert losses[0] == 0 and float(losses[1]) == pytest.approx(400) and logits.grad.isfinite().all()


def test_focal_loss_of_findings_equals_monais():
    from monai.losses import FocalLoss

    logits, label = noise(5, 3), (noise(5, 3) > 0.3).to(torch.uint8)
    task = classification(("a", "b", "c"), (20, 10, 10), multilabel=True, focal=1.5)
    losses = task.loss(Fixed(logits), {"image": logits, "label": label})
    expected = FocalLoss(gamma=1.5, reduction="none")(logits, label.float())
    torch.testing.assert_close(losses, expected.mean(1))


def test_auxiliary_heads_add_three_tenths_of_their_loss_each():
    main, deep, early, label = noise(4, 3), noise(4, 3) * 2, noise(4, 3) + 1, torch.tensor([0, 1, 2, 0])
    task = classification(("a", "b", "c"), (20, 10, 10))
    losses = task.loss(Fixed(main, deep, early), {"image": main, "label": label})
    parts = [cross_entropy(logits, label, reduction="none") for logits in (main, deep, early)]
    torch.testing.assert_close(losses, parts[0] + 0.3 * (parts[1] + parts[2]))


@pytest.mark.parametrize("ordinal", [False, True])
def test_members_of_an_ensemble_learn_alone_and_answer_by_their_mean(ordinal):
    members, label = noise(4, 3, 3), torch.tensor([0, 1, 2, 0])
    task = classification(("a", "b", "c"), (20, 10, 10), ordinal=ordinal)
    alone = [Fixed(member) for member in members.unbind(1)]
    batch = {"image": members, "label": label}
    torch.testing.assert_close(task.loss(Fixed(members), batch), torch.stack([task.loss(member, batch) for member in alone]).mean(0))
    together = task.predict(Fixed(members), batch)["probability"]
    np.testing.assert_allclose(together, np.mean([task.predict(member, batch)["probability"] for member in alone], axis=0), rtol=1e-5)


def test_ordinal_probabilities_are_the_chain_of_binary_decisions():
    logits = noise(50, 4).double() * 5
    probability = classification(tuple("abcd"), (10,) * 4, ordinal=True).predict(Fixed(logits), {"image": logits})["probability"]
    reached = torch.cat((torch.ones(50, 1), torch.sigmoid(logits[:, 1:] - logits[:, :-1]).cumprod(1), torch.zeros(50, 1)), 1)
    np.testing.assert_allclose(probability, (reached[:, :-1] - reached[:, 1:]).numpy(), atol=1e-6)
    np.testing.assert_allclose(probability.sum(1), 1, rtol=1e-6)
    at_least = probability[:, ::-1].cumsum(1)[:, ::-1]
    assert (np.diff(at_least, axis=1) <= 0).all(), "rank-consistent: no grade is likelier reached than the one below"


def test_ordinal_loss_is_that_of_the_decisions_on_the_way_to_the_label():
    logits, label = noise(8, 4), torch.tensor([0, 1, 2, 3, 3, 2, 1, 0])
    losses = classification(tuple("abcd"), (10,) * 4, ordinal=True).loss(Fixed(logits), {"image": logits, "label": label})
    steps = logits[:, 1:] - logits[:, :-1]
    for row, k in enumerate(label.tolist()):
        decisions = torch.tensor([1.0] * k + [0.0] * (k < 3))
        expected = nn.functional.binary_cross_entropy_with_logits(steps[row, : len(decisions)], decisions, reduction="sum")
        assert losses[row].item() == pytest.approx(expected.item(), rel=1e-5)


def test_two_ordered_classes_are_plain_cross_entropy_and_far_logits_stay_finite():
    logits, label = noise(6, 2), torch.tensor([0, 1, 1, 0, 0, 1])
    losses = classification(ordinal=True).loss(Fixed(logits), {"image": logits, "label": label})
    torch.testing.assert_close(losses, cross_entropy(logits, label, reduction="none"))
    far = (torch.tensor([[0.0, 1e4, -1e4]]).repeat(3, 1)).requires_grad_()
    losses = classification(("a", "b", "c"), (10,) * 3, ordinal=True).loss(Fixed(far), {"image": far, "label": torch.arange(3)})
    losses.sum().backward()
    assert losses.isfinite().all() and far.grad.isfinite().all()


def test_ordinal_scores_equal_scikit_learns():
    from sklearn.metrics import cohen_kappa_score, mean_absolute_error

    rng = np.random.default_rng(0)
    label, probability = rng.integers(4, size=100), rng.dirichlet(np.ones(4), 100)
    task = classification(tuple("abcd"), (10,) * 4, ordinal=True, select="mae")
    scores = task.score({"probability": probability, "label": label})
    assert scores["quadratic_kappa"] == pytest.approx(cohen_kappa_score(label, probability.argmax(1), weights="quadratic"), abs=1e-12)
    assert scores["mae"] == pytest.approx(mean_absolute_error(label, probability.argmax(1)))
    assert task.higher_is_better is False and "mae" not in classification().score({"probability": probability[:, :2], "label": label % 2})


def test_findings_that_may_occur_together_have_no_order():
    with pytest.raises(RecipeError, match=r"^recipe key 'task.ordinal' is true, but the cohort's findings may occur together"):
        classification(multilabel=True, ordinal=True)
    for key in ({"ordinal": True}, {"focal": 2.0}):
        with pytest.raises(RecipeError, match=rf"^recipe key 'task.{next(iter(key))}' is for classification; leave it out$"):
            segmentation(**key)


@pytest.mark.parametrize("classes", [2, 4])
def test_classification_scores_equal_scikit_learn(classes):
    from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

    rng = np.random.default_rng(0)
    label = rng.integers(classes, size=200)
    probability = rng.dirichlet(np.ones(classes), 200) * 0.7 + 0.3 * np.eye(classes)[label] * rng.random((200, 1))
    probability /= probability.sum(1, keepdims=True)
    scores = classification(tuple("abcd"[:classes]), (10,) * classes).score({"probability": probability, "label": label})
    expected = roc_auc_score(label, probability[:, 1] if classes == 2 else probability, multi_class="ovr")
    assert scores["auroc"] == pytest.approx(expected, abs=1e-12)
    assert scores["accuracy"] == accuracy_score(label, probability.argmax(1))
    assert scores["loss"] == pytest.approx(log_loss(label, probability), abs=1e-9)


def test_auroc_of_one_class_is_nan():
    scores = classification().score({"probability": np.array([[0.2, 0.8], [0.6, 0.4]]), "label": np.array([1, 1])})
    assert np.isnan(scores["auroc"]) and scores["accuracy"] == 0.5


def test_flips_at_test_are_averaged_probabilities():
    image = noise(3, 2, 6, 6)
    probability = classification(flip=(1,)).predict(Mean(), {"image": image})["probability"]
    expected = (Mean()(image).softmax(1) + Mean()(image.flip(3)).softmax(1)) / 2
    assert probability.dtype == np.float32
    np.testing.assert_allclose(probability, expected.numpy(), rtol=1e-6)


@pytest.mark.parametrize("shape", [(9, 10), (6, 7, 8)])
def test_segmentation_loss_equals_monais_dice_and_torchs_cross_entropy(shape):
    from monai.losses import DiceLoss

    logits, mask = noise(3, 3, *shape), blobs(3, 3, shape)
    losses = segmentation(dice_weight=0.3).loss(Fixed(logits), {"image": logits, "mask": mask})
    dice = DiceLoss(include_background=False, to_onehot_y=True, softmax=True)(logits, mask)
    expected = 0.3 * dice + 0.7 * cross_entropy(logits, mask[:, 0].long())
    torch.testing.assert_close(losses.mean(), expected)


def test_sigmoid_loss_equals_monais():
    from monai.losses import DiceLoss

    logits, mask = noise(3, 3, 9, 10), blobs(3, 3, (9, 10))
    losses = segmentation(activation="sigmoid", dice_weight=0.5).loss(Fixed(logits), {"image": logits, "mask": mask})
    hot = torch.stack([mask[:, 0] == k for k in range(3)], 1).float()
    dice = DiceLoss(include_background=False, sigmoid=True)(logits, hot)
    torch.testing.assert_close(losses.mean(), 0.5 * dice + 0.5 * nn.functional.binary_cross_entropy_with_logits(logits, hot))


def test_each_sample_has_the_loss_it_has_alone():
    logits, mask = noise(3, 3, 9, 10), blobs(3, 3, (9, 10))
    task = segmentation()
    together = task.loss(Fixed(logits), {"image": logits, "mask": mask})
    alone = [task.loss(Fixed(logits[i : i + 1]), {"image": logits[i : i + 1], "mask": mask[i : i + 1]}) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_deep_supervision_halves_the_weight_of_each_coarser_level():
    fine, coarse, mask = noise(2, 3, 8, 8), noise(2, 3, 4, 4), blobs(2, 3, (8, 8))
    task = segmentation()
    parts = [task.loss(Fixed(o), {"image": o, "mask": m}) for o, m in ((fine, mask), (coarse, mask[:, :, 1::2, 1::2]))]
    both = task.loss(Fixed(fine, coarse), {"image": fine, "mask": mask})
    torch.testing.assert_close(both, (parts[0] + 0.5 * parts[1]) / 1.5)


@pytest.mark.parametrize("shape", [(17, 20), (9, 12, 10)])
def test_boundary_loss_equals_monais(shape):
    from monai.losses import BoundaryLoss

    logits, mask = noise(3, 3, *shape), blobs(3, 3, shape)
    mask[0][mask[0] == 2] = 0  # a class that is not there
    hot = torch.stack([mask[:, 0] == k for k in range(3)], 1).float()
    expected = BoundaryLoss(include_background=False, softmax=True, reduction="none")(logits, hot).mean(1)
    torch.testing.assert_close(boundary_loss(logits.softmax(1), hot, None), expected)
    torch.testing.assert_close(boundary_loss(logits.softmax(1), hot, torch.full((3, len(shape)), 0.7)), expected)


def test_boundary_loss_is_added_by_its_weight_to_the_finest_output_alone():
    fine, coarse, mask = noise(2, 3, 8, 8), noise(2, 3, 4, 4), blobs(2, 3, (8, 8))
    batch = {"image": fine, "mask": mask}
    with_boundary, without = (segmentation(boundary_weight=w).loss(Fixed(fine, coarse), batch) for w in (0.3, 0.0))
    hot = torch.stack([mask[:, 0] == k for k in range(3)], 1).float()
    torch.testing.assert_close(with_boundary, without + 0.3 * boundary_loss(fine.softmax(1), hot, None))


def test_signed_distances_of_a_slab_of_thick_slices_are_in_the_finest_side():
    slab = np.zeros((9, 4, 4), bool)
    slab[3:6] = True
    found = signed_distance(slab, (5.0, 0.5, 1.0))[:, 0, 0]
    assert found.tolist() == [30.0, 20.0, 10.0, -9.0, -19.0, -9.0, 10.0, 20.0, 30.0]
    assert not signed_distance(np.ones((3, 3), bool), (1, 1)).any() and not signed_distance(np.zeros((3, 3), bool), (1, 1)).any()


def test_a_perfect_prediction_has_no_dice_loss():
    truth = nn.functional.one_hot(blobs(2, 3, (8, 8))[:, 0].long(), 3).movedim(-1, 1).float()
    torch.testing.assert_close(soft_dice_loss(truth, truth), torch.zeros(2))


def test_dice_of_cases_equals_monai_and_an_absent_class_is_nan():
    from monai.metrics import compute_dice

    truth, found = blobs(4, 3, (10, 11, 12)), blobs(4, 3, (10, 11, 12), seed=1)
    truth[0][truth[0] == 2] = 0
    found[0][found[0] == 2] = 0
    hot = [torch.stack([m[:, 0] == k for k in range(3)], 1).float() for m in (found, truth)]
    rows = segmentation().predict(Identity(), {"image": hot[0] * 9, "mask": truth})
    expected = compute_dice(hot[0], hot[1], include_background=False)
    assert rows["dice"].dtype == np.float32
    np.testing.assert_allclose(rows["dice"], expected.numpy(), rtol=1e-6)
    assert np.isnan(rows["dice"][0, 1])


def test_volumes_are_in_millilitres():
    image = torch.zeros(1, 3, 10, 10, 10)
    image[:, 0], image[:, 1, :5] = 1.0, 2.0
    mask = torch.zeros(1, 1, 10, 10, 10, dtype=torch.uint8)
    mask[0, 0, :, :2] = 2
    rows = segmentation().predict(Identity(), {"image": image, "mask": mask, "spacing": torch.tensor([[5.0, 1.0, 0.5]])}, extras=("mask",))
    assert rows["volume_ml"].tolist() == [[1.25, 0.0]] and rows["true_volume_ml"].tolist() == [[0.0, 0.5]]
    assert rows["mask"].dtype == np.uint8 and rows["mask"].sum() == 500


def test_flips_at_test_are_flipped_back():
    truth = blobs(2, 3, (8, 10))
    image = nn.functional.one_hot(truth[:, 0].long(), 3).movedim(-1, 1).float() * 9
    rows = segmentation(flip=(0, 1)).predict(Identity(), {"image": image, "mask": truth}, extras=("mask", "loss"))
    assert (rows["dice"] == 1).all() and (rows["mask"] == truth[:, 0].numpy()).all() and rows["loss"].shape == (2,)


class Watched(Identity):
    """Identity that notes what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def forward(self, image: Tensor) -> Tensor:
        self.seen.append(tuple(image.shape))
        return image


def test_images_moved_at_test_are_moved_back_and_count_as_much():
    truth = blobs(2, 3, (8, 10))
    batch = {"image": one_hot_image(truth) * 9, "mask": truth}
    model = Watched()
    rows = segmentation(flip=(1,), shift=2).predict(model, batch, extras=("mask",))
    assert model.seen == [(2, 3, 8, 10)] * 2 + [(2, 3, 10, 12)] * 2
    assert (rows["dice"] == 1).all() and (rows["mask"] == truth[:, 0].numpy()).all()
    task, moved = segmentation(shift=1), nn.functional.pad(batch["image"], (1, 0, 1, 0), mode="replicate")
    both = task.probability(Columns(), batch)
    parts = Columns()(batch["image"]).softmax(1), Columns()(moved).softmax(1)[:, :, 1:, 1:]
    torch.testing.assert_close(both, sum(parts) / 2)
    assert not torch.equal(*parts)


class Columns(Identity):
    """Leaves every other column blank: what it says depends on the grid."""

    def forward(self, image: Tensor) -> Tensor:
        return image * (torch.arange(image.shape[-1]) % 2)


def test_a_larger_image_is_predicted_by_overlapping_windows_that_cover_it():
    truth = blobs(2, 3, (12, 20, 7))
    batch = {"image": one_hot_image(truth) * 9, "mask": truth}
    model = Watched()
    task = segmentation(window=(8, 8, 8))
    rows = task.predict(model, batch, extras=("mask",))
    assert {shape[2:] for shape in model.seen} == {(8, 8, 7)}, "an axis shorter than the window is whole"
    assert max(shape[0] for shape in model.seen) == 3, "as many at once as evaluation.batch"
    assert sum(shape[0] for shape in model.seen) == 2 * 2 * 4, "starts 0, 4 on the first axis and 0, 4, 8, 12 on the second"
    assert (rows["mask"] == truth[:, 0].numpy()).all() and (rows["dice"] == 1).all()
    whole = segmentation().predict(Identity(), batch, extras=("loss",))
    np.testing.assert_allclose(task.predict(model, batch, extras=("loss",))["loss"], whole["loss"], rtol=1e-5)


def test_windows_count_more_at_their_centre():
    class Ramp(Identity):
        def forward(self, image: Tensor) -> Tensor:
            return torch.arange(image.shape[-1]).float().expand(len(image), 3, *image.shape[2:]).clone()

    image = torch.zeros(1, 1, 8, 12)
    logits = segmentation(window=(8, 8))._logits(Ramp(), {"image": image})[0, 0, 4]
    assert logits[:4].tolist() == pytest.approx([0, 1, 2, 3]) and logits[8:].tolist() == pytest.approx([4, 5, 6, 7])
    assert 4 < logits[5] < 5, "5 in the first window, near its centre, and 1 in the second"


def test_an_image_no_larger_than_the_window_is_predicted_at_once():
    model = Watched()
    segmentation(window=(8, 8)).predict(model, {"image": noise(5, 3, 8, 6)})
    assert model.seen == [(5, 3, 8, 6)]


def test_a_batch_without_masks_gives_predictions_only():
    rows = segmentation().predict(Identity(), {"image": noise(2, 3, 5, 6)}, extras=("mask", "hd95"))
    assert rows.keys() == {"volume_ml", "mask"} and rows["mask"].shape == (2, 5, 6)


def test_segmentation_score_averages_cases_then_classes_and_leaves_out_what_is_undefined():
    nan, inf = float("nan"), float("inf")
    scores = segmentation().score(
        {"dice": np.array([[0.5, nan], [0.7, 1.0], [0.9, 0.0]]), "hd95": np.array([[1.0, 0.0], [2.0, 4.0], [3.0, inf]])}
    )
    assert scores == pytest.approx({"dice": 0.6, "dice_a": 0.7, "dice_b": 0.5, "hd95": 2.0})


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 0.7, 0.7)])
def test_hd95_equals_monai(spacing):
    from monai.metrics import compute_hausdorff_distance

    for seed in range(4):
        truth, found = blobs(1, 3, (12, 20, 18), seed=seed), blobs(1, 3, (12, 20, 18), seed=seed + 10)
        pair = [(m == 1).float() for m in (found, truth)]
        expected = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=spacing).item()
        rows = segmentation().predict(
            Identity(), {"image": one_hot_image(found), "mask": truth, "spacing": torch.tensor([spacing])}, extras=("hd95",)
        )
        assert rows["hd95"][0, 0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("spacing", "tolerance"), [((1.0, 1.0, 1.0), 1.0), ((5.0, 0.7, 0.7), 0.7), ((1.1, 0.9, 1.3), 2.2)])
def test_surface_dice_equals_monai(spacing, tolerance):
    from monai.metrics import compute_surface_dice

    for seed in range(4):
        truth, found = blobs(1, 3, (12, 20, 18), seed=seed), blobs(1, 3, (12, 20, 18), seed=seed + 10)
        pair = [(m == 1).float() for m in (found, truth)]
        expected = compute_surface_dice(*pair, [tolerance], include_background=True, spacing=spacing).item()
        batch = {"image": one_hot_image(found), "mask": truth, "spacing": torch.tensor([spacing])}
        rows = segmentation(tolerance_mm=tolerance).predict(Identity(), batch, extras=("nsd",))
        assert rows.keys() == {"volume_ml", "true_volume_ml", "dice", "nsd"}
        assert rows["nsd"][0, 0] == pytest.approx(expected, rel=1e-6)
        assert 0 < expected < 1


def test_surface_dice_of_nothing_and_of_one_side_only():
    nothing, something = np.zeros((4, 4), bool), np.eye(4, dtype=bool)
    assert np.isnan(surface_agreement(nothing, nothing, (1, 1), 1.0)[1])
    assert surface_agreement(nothing, something, (1, 1), 1.0)[1] == 0
    slab = np.zeros((20, 8, 8), bool)
    slab[5:10] = True
    moved = np.roll(slab, 1, axis=0)
    assert surface_agreement(slab, moved, (2.5, 1, 1), 2.5)[1] == 1, "as far as the tolerance is within it"
    assert 0 < surface_agreement(slab, moved, (2.5, 1, 1), 2.4)[1] < 1


def one_hot_image(mask: Tensor) -> Tensor:
    return torch.stack([mask[:, 0] == k for k in range(3)], 1).float()


def test_hd95_of_nothing_and_of_one_side_only():
    nothing, something = np.zeros((4, 4), bool), np.eye(4, dtype=bool)
    assert surface_distance_95(nothing, nothing, (1, 1)) == 0.0
    assert surface_distance_95(nothing, something, (1, 1)) == float("inf")


def test_hd95_of_a_shifted_slab_is_the_shift_in_millimetres():
    slab = np.zeros((20, 8, 8), bool)
    slab[5:10] = True
    assert surface_distance_95(slab, np.roll(slab, 2, axis=0), (2.5, 1, 1)) == 5.0


def test_the_metric_that_selects_must_be_one_that_validation_has():
    assert classification(select="loss").higher_is_better is False and classification().higher_is_better is True
    task = segmentation(select="loss")
    rows = task.predict(Identity(), {"image": noise(2, 3, 5, 6), "mask": blobs(2, 3, (5, 6))})
    assert task.score(rows)[task.select] == pytest.approx(rows["loss"].mean())
    with pytest.raises(RecipeError, match=r"^recipe key 'task.select' is 'auc': choose one of auroc, accuracy, loss$"):
        classification(select="auc")
    with pytest.raises(RecipeError, match=r"^recipe key 'task.select' is 'hd95': choose one of dice, dice_a, dice_b, loss$"):
        segmentation(select="hd95")


def test_a_task_without_its_column_is_refused_in_one_sentence():
    with pytest.raises(RecipeError, match=r"^recipe key 'task.kind' is 'classification', but the cohort has no labels"):
        classification((), ())
    recipe = Recipe(name="t", data={"cohort": "c"}, task={"kind": "segmentation"}, model={"family": "unet"})
    with pytest.raises(RecipeError, match=r"^recipe key 'task.kind' is 'segmentation', but the cohort has no masks; ingest it with masks$"):
        build(recipe, Manifest("c", "phantom", {}, ()))
    with pytest.raises(RecipeError, match=r"^recipe key 'task.class_weights' is for classification"):
        segmentation(class_weights="balanced")
