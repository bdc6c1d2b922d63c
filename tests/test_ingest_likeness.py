"""Copies of one picture are found, pictures of different people never are: measured on real X-rays, which look alike."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from hepdist.ingest.likeness import likeness_of, near_pairs
from hepdist.ingest.pictures import grey


def copies(image: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """What becomes of a picture on its way between hospitals. image: uint8[H, W]."""
    picture = Image.fromarray(image)
    for quality in (50, 75, 95):
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        yield f"jpeg {quality}", grey(buffer.getvalue())[0]
    for scale in (0.5, 0.75, 1.5):
        if min(image.shape) * scale >= 16:  # a thumbnail's own size
            yield (
                f"x {scale}",
                np.asarray(picture.resize((int(image.shape[1] * scale), int(image.shape[0] * scale)), Image.Resampling.BICUBIC)),
            )
    yield "brighter", np.clip(image * 1.1 + 10, 0, 255).astype(np.uint8)
    yield "darker", np.clip(image * 0.9 - 10, 0, 255).astype(np.uint8)
    yield "gamma", (255 * (image / 255) ** 0.9).astype(np.uint8)


def share_found(images: list[np.ndarray]) -> dict[str, float]:
    """Share of the images whose copy is found to be one, by kind of copy."""
    found: dict[str, list[bool]] = {}
    for image in images:
        for kind, copy in copies(image):
            found.setdefault(kind, []).append((0, 1) in list(near_pairs([likeness_of(image[None]), likeness_of(copy[None])])))
    return {kind: float(np.mean(values)) for kind, values in found.items()}


def pairs(images: list[np.ndarray]) -> set[tuple[int, int]]:
    return {(min(p), max(p)) for p in near_pairs([likeness_of(image[None]) for image in images])}


def members(path, folder: str) -> dict[str, np.ndarray]:
    with tarfile.open(path) as archive:
        return {
            m.name.split("/")[-1]: grey(archive.extractfile(m).read())[0] for m in archive if m.isfile() and m.name.startswith(f"{folder}/")
        }


def test_no_two_different_pneumoniamnist_images_are_one_and_95_percent_of_copies_are_found(shared_data):
    with np.load(shared_data / "medmnist/pneumoniamnist.npz") as arrays:
        images = np.concatenate([arrays[f"{split}_images"] for split in ("train", "val", "test")])
    images = np.unique(images, axis=0)
    assert len(images) == 5827
    assert pairs(list(images)) == set()
    found = share_found(list(images[:: len(images) // 100]))
    assert found.keys() == {"jpeg 50", "jpeg 75", "jpeg 95", "x 0.75", "x 1.5", "brighter", "darker", "gamma"}
    assert min(found.values()) >= 0.95, found


def test_no_two_lung_xrays_are_one_and_every_copy_is_found(shared_data):
    images = list(members(shared_data / "cxr_lung_masks/cxr_lung_masks.tar", "cxr").values())
    assert len(images) == 163
    assert pairs(images) == set()
    assert min(share_found(images[::16]).values()) == 1.0


def test_covid_patients_97_and_178_are_one_person_and_nobody_else_is(shared_data):
    images = members(shared_data / "covid_cxr/covid_cxr.tar", "images")
    names = list(images)
    found = {tuple(sorted((names[i], names[j]))) for i, j in pairs(list(images.values()))}
    # the same four films of one case, published by two atlases under two ids: same size, encoded anew
    case = "covid-19-rapidly-progressive-acute-respiratory-distress-syndrome-ards"
    assert found == {(f"16660_{n}_1.jpg", f"{case}-{day}.jpg") for n, day in ((2, "admission"), (3, "day-1"), (4, "day-2"), (5, "day-3"))}
    assert min(share_found(list(images.values())[::20]).values()) >= 0.95


def test_resampled_and_noisy_volumes_are_found_and_different_ones_are_not():
    from scipy.ndimage import gaussian_filter, zoom

    rng = np.random.default_rng(0)
    volumes = [gaussian_filter(rng.normal(size=(40, 48, 36)), 3) for _ in range(30)]
    assert pairs(volumes) == set()
    for volume in volumes[:5]:
        finer = zoom(volume, 1.5, order=1, grid_mode=True, mode="nearest")
        noisy = volume + rng.normal(0, 0.02 * np.ptp(volume), volume.shape)
        assert pairs([volume, finer]) == pairs([volume, 2 * noisy + 5]) == {(0, 1)}


def test_images_without_features_look_like_nothing():
    assert likeness_of(np.zeros((1, 20, 20), np.uint8)) == b""
    assert likeness_of(np.full((3, 20, 20, 20), 7.5, np.float32)) == b""
    assert likeness_of(np.full((1, 8, 8), np.nan, np.float32)) == b""


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_likeness_depends_on_neither_depth_nor_window(dtype):
    image = np.random.default_rng(1).integers(0, 100, (1, 33, 47))
    one, other = likeness_of(image.astype(np.uint8)), likeness_of((image * (1 if dtype is np.uint8 else 200) + 5).astype(dtype))
    assert len(one) == len(other) == 8 + 16 * 16
    assert list(near_pairs([one, other])) == [(0, 1)]


def test_candidates_are_all_pairs_within_seven_bits():
    from hepdist.ingest.likeness import FAR, _candidates

    rng = np.random.default_rng(2)
    hashes = rng.integers(0, 1 << 63, 300, dtype=np.uint64)
    for i in range(0, 300, 3):  # neighbours at 0 to 9 bits
        flips = rng.choice(64, i % 10, replace=False)
        hashes[i + 1] = hashes[i] ^ np.bitwise_or.reduce(np.uint64(1) << flips.astype(np.uint64), initial=np.uint64(0))
    distance = np.bitwise_count(hashes[:, None] ^ hashes[None])
    expected = {(i, j) for i, j in zip(*np.nonzero(distance <= FAR), strict=True) if i < j}
    found = {(min(i, j), max(i, j)) for left, right in _candidates(hashes) for i, j in zip(left.tolist(), right.tolist(), strict=True)}
    assert found == expected
    assert len(found) >= 70
