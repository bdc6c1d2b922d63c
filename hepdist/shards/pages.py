"""Where the rows of a tensor column lie in a shard: plain pages can be copied from the mapped file without decoding them.

Parquet (parquet-format, parquet.thrift) stores an uncompressed, required, PLAIN fixed_len_byte_array page as its values and
nothing else, each after a header of a few dozen bytes that only a walk over the pages finds. A shard that someone wrote in
another way has no such places, and is decoded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.parquet as pq

DATA_PAGE, PLAIN = 0, 0
TYPE, BYTES, DATA_HEADER = 1, 3, 5
"""Fields of PageHeader: type, compressed_page_size, data_page_header."""
VALUES, ENCODING = 1, 2
"""Fields of DataPageHeader: num_values, encoding."""


def row_offsets(file: pq.ParquetFile, data: np.ndarray, group: int, column: str, nbytes: int, first_byte: int = 0) -> np.ndarray | None:
    """int64[rows]: the byte in `data` at which each row of a row group's column begins; None where it has to be decoded.

    data: uint8[bytes of the file], mapped, or a part of them from `first_byte` on; nbytes: of one row.
    """
    index = file.schema_arrow.get_field_index(column)  # shards have no nested columns: Arrow's and Parquet's columns agree
    chunk, kind = file.metadata.row_group(group).column(index), file.schema.column(index)
    plain = chunk.compression == "UNCOMPRESSED" and not chunk.has_dictionary_page
    if not plain or chunk.physical_type != "FIXED_LEN_BYTE_ARRAY" or kind.length != nbytes or kind.max_definition_level:
        return None
    place, found = chunk.data_page_offset - first_byte, []
    end = place + chunk.total_compressed_size
    while place < end:
        header, first = _struct(data, place)
        if header[TYPE] != DATA_PAGE:
            return None
        inner = header[DATA_HEADER]
        if inner[ENCODING] != PLAIN or header[BYTES] != inner[VALUES] * nbytes:
            return None
        found.append(first + np.arange(inner[VALUES], dtype=np.int64) * nbytes)
        place = first + header[BYTES]
    return np.concatenate(found) if found else None


def _struct(data: np.ndarray, place: int) -> tuple[dict[int, Any], int]:
    """A struct in Thrift's compact protocol as {field: value}, and the byte after it."""
    values: dict[int, Any] = {}
    field = 0
    while head := int(data[place]):
        place += 1
        kind, step = head & 15, head >> 4
        if step:
            field += step
        else:
            field, place = _integer(data, place)
        values[field], place = _value(data, place, kind)
    return values, place + 1


def _value(data: np.ndarray, place: int, kind: int) -> tuple[Any, int]:
    if kind in (1, 2):  # true, false: the value is in the type
        return kind == 1, place
    if kind == 3:
        return int(data[place]), place + 1
    if kind in (4, 5, 6):
        return _integer(data, place)
    if kind == 8:
        length, place = _unsigned(data, place)
        return None, place + length  # binary: minima and maxima, which nobody asks for
    if kind == 12:
        return _struct(data, place)
    raise ValueError(f"a page header holds Thrift type {kind}")


def _integer(data: np.ndarray, place: int) -> tuple[int, int]:
    value, place = _unsigned(data, place)
    return (value >> 1) ^ -(value & 1), place  # zigzag


def _unsigned(data: np.ndarray, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = int(data[place])
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7
