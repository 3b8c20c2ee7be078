import pyarrow as pa

from jobs.features.arrays import one_array


def test_a_column_of_one_chunk_is_that_chunk_and_of_several_all_of_them() -> None:
    chunk = pa.array([1.0, None, 3.0])
    assert one_array(pa.chunked_array([chunk])).buffers()[1].address == chunk.buffers()[1].address
    assert one_array(pa.chunked_array([chunk, chunk.slice(2)])).to_pylist() == [1.0, None, 3.0, 3.0]


def test_no_chunk_is_an_empty_array_of_the_type() -> None:
    assert one_array(pa.chunked_array([], pa.string())) == pa.array([], pa.string())
