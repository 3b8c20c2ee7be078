"""Columns of tables as single arrays, which NumPy and some of Arrow's kernels take."""

import pyarrow as pa


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """All values of a column; without a copy where they are one chunk, of which Arrow's `combine_chunks` makes one."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
