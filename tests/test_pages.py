"""Rows copied straight from mapped Parquet pages are the bytes that pyarrow decodes; pages that aren't plain are decoded."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hepdist.shards.format import TensorField, decode, encode, write_shard
from hepdist.shards.manifest import Manifest, Shard, sha256_of
from hepdist.shards.pages import row_offsets
from hepdist.shards.read import SplitReader

IMAGE = TensorField("image", "int16", (1, 9, 7))
VALUES = np.random.default_rng(0).integers(-999, 999, (100, *IMAGE.shape)).astype(np.int16)
PLAIN = {"compression": "none", "use_dictionary": False}


def table() -> pa.Table:
    names = pa.array([f"{i:016x}" for i in range(len(VALUES))])
    schema = pa.schema([("sample_id", pa.string()), ("label", pa.int64()), IMAGE.arrow()])
    return pa.table([names, pa.array([None, *range(1, 100)], pa.int64()), encode(IMAGE, VALUES)], schema=schema)


def offsets_in(path, group):
    return row_offsets(pq.ParquetFile(path), np.fromfile(path, np.uint8), group, "image", IMAGE.nbytes)


@pytest.mark.parametrize("page_bytes", [100, 1000, 1 << 20])
def test_offsets_lead_to_the_bytes_that_pyarrow_decodes(tmp_path, page_bytes):
    path = tmp_path / "shard.parquet"
    pq.write_table(table(), path, row_group_size=37, data_page_size=page_bytes, write_batch_size=3, **PLAIN)
    data, file = np.fromfile(path, np.uint8), pq.ParquetFile(path)
    for group in range(file.num_row_groups):
        expected = decode(IMAGE, file.read_row_group(group, columns=["image"])["image"])
        found = [data[o : o + IMAGE.nbytes].view(np.int16).reshape(IMAGE.shape) for o in offsets_in(path, group)]
        assert np.array_equal(np.stack(found), expected)


@pytest.mark.parametrize(
    "options", [{"compression": "zstd"}, {**PLAIN, "use_dictionary": ["image"]}, {**PLAIN, "data_page_version": "2.0"}], ids=str
)
def test_other_encodings_are_decoded_to_the_same_rows(tmp_path, options):
    path = tmp_path / "shards" / "train-00000.parquet"
    path.parent.mkdir()
    pq.write_table(table(), path, row_group_size=37, **options)
    assert offsets_in(path, 0) is None
    assert_rows_arrive(tmp_path, path)


def test_shards_as_we_write_them_are_never_decoded(tmp_path):
    path = tmp_path / "shards" / "train-00000.parquet"
    path.parent.mkdir()
    write_shard(str(path), table(), 37)
    assert all(offsets_in(path, group) is not None for group in range(3))
    assert_rows_arrive(tmp_path, path)


def assert_rows_arrive(folder, path):
    shard = Shard("shards/train-00000.parquet", "train", (37, 37, 26), path.stat().st_size, sha256_of(path))
    tensors = {"image": {"dtype": IMAGE.dtype, "shape": list(IMAGE.shape)}}
    reader = SplitReader(folder, Manifest("pages", "images", tensors, (shard,)), "train")
    rows = np.random.default_rng(1).permutation(100)
    found = reader.arrays(rows, ("image", "label"))
    assert np.array_equal(found["image"], VALUES[rows])
    assert found["label"].tolist() == [row or -1 for row in rows.tolist()]
