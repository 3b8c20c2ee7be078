"""Column types: whether files that keep types hold a column in types that are read as the same values."""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from cluster.errors import DataError
from jobs.features.columns import Column
from jobs.features.values import TEXT


def check_types(files: Mapping[str, pa.Schema], columns: Sequence[Column]) -> None:
    """Raise DataError where a column is of one sort in a file and of another in the next.

    Numbers of any width are one sort, and so are text and bytes, which some writers store text as; where a column is
    read as text, a number in it is its spelling.

    Args:
        files: what each file says of its columns, by its path; null of those whose type it leaves open.
    """
    for column in columns:
        seen: dict[str, tuple[str, pa.DataType]] = {}
        for path, schema in files.items():
            for place in schema.get_all_field_indices(column.in_files):
                kind = schema.field(place).type
                sort = _sort(kind, column)
                if sort:
                    seen.setdefault(sort, (path, kind))
        if len(seen) > 1:
            (path, kind), (other_path, other_kind), *_ = seen.values()
            raise DataError(
                f"column '{column.in_files}' is {kind} in '{path}' and {other_kind} in '{other_path}'; "
                "write one type, or take one of the files out"
            )


def _sort(kind: pa.DataType, column: Column) -> str | None:
    """What values of a type are; None where it says nothing."""
    sort = _own_sort(kind)
    return "text" if sort == "number" and column.kind in TEXT else sort


def _own_sort(kind: pa.DataType) -> str | None:
    types = pa.types
    if types.is_null(kind):
        return None
    if types.is_dictionary(kind):
        return _own_sort(kind.value_type)
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return "number"
    if types.is_timestamp(kind) or types.is_date(kind):
        return "moment"
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = _own_sort(kind.value_type)
        return inner and f"list of {inner}"
    is_text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    is_bytes = types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
    return "text" if is_text or is_bytes or types.is_binary_view(kind) else str(kind)
