"""The way back from a model's grid: turned volumes, labels and intensities on the grid that an image came on."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from hepdist.inference.case import Case, lying_axially
from hepdist.inference.grid import SLAB_VOXELS, labels_on, values_on
from hepdist.ingest.sample import Sample

RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""LPS to RAS and back."""


def volume(shape, affine):
    image = np.random.default_rng(0).integers(0, 1000, (1, *shape), dtype=np.int16)
    spacing = tuple(np.linalg.norm(affine[:3, :3], axis=0))
    return Case(Sample(key="k", patient="p", image=image, spacing=spacing, affine=affine))


@pytest.mark.parametrize("codes", ["SPL", "LPS", "RAS", "PSR", "IAR", "ARS"])
def test_a_volume_is_turned_as_nibabel_turns_it_and_back_to_the_voxel(codes):
    sides = (2.0, 1.5, 0.5)  # mm along the source's axes
    turn = nib.orientations.axcodes2ornt(codes)
    affine = np.eye(4)
    for axis, (world, sign) in enumerate(turn):
        affine[:3, axis] = 0
        affine[int(world), axis] = sign * sides[axis]
    affine[:3, 3] = (5, -7, 11)
    case = volume((4, 6, 8), RAS @ affine)

    upright = lying_axially(case)

    wanted = nib.Nifti1Image(case.sample.image[0], affine).as_reoriented(
        nib.orientations.ornt_transform(turn, nib.orientations.axcodes2ornt("SPL"))
    )
    np.testing.assert_array_equal(upright.sample.image[0], np.asarray(wanted.dataobj))
    np.testing.assert_allclose(RAS @ upright.sample.affine, wanted.affine)
    assert upright.spacing == tuple(np.linalg.norm(wanted.affine[:3, :3], axis=0))
    np.testing.assert_array_equal(upright.source_array(upright.sample.image[0]), case.sample.image[0])
    assert (upright.turned is None) == (codes == "SPL")


def test_an_oblique_volume_keeps_every_voxel_at_its_place():
    angle = np.radians(20)
    tilt = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = np.eye(4)
    affine[:3, :3] = tilt @ np.array([[0, 0, 1.0], [0, 1, 0], [-3, 0, 0]])  # D to the feet
    case = volume((3, 4, 5), affine)
    upright = lying_axially(case)
    index = np.array([0, 1, 4, 1])
    place = upright.sample.affine @ index
    source = np.round(np.linalg.inv(affine) @ place).astype(int)
    assert upright.sample.image[0, 0, 1, 4] == case.sample.image[0, source[0], source[1], source[2]]
    assert upright.turned is not None


def test_labels_on_the_same_grid_are_the_same_array():
    found = np.random.default_rng(0).integers(0, 3, (5, 6, 7)).astype(np.uint8)
    assert labels_on(found, (5, 6, 7), np.ones(3)) is found


def test_labels_come_back_with_their_volume_and_shape():
    """A ball of 30 mm that a model saw on 2 mm voxels, on 1 mm voxels: its volume within 1 %, and nearer to the true ball than nearest voxels."""

    def ball(side, mm):
        grid = (np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij")) + 0.5) * mm - 24
        return (np.sqrt((grid**2).sum(0)) < 15).astype(np.uint8)

    def dice(found):
        return 2 * (found & true).sum() / (found.sum() + true.sum())

    true, seen = ball(48, 1.0), ball(24, 2.0)
    back = labels_on(seen, true.shape, np.array([2.0, 2.0, 2.0]))
    assert back.dtype == np.uint8
    assert back.sum() == pytest.approx(8 * seen.sum(), rel=0.01)
    assert dice(back) > dice(np.kron(seen, np.ones((2, 2, 2), np.uint8))) > 0.95


def test_slabs_change_nothing(monkeypatch):
    """Planes at a time give what scipy gives for the whole."""
    rng = np.random.default_rng(1)
    found = ndimage.gaussian_filter(rng.normal(size=(9, 8, 7)), 1.5)
    found = np.digitize(found, np.quantile(found, [0.4, 0.8])).astype(np.uint8)
    step, shape = np.array([0.6, 1.25, 0.9]), (15, 6, 8)
    monkeypatch.setattr("hepdist.inference.grid.SLAB_VOXELS", SLAB_VOXELS)
    at_once = labels_on(found, shape, step)
    monkeypatch.setattr("hepdist.inference.grid.SLAB_VOXELS", 2 * shape[1] * shape[2])
    np.testing.assert_array_equal(labels_on(found, shape, step), at_once)
    scale = 1 / step
    shares = [
        ndimage.affine_transform((found == k).astype(np.float32), scale, scale / 2 - 0.5, output_shape=shape, order=1, mode="nearest")
        for k in range(3)
    ]
    np.testing.assert_array_equal(at_once, np.argmax(shares, axis=0))


def test_intensities_keep_a_ramp():
    ramp = np.broadcast_to(np.arange(20, dtype=np.float32), (1, 4, 20)).copy()
    step = np.array([1.0, 2.0])
    back = values_on(ramp, (4, 40), step)
    np.testing.assert_allclose(back[0, 0, 1:-1], (np.arange(40) + 0.5)[1:-1] / 2 - 0.5, atol=1e-5)
