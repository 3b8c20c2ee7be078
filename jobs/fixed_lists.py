"""Lists of numbers that all have one length, such as vectors and images, as Parquet holds them best.

For a list Parquet stores where each entry belongs, which costs more than the entries do, in writing and in reading.
As so many bytes a row there is nothing to store but the entries: little-endian, of the type that the field's metadata
names (`numpy.frombuffer` reads them).
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.features.arrays import one_array

ENTRIES = b"entries"
"""The key of a field's metadata that holds the type of its entries."""


def as_bytes(rows: pa.Table) -> pa.Table:
    """The rows with every such column as bytes; a column with a gap, or with lists of several lengths, stays."""
    for place, field in enumerate(rows.schema):
        if _is_list(field.type) and _is_number(field.type.value_type):
            packed = _packed(one_array(rows.column(place)))
            if packed is not None:
                metadata = {ENTRIES: str(field.type.value_type)}
                rows = rows.set_column(place, pa.field(field.name, packed.type, metadata=metadata), packed)
    return rows


def as_lists(rows: pa.Table) -> pa.Table:
    """The inverse of `as_bytes`, without a copy of the entries; what came as fixed-size lists comes back as lists."""
    for place, field in enumerate(rows.schema):
        entries = (field.metadata or {}).get(ENTRIES)
        if entries is not None:
            kind = pa.type_for_alias(entries.decode())
            lists = pa.chunked_array([_unpacked(chunk, kind) for chunk in rows.column(place).chunks], _list_of(kind))
            rows = rows.set_column(place, field.name, lists)
    return rows


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _list_of(kind: pa.DataType) -> pa.ListType:
    """Named as Parquet names it, so that rows of both forms go together."""
    return pa.list_(pa.field("element", kind))


def _packed(lists: pa.ListArray | pa.FixedSizeListArray) -> pa.FixedSizeBinaryArray | None:
    """None where they cannot be."""
    if not len(lists) or lists.null_count:
        return None
    lengths = pc.min_max(pc.list_value_length(lists)).as_py()
    entries = lists.flatten()
    if lengths["min"] != lengths["max"] or not len(entries) or entries.null_count:
        return None
    num_bytes = entries.type.bit_width // 8
    content = entries.buffers()[1].slice(entries.offset * num_bytes, len(entries) * num_bytes)
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(lengths["max"] * num_bytes), len(lists), [None, content])


def _unpacked(packed: pa.FixedSizeBinaryArray, kind: pa.DataType) -> pa.ListArray:
    length = packed.type.byte_width // (kind.bit_width // 8)
    entries = pa.Array.from_buffers(
        kind, len(packed) * length, [None, packed.buffers()[1]], offset=packed.offset * length
    )
    offsets = pa.array(np.arange(len(packed) + 1, dtype=np.int32) * length)
    return pa.ListArray.from_arrays(offsets, entries, type=_list_of(kind))
