import pyarrow as pa

from jobs.raw_block import RawBlock

ROWS = pa.table({"x": range(6)})


def test_a_row_is_where_its_block_is_or_where_the_closest_known_place_begins() -> None:
    assert RawBlock(ROWS, place="lines 2-7").places_of([0, 5]) == ["lines 2-7"] * 2
    closer = RawBlock(ROWS, place="row groups 0-2", places=((0, "row group 0"), (2, "row group 2")))
    assert closer.places_of([0, 1, 2, 5]) == ["row group 0", "row group 0", "row group 2", "row group 2"]
