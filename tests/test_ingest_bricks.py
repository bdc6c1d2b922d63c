"""Volumes cut into bricks: they cover everything, lie where they say, stay together, and statistics see each voxel once."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest
from salts import SALT

from hepdist.errors import RecipeError
from hepdist.evaluation.cases import load_cases
from hepdist.ingest import ingest
from hepdist.ingest import resample as resampling
from hepdist.ingest.bricks import brick_offsets
from hepdist.ingest.nifti import read_nifti
from hepdist.ingest.resample import resample_volume
from hepdist.ingest.spec import parse_options
from hepdist.inspect import counts, gather, write_page
from hepdist.shards.manifest import SPLITS, Manifest
from hepdist.shards.read import SplitReader

SHAPES = ((21, 17, 12), (9, 40, 8), (16, 16, 30), (5, 6, 7), (24, 20, 16), (13, 13, 13), (30, 9, 11), (8, 12, 33))
"""D, H, W; some smaller than a brick of 12 x 10 x 8 along an axis, one along all."""
OPTIONS = ["brick=12,10,8", "overlap=0.25", "classes=background,liver,tumour"]


pytestmark = pytest.mark.usefixtures("salt")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """CT-like volumes of int16 with masks; the scan of case 3 was exported twice under the names of two patients."""
    folder = tmp_path_factory.mktemp("bricks") / "source"
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i, shape in enumerate(SHAPES):
        image = rng.integers(-1000, 1000, shape[::-1]).astype(np.int16)
        mask = rng.choice(3, shape[::-1], p=(0.7, 0.2, 0.1)).astype(np.uint8)
        if i % 2:
            mask[mask == 2] = 0
        for j in (i, 100 + i) if i == 3 else (i,):
            affine = np.diag([-0.8, -0.8, 2.0, 1.0])  # already L, P, S
            nib.save(nib.Nifti1Image(image, affine), folder / f"imagesTr/case_{j:03d}.nii.gz")
            nib.save(nib.Nifti1Image(mask, affine), folder / f"labelsTr/case_{j:03d}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def cohort(source, tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEPDIST_SALT", SALT)
        folder = tmp_path_factory.mktemp("bricks") / "cohort"
        ingest(str(source), str(folder), OPTIONS)
    return folder


def sources(folder: Path) -> dict[bytes, np.ndarray]:
    """Masks by the bytes of their images, as they lie in a cohort."""
    return {
        read_nifti((folder / "imagesTr" / path.name).read_bytes()).voxels.tobytes(): read_nifti(path.read_bytes()).voxels
        for path in (folder / "labelsTr").iterdir()
    }


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.7])
@pytest.mark.parametrize(("shape", "size"), [((33, 20, 17), (12, 10, 8)), ((13, 100, 9), (12, 7, 8)), ((65, 64), (16, 24))])
def test_bricks_lie_where_monais_sliding_window_does_and_cover_every_voxel(shape, size, overlap):
    from monai.data.utils import dense_patch_slices

    found = brick_offsets(shape, size, overlap)
    steps = [max(1, int(n * (1 - overlap))) for n in size]
    assert found == [tuple(s.start for s in window) for window in dense_patch_slices(shape, size, steps)]
    covered = np.zeros(shape, int)
    for offset in found:
        assert all(o + n <= have for o, n, have in zip(offset, size, shape, strict=True))
        covered[tuple(slice(o, o + n) for o, n in zip(offset, size, strict=True))] += 1
    assert covered.min() == 1
    assert found == sorted(found)  # layer by layer


def test_an_axis_shorter_than_a_brick_has_one_brick_about_its_centre():
    assert brick_offsets((5, 12, 20), (12, 12, 12), 0.25) == [(-4, 0, 0), (-4, 0, 8)]
    assert brick_offsets((5, 7), (8, 8), 0.5) == [(-2, -1)]


def test_bricks_put_together_again_are_the_volumes_voxel_for_voxel(source, cohort):
    manifest = Manifest.load(cohort)
    truth = sources(source)
    ids = {name for split in SPLITS for name in SplitReader(cohort, manifest, split).strings(["sample_id"])["sample_id"].to_pylist()}
    cases = dict(load_cases(cohort, manifest, ids, ("image", "mask", "spacing")))
    assert len(cases) == len(SHAPES) + 1
    assert {case["image"].tobytes() for case in cases.values()} == set(truth)
    for case in cases.values():
        np.testing.assert_array_equal(case["mask"], truth[case["image"].tobytes()])
        np.testing.assert_allclose(case["spacing"], (2.0, 0.8, 0.8), rtol=1e-6)


def test_rows_of_a_volume_follow_each_other_in_one_shard_and_say_which_brick_they_are(cohort):
    manifest = Manifest.load(cohort)
    for split in SPLITS:
        reader = SplitReader(cohort, manifest, split)
        keys = reader.strings(["sample_id", "patient"]).to_pydict()
        place = reader.arrays(np.arange(len(reader)), ("brick", "offset", "original_shape", "affine"))
        cases = manifest.cases(split)
        assert len({keys["sample_id"][row] for row in cases[:-1]}) == len(cases) - 1
        for first, last in pairwise(cases.tolist()):
            shape = place["original_shape"][first]
            assert set(keys["sample_id"][first:last]) == {keys["sample_id"][first]}
            assert place["brick"][first:last].tolist() == [[i, last - first] for i in range(last - first)]
            assert list(map(tuple, place["offset"][first:last].tolist())) == brick_offsets(shape, (12, 10, 8), 0.25)
            origins = place["affine"][first:last] @ np.array([0, 0, 0, 1.0])
            moved = (origins - origins[0])[:, :3]  # D, H, W run along z, y, x of LPS
            steps = place["offset"][first:last] - place["offset"][first]
            np.testing.assert_allclose(moved, (steps * (2.0, 0.8, 0.8))[:, ::-1], atol=1e-6)
        for shard in manifest.of(split):
            assert sum(shard.volumes) == shard.rows == pq.read_metadata(cohort / shard.path).num_rows


def test_a_patient_is_in_one_split_and_one_scan_under_two_names_is_one_patient(cohort):
    manifest = Manifest.load(cohort)
    patients = [set(SplitReader(cohort, manifest, split).strings(["patient"])["patient"].to_pylist()) for split in SPLITS]
    assert sum(map(len, patients)) == len(set.union(*patients)) == len(SHAPES)
    assert manifest.split_rule["patients_merged"] == 1


def test_statistics_and_counts_see_each_voxel_and_volume_once(cohort):
    manifest = Manifest.load(cohort)
    train = SplitReader(cohort, manifest, "train").strings(["sample_id"])["sample_id"].to_pylist()
    cases = dict(load_cases(cohort, manifest, train, ("image", "mask")))
    voxels = np.concatenate([case["image"].ravel() for case in cases.values()]).astype(np.float64)
    np.testing.assert_allclose(manifest.normalisation["image"]["mean"], [voxels.mean()], rtol=1e-9)
    np.testing.assert_allclose(manifest.normalisation["image"]["std"], [voxels.std()], rtol=1e-9)
    low, high = np.percentile(voxels, (0.5, 99.5))
    assert manifest.fingerprint["train_intensity_percentiles"]["0.5"] == low
    assert manifest.fingerprint["train_intensity_percentiles"]["99.5"] == high
    counts = manifest.counts["train"]
    assert counts["volumes"] == len(cases)
    assert counts["rows"] == manifest.rows("train") > len(cases)
    assert counts["classes"] == {
        name: sum((case["mask"] == k).any() for case in cases.values()) for k, name in enumerate(("background", "liver", "tumour"))
    }
    assert manifest.fingerprint["bricks"] == {"size": [12, 10, 8], "overlap": 0.25}
    assert manifest.fields["brick"].shape == (2,)
    assert manifest.counts["audit"]["ingested"] == 2 * (len(SHAPES) + 1)


def test_inspect_tells_volumes_from_rows(cohort):
    manifest, facts = Manifest.load(cohort), gather(cohort)
    section = counts(facts)
    total = dict(zip(section.columns, section.rows[-1], strict=True))
    assert (total["volumes"], total["rows"]) == (str(len(SHAPES) + 1), str(sum(manifest.rows(split) for split in SPLITS)))
    assert "cut into bricks of 12 x 10 x 8, 25% in common" in section.note
    page = Path(write_page(cohort, facts)).read_text()
    assert f"train ({manifest.counts['train']['volumes']} volumes)" in page


def test_bricks_are_cut_after_resampling_and_padding_is_no_part_of_the_statistics(source, tmp_path):
    manifest = ingest(str(source), str(tmp_path / "c"), [*OPTIONS, "spacing=1.5"])
    reader = SplitReader(tmp_path / "c", manifest, "train")
    place = reader.arrays(np.arange(len(reader)), ("source_shape", "original_shape", "spacing"))
    expected = np.round(place["source_shape"] * (2.0, 0.8, 0.8) / 1.5)
    assert np.array_equal(place["original_shape"], expected)
    assert (place["spacing"] == np.float32(1.5)).all()
    cases = load_cases(tmp_path / "c", manifest, set(reader.strings(["sample_id"])["sample_id"].to_pylist()), ("image",))
    voxels = np.concatenate([case["image"].ravel() for _, case in cases]).astype(np.float64)
    np.testing.assert_allclose(manifest.normalisation["image"]["mean"], [voxels.mean()], rtol=1e-9)


@pytest.mark.parametrize("step", [(0.5, 1.0, 0.8), (2.0, 1.5, 1.25), (3.7, 1.0, 1.0)])
def test_a_volume_resampled_by_slabs_is_the_volume_resampled_at_once(step, monkeypatch):
    volume = np.random.default_rng(0).normal(size=(2, 41, 12, 15)).astype(np.float32)
    mask = (volume[:1] > 0).astype(np.uint8)
    shape = tuple(round(n / s) for n, s in zip(volume.shape[1:], step, strict=True))
    at_once = resample_volume(volume, np.array(step), shape, "float32", smooth=True)
    mask_at_once = resample_volume(mask, np.array(step), shape, "uint8", smooth=False)
    monkeypatch.setattr(resampling, "SLAB_VOXELS", 3 * 12 * 15)
    np.testing.assert_allclose(resample_volume(volume, np.array(step), shape, "float32", smooth=True), at_once, atol=1e-5)
    np.testing.assert_array_equal(resample_volume(mask, np.array(step), shape, "uint8", smooth=False), mask_at_once)


def test_shards_are_the_same_on_one_process_and_two(source, cohort, tmp_path, ray_cluster):
    manifest = ingest(str(source), str(tmp_path / "cohort"), [*OPTIONS, "workers=2"])
    assert manifest.sha256() == Manifest.load(cohort).sha256()


def test_options_that_contradict_each_other_are_refused(source, tmp_path):
    with pytest.raises(RecipeError, match="size= crops a volume and brick= cuts it into pieces"):
        parse_options(["brick=8,8,8", "size=8,8,8"])
    with pytest.raises(RecipeError, match="overlap= is that of bricks"):
        parse_options(["overlap=0.5"])
    with pytest.raises(RecipeError, match="ingest key 'brick' has 2 values, but the images have 3 axes; give D,H,W"):
        ingest(str(source), str(tmp_path / "c"), ["brick=8,8"])
