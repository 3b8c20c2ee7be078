import numpy as np
import pyarrow as pa
import pytest

from jobs.workloads.text_windows import START, encode, token_matrix, windows


def documents(*texts: str) -> pa.Table:
    return pa.table({"document": [f"d{number}" for number in range(len(texts))], "text": list(texts)})


def naive_windows(text: str, context_length: int) -> list[tuple[list[int], int]]:
    """Tokens and number of targets of each window, one by one."""
    tokens = [START, *text.encode()]
    found = []
    for begin in range(0, len(tokens) - 1, context_length):
        window = tokens[begin : begin + context_length + 1]
        found.append((window + [START] * (context_length + 1 - len(window)), len(window) - 1))
    return found


TEXTS = ("a", "abcd", "abcde", "Grüße aus 世界 🌍!", "", "x" * 100, "\x00\n\x7f")


@pytest.mark.parametrize("context_length", [1, 2, 4, 7, 1000])
def test_windows_are_those_of_a_plain_loop(context_length: int) -> None:
    rows = windows(documents(*TEXTS), context_length).to_pylist()
    expected = [
        {"document": f"d{number}", "place": place, "tokens": tokens, "num_tokens": num_targets}
        for number, text in enumerate(TEXTS)
        for place, (tokens, num_targets) in enumerate(naive_windows(text, context_length))
    ]
    assert rows == expected


@pytest.mark.parametrize("context_length", [1, 3, 16])
def test_every_byte_is_a_target_exactly_once_and_in_order(context_length: int) -> None:
    targets: dict[str, bytes] = {}
    for row in windows(documents(*TEXTS), context_length).to_pylist():
        predicted = bytes(row["tokens"][1 : 1 + row["num_tokens"]])
        targets[row["document"]] = targets.get(row["document"], b"") + predicted
    assert targets == {f"d{number}": text.encode() for number, text in enumerate(TEXTS) if text}


def test_a_document_begins_with_the_start_token_and_a_later_window_with_the_byte_before_it() -> None:
    first, second = windows(documents("abcdef"), 4).to_pylist()
    assert first["tokens"] == [START, *b"abcd"]
    assert second["tokens"] == [*b"def", START, START]
    assert (first["num_tokens"], second["num_tokens"]) == (4, 2)


def test_documents_without_a_byte_give_no_row() -> None:
    assert windows(documents("", ""), 4).num_rows == 0
    assert windows(documents(), 4).num_rows == 0
    assert windows(pa.table({"document": ["a"], "text": pa.nulls(1, pa.string())}), 4).num_rows == 0


def test_every_window_repeats_the_documents_other_columns() -> None:
    table = documents("abcdef", "g").append_column("split", pa.array(["train", "test"]))
    assert windows(table, 4).column("split").to_pylist() == ["train", "train", "test"]


def test_the_columns_have_one_type_whatever_the_documents() -> None:
    filled, empty = windows(documents("abc"), 4), windows(documents(), 4)
    assert filled.schema.field("tokens").type == pa.list_(pa.int16(), 5)
    assert empty.schema.types[1:] == filled.schema.types[1:]


def test_documents_in_several_chunks_are_one_table() -> None:
    parts = pa.concat_tables([documents("abc"), documents("defgh")])
    assert windows(parts, 4).equals(windows(parts.combine_chunks(), 4))


@pytest.mark.parametrize("type_", [pa.list_(pa.int16(), 3), pa.list_(pa.int32()), pa.large_list(pa.uint16())])
def test_token_matrix_reads_any_list_of_integers_in_slices_and_chunks(type_: pa.DataType) -> None:
    tokens = [[1, 2, 3], [4, 5, 256], [7, 8, 9], [10, 11, 12]]
    chunks = pa.chunked_array([pa.array(tokens[:3], type_), pa.array(tokens[3:], type_)])
    assert np.array_equal(token_matrix(pa.table({"tokens": chunks}).slice(1)), tokens[1:])


def test_rows_keep_their_tokens_when_they_are_sorted_and_filtered() -> None:
    rows = windows(documents("abcdefgh", "ij"), 3)
    order = [("document", "descending"), ("place", "ascending")]
    shuffled = rows.sort_by(order).filter(pa.array([True, False, True, True]))
    assert [row[:2] for row in token_matrix(shuffled).tolist()] == [[START, 105], [99, 100], [102, 103]]


def test_encode_gives_the_first_windows_tokens() -> None:
    text = "Grüße"
    assert encode(text) == [START, *text.encode("utf-8")]
    assert windows(documents(text), 7).column("tokens")[0].as_py() == encode(text)
