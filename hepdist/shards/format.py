"""The on-disk form of a tensor column: fixed_size_binary in Parquet, its dtype, shape and meaning in the field's metadata.

docs/format.md describes it for readers without hepdist.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hepdist.errors import CohortError

TENSOR = b"hepdist.tensor"


@dataclass(frozen=True)
class TensorField:
    """What one tensor column holds; the same shape in every row of a cohort."""

    name: str
    dtype: str
    """NumPy name, little endian: uint8, int16, float32, ..."""
    shape: tuple[int, ...]
    """C order, channel first: (C, H, W) or (C, D, H, W) for images and masks."""
    unit: str = ""
    """'HU', 'display 0..255', 'raw', 'class index', 'mm', ..."""
    axes: str = ""
    """A letter an axis, e.g. 'CHW', 'CDHW'; empty for vectors."""
    classes: tuple[str, ...] = field(default=())
    """Names by index, for class-index masks and multi-label vectors."""

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def arrow(self) -> pa.Field:
        """The Parquet field, with everything but the name in its metadata."""
        meaning = {k: v for k, v in asdict(self).items() if k != "name"}
        return pa.field(self.name, pa.binary(self.nbytes), nullable=False, metadata={TENSOR: json.dumps(meaning).encode()})

    @classmethod
    def from_arrow(cls, arrow: pa.Field) -> TensorField | None:
        """The tensor that an Arrow field describes; None where it is a plain column."""
        text = (arrow.metadata or {}).get(TENSOR)
        if text is None:
            return None
        return cls.from_json(arrow.name, json.loads(text))

    @classmethod
    def from_json(cls, name: str, meaning: dict) -> TensorField:
        return cls(
            name=name, dtype=meaning["dtype"], shape=tuple(meaning["shape"]), unit=meaning.get("unit", ""),
            axes=meaning.get("axes", ""), classes=tuple(meaning.get("classes", ())),
        )  # fmt: skip


def tensor_fields(schema: pa.Schema) -> dict[str, TensorField]:
    """The tensor columns of a shard's schema, by name."""
    found = (TensorField.from_arrow(f) for f in schema)
    return {t.name: t for t in found if t is not None}


def encode(tensor: TensorField, values: np.ndarray) -> pa.Array:
    """values[rows, *shape] as a fixed_size_binary array; no copy when the dtype and the layout already fit."""
    if values.shape[1:] != tensor.shape:
        raise CohortError(f"column '{tensor.name}' holds {tensor.shape} tensors, not {values.shape[1:]}")
    flat = np.ascontiguousarray(values, dtype=tensor.dtype)
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(tensor.nbytes), len(flat), [None, pa.py_buffer(flat)])


def decode(tensor: TensorField, column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A fixed_size_binary column as a read-only array[rows, *shape]; no copy when it is one chunk."""
    array = _one_array(column, pa.binary(tensor.nbytes)) if isinstance(column, pa.ChunkedArray) else column
    data = array.buffers()[1]
    if not len(array):
        return np.empty((0, *tensor.shape), tensor.dtype)
    flat = np.frombuffer(data, np.uint8, count=len(array) * tensor.nbytes, offset=array.offset * tensor.nbytes)
    return flat.view(tensor.dtype).reshape(len(array), *tensor.shape)


def _one_array(column: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    """A column as one array; `combine_chunks` alone would copy a single chunk too."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], kind)


def as_fixed_shape_tensor(tensor: TensorField, column: pa.Array) -> pa.ExtensionArray:
    """The same buffer under Arrow's `arrow.fixed_shape_tensor` type, which Ray Data and others know. No copy."""
    size = int(np.prod(tensor.shape))
    item = pa.from_numpy_dtype(np.dtype(tensor.dtype))
    flat = pa.Array.from_buffers(item, len(column) * size, [None, column.buffers()[1].slice(column.offset * tensor.nbytes)])
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(item, tensor.shape), pa.FixedSizeListArray.from_arrays(flat, size))


def shard_writer(path: str, schema: pa.Schema) -> pq.ParquetWriter:
    """A shard with plain pages: uncompressed fixed_size_binary decodes 49x faster than a list column (docs/format.md).

    Least and largest value are kept of plain columns alone: of a tensor they are two more tensors, found at the cost of a second writing.
    """
    plain = [field.name for field in schema if TensorField.from_arrow(field) is None]
    return pq.ParquetWriter(path, schema, compression="none", use_dictionary=False, store_schema=True, write_statistics=plain)


def write_shard(path: str, table: pa.Table, row_group_rows: int) -> None:
    """One shard whose rows are all at hand."""
    with shard_writer(path, table.schema) as writer:
        writer.write_table(table, row_group_rows)
