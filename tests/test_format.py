"""The on-disk format as docs/format.md promises it to readers without hepdist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hepdist.ingest import ingest
from hepdist.shards.format import TensorField, as_fixed_shape_tensor, decode, encode, tensor_fields
from hepdist.shards.manifest import Manifest

DOC = Path(__file__).resolve().parents[1] / "docs/format.md"


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    made = {}
    for split, rows in (("train", 23), ("val", 5), ("test", 7)):
        made[f"{split}_images"] = rng.integers(0, 256, (rows, 12, 10), dtype=np.uint8)
        made[f"{split}_labels"] = (np.arange(rows) % 2).astype(np.uint8)[:, None]
    return made


@pytest.fixture(scope="module")
def cohort(arrays: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    folder = tmp_path_factory.mktemp("format")
    (folder / "salt").write_text("0123456789abcdef" * 2)
    np.savez_compressed(folder / "tiny.npz", **arrays)
    return folder / "cohort", ingest(str(folder / "tiny.npz"), str(folder / "cohort"), [f"salt={folder / 'salt'}"])


def test_the_documented_lines_read_a_shard_with_pyarrow_and_numpy_alone(cohort, arrays):
    folder, manifest = cohort
    (code,) = re.findall(r"```python\n(.*?)```", DOC.read_text(), re.DOTALL)
    assert "hepdist." not in code.replace("hepdist.tensor", "")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    names: dict = {"shard": str(folder / manifest.of("train")[0].path)}
    exec(code, names)
    truth = {image.tobytes(): label for image, label in zip(arrays["train_images"], arrays["train_labels"][:, 0], strict=True)}
    assert names["images"].shape == (23, 1, 12, 10)
    assert [truth[image.tobytes()] for image in names["images"]] == names["labels"].tolist()
    assert len(set(names["patients"])) == 23


def test_the_documented_lines_copy_no_voxel(cohort):
    folder, manifest = cohort
    (code,) = re.findall(r"```python\n(.*?)```", DOC.read_text(), re.DOTALL)
    names: dict = {"shard": str(folder / manifest.of("val")[0].path)}
    exec(code, names)
    assert names["images"].ctypes.data == names["column"].buffers()[1].address


def test_pandas_reads_the_bytes_as_the_doc_says(cohort, arrays):
    folder, manifest = cohort
    path = folder / manifest.of("test")[0].path
    frame = pq.read_table(path).to_pandas()
    meaning = json.loads(pq.read_schema(path).field("image").metadata[b"hepdist.tensor"])
    images = {np.frombuffer(value, meaning["dtype"]).reshape(meaning["shape"]).tobytes() for value in frame.image}
    assert images == {image.tobytes() for image in arrays["test_images"]}


def test_a_tensor_column_is_a_fixed_length_byte_array_without_compression(cohort):
    folder, manifest = cohort
    metadata = pq.ParquetFile(folder / manifest.of("train")[0].path).metadata
    at = metadata.schema.names.index("image")
    assert metadata.schema.column(at).physical_type == "FIXED_LEN_BYTE_ARRAY"
    assert metadata.schema.column(at).length == 12 * 10
    assert metadata.row_group(0).column(at).compression == "UNCOMPRESSED"


def test_every_column_of_the_doc_is_what_ingest_writes(cohort):
    folder, manifest = cohort
    table = DOC.read_text().split("## A shard")[1].split("## A tensor column")[0]
    documented = set(re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines() if line.startswith("|"))))
    assert set(pq.read_schema(folder / manifest.of("train")[0].path).names) <= documented
    described = DOC.read_text().split("## manifest.json")[1].split("## How")[0]
    for key in ("tensors", "shards", "label_names", "multilabel", "emr", "counts", "normalisation", "fingerprint", "split_rule"):
        assert f"`{key}`" in described
        assert key in json.loads((folder / "manifest.json").read_bytes())


def test_a_tensor_keeps_its_values_and_its_buffer_through_encode_and_decode():
    field = TensorField("image", "int16", (1, 2, 3), "HU", "CHW", ("a", "b"))
    values = np.arange(24, dtype=np.int16).reshape(4, 1, 2, 3)
    column = encode(field, values)
    assert column.buffers()[1].address == values.ctypes.data
    assert decode(field, column).ctypes.data == values.ctypes.data
    np.testing.assert_array_equal(decode(field, column.slice(1, 2)), values[1:3])
    tensor = as_fixed_shape_tensor(field, column)
    np.testing.assert_array_equal(tensor.to_numpy_ndarray(), values)
    assert tensor.storage.flatten().buffers()[1].address == values.ctypes.data
    assert tensor_fields(pa.schema([field.arrow()])) == {"image": field}
