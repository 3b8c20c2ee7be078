"""Text in parts and compressed; what its lines may hold is in test_raw.py."""

import codecs
import gzip
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.storage import Storage
from jobs import raw_lines
from jobs.raw import parts_of
from jobs.raw_block import Part
from tests.jobs.test_raw import read, read_in_parts, written


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.text("ab, ü", max_size=6), max_size=12),
    st.lists(st.sampled_from(["\n", "\r\n", "\r", "\n\n"]), min_size=13, max_size=13),
    st.booleans(),
    st.integers(1, 40),
    st.integers(3, 30),
)
def test_text_in_parts_of_any_size_has_each_row_once_and_in_order(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    ends: list[str],
    has_mark: bool,
    part_bytes: int,
    block_bytes: int,
) -> None:
    lines = ["a,b", *(f"{number},{word.replace(',', ' ')}" for number, word in enumerate(words))]
    text = "".join(line + end for line, end in zip(lines, ends, strict=False))
    content = (codecs.BOM_UTF8 if has_mark else b"") + text.encode()
    path = written(tmp_path, "x.csv", content)
    expected, _ = read(path)
    monkeypatch.setattr(raw_lines, "PART_BYTES", part_bytes)
    monkeypatch.setattr(raw_lines, "BLOCK_BYTES", block_bytes)
    assert read_in_parts(path) == expected
    assert [row["a"] for row in expected] == [str(number) for number in range(len(words))]


def test_a_compressed_file_is_one_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw_lines, "PART_BYTES", 10)
    path = written(tmp_path, "x.csv.gz", gzip.compress(b"a,b\n" + b"1,2\n" * 100))
    assert parts_of(Storage(str(tmp_path)), path) == [Part(path)]
    assert len(read_in_parts(path)) == 100


@pytest.mark.parametrize(("ending", "codec"), [("gz", "gzip"), ("bz2", "bz2"), ("zst", "zstd"), ("lz4", "lz4")])
@pytest.mark.parametrize(("name", "content"), [("x.csv", "a,b\n1,2\n"), ("x.jsonl", '{"a": "1", "b": "2"}\n')])
def test_text_may_be_compressed(tmp_path: Path, ending: str, codec: str, name: str, content: str) -> None:
    path = str(tmp_path / f"{name}.{ending}")
    with pa.output_stream(path, compression=codec) as stream:
        stream.write(content.encode())
    assert read(path) == ([{"a": "1", "b": "2"}], [])
    assert parts_of(Storage(str(tmp_path)), path) == [Part(path)]
