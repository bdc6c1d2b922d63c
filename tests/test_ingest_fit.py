"""How samples are brought to one shape: pure decisions, checked against exact counts and MONAI."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hepdist.ingest.classes import name_labels, name_mask_classes
from hepdist.ingest.fit import Layout, crop_or_pad, misfits, plan_layout, resample, rows_of
from hepdist.ingest.spec import IngestSpec
from hepdist.ingest.stage import Place, Staged


def staged(number: int, **facts) -> Staged:
    shape = facts.pop("shape", (8, 8))
    channels = facts.pop("channels", 1)
    dtype = facts.pop("dtype", "|u1")
    plain = Staged(
        sample_id=f"{number:016x}", patient=f"p{number:05d}", person=f"p{number:05d}", study="", series="", site="", called=(),
        image=Place("", 0, (channels, *shape), dtype), mask=None, content=f"c{number}", likeness="", mask_values=(), label=None, labels=None, split="",
        spacing=None, affine=None, unit="raw", files=(),
    )  # fmt: skip
    return replace(plain, **facts)


def test_volumes_of_near_sizes_are_held_whole_in_multiples_of_8_and_one_outlier_is_not():
    rng = np.random.default_rng(0)
    shapes = [tuple(int(n) for n in rng.integers((31, 40, 24), (44, 60, 48))) for _ in range(300)]
    layout = plan_layout([staged(i, shape=s) for i, s in enumerate(shapes)], IngestSpec())
    assert layout.size == tuple(-(-int(n) // 8) * 8 for n in np.max(shapes, axis=0)) == (48, 64, 48)
    with_outlier = plan_layout([staged(i, shape=s) for i, s in enumerate([*shapes, (512, 512, 94)])], IngestSpec())
    assert with_outlier.size == (48, 64, 48)


def test_images_of_one_size_keep_it_and_the_narrowest_type_that_holds_all_is_taken():
    assert plan_layout([staged(i, shape=(28, 28)) for i in range(3)], IngestSpec()).size == (28, 28)
    for dtypes, expected in (
        (["|u1", "|u1"], "uint8"),
        (["|u1", "<i2"], "int16"),
        (["<i2", "<u2"], "float32"),
        (["|u1", "<f4"], "float32"),
    ):
        assert plan_layout([staged(i, dtype=d) for i, d in enumerate(dtypes)], IngestSpec()).dtype == expected


def test_the_odd_one_out_is_the_image_with_other_axes_or_channels():
    samples = [staged(0), staged(1), staged(2, channels=3), staged(3, shape=(8, 8, 8))]
    assert [int(s.sample_id, 16) for s in misfits(samples)] == [2, 3]


@pytest.mark.parametrize("shape", [(5, 9, 8), (9, 5, 8), (8, 8, 8), (13, 3, 7)])
def test_crop_and_padding_put_every_voxel_at_its_offset(shape):
    volume = np.arange(1, 1 + np.prod(shape), dtype=np.int16).reshape(1, *shape)
    size = (8, 8, 8)
    offset = tuple((have - want) // 2 for have, want in zip(shape, size, strict=True))
    window = crop_or_pad(volume, offset, size, -1)
    for index in np.ndindex(size):
        source = tuple(i + o for i, o in zip(index, offset, strict=True))
        inside = all(0 <= s < n for s, n in zip(source, shape, strict=True))
        assert window[(0, *index)] == (volume[(0, *source)] if inside else -1)


def test_resampled_volumes_equal_monais_spacing_and_keep_their_place_in_the_patient():
    import torch
    from monai.data import MetaTensor
    from monai.transforms import Spacing

    rng = np.random.default_rng(0)
    image = rng.normal(size=(1, 10, 12, 14)).astype(np.float32)
    mask = (rng.random((1, 10, 12, 14)) > 0.5).astype(np.uint8)
    affine = np.diag([5.0, 2.0, 2.0, 1.0])
    sample = staged(0, shape=(10, 12, 14), spacing=(5.0, 2.0, 2.0), affine=affine)
    layout = Layout(1, (25, 24, 28), (2.0, 1.0, 1.0), "float32", "raw", False)
    [fitted] = rows_of(resample(image, mask, sample, layout), layout)
    assert fitted.original_shape == (25, 24, 28)
    assert fitted.spacing == (2.0, 1.0, 1.0)
    place = MetaTensor(torch.from_numpy(image), affine=torch.from_numpy(affine))
    reference = Spacing((2.0, 1.0, 1.0), padding_mode="border", align_corners=False, scale_extent=True)(place)
    np.testing.assert_allclose(fitted.image, reference.numpy(), atol=1e-5)
    np.testing.assert_allclose(fitted.affine, reference.affine.numpy(), atol=1e-9)
    assert fitted.mask.sum() * 2.0 == pytest.approx(mask.sum() * 20.0, rel=0.05)  # mm3 of a voxel


def test_a_rare_class_stays_and_a_stray_value_does_not():
    samples = [
        staged(i, mask=Place("", 0, (1, 8, 8), "|u1"), mask_values=(0, 1, *((2,) if i < 6 else ()), *((9,) if i == 50 else ())))
        for i in range(100)
    ]
    names, values, bad = name_mask_classes(samples, ())
    assert names == ("background", "label_1", "label_2")
    assert values == (0, 1, 2)
    assert [(int(s.sample_id, 16), check) for s, check, _ in bad] == [(50, "label-unknown")]


def test_label_names_follow_natural_order_and_numbers_can_be_indices():
    samples = [staged(i, label=v) for i, v in enumerate(["10", "9", " 9 ", "todo", None])]
    assert name_labels(samples, (), ("todo",)) == (("9", "10"), [])
    assert [s.label for s in samples] == [1, 0, 0, None, None]
    samples = [staged(i, label=v) for i, v in enumerate(["1", "ill", "2"])]
    _, bad = name_labels(samples, ("well", "ill"), ())
    assert [s.label for s in samples] == [1, 1, None]
    assert [int(s.sample_id, 16) for s, _, _ in bad] == [2]
