import numpy as np
import pyarrow as pa
import pytest

from jobs.features.bpe import START
from jobs.workloads.text_windows import encode, one_a_split, token_matrix, tokens_of, windows


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


@pytest.mark.parametrize("context_length", [2, 3, 7, 1000])
def test_packed_documents_of_a_split_follow_each_other_and_only_its_end_is_filled(context_length: int) -> None:
    splits = ["test", "test", "train", "train", "train", "train", "train"]
    table = documents(*TEXTS).append_column("split", pa.array(splits))
    rows = windows(table, context_length, begin_streams=one_a_split).to_pylist()
    for split in ("test", "train"):
        texts = [text for text, its in zip(TEXTS, splits, strict=True) if text and its == split]
        stream = [token for text in texts for token in encode(text)]
        found = [row for row in rows if row["split"] == split]
        assert [row["num_tokens"] for row in found[:-1]] == [context_length] * (len(found) - 1)
        assert found[0]["tokens"][0] == START
        assert [token for row in found for token in row["tokens"][1 : 1 + row["num_tokens"]]] == stream[1:]
    assert len({(row["document"], row["place"]) for row in rows}) == len(rows)


def test_a_packed_window_is_named_by_the_document_it_begins_in() -> None:
    table = documents("ab", "cdefghi").append_column("split", pa.array(["train"] * 2))
    rows = windows(table, 4, begin_streams=one_a_split).to_pylist()
    assert [(row["document"], row["place"], row["tokens"]) for row in rows] == [
        ("d0", 0, [START, *b"ab", START, *b"c"]),
        ("d1", 0, [*b"cdefg"]),
        ("d1", 1, [*b"ghi", START, START]),
    ]


def test_tokens_of_a_step_are_cut_like_bytes() -> None:
    tokens = pa.array([[300, 70_000, 5], None, [], [7]], pa.list_(pa.int32()))
    table = documents("x", "y", "z", "w").append_column("tokens", tokens)
    rows = windows(table, 2, tokens_of)
    assert rows.column_names == ["document", "place", "tokens", "num_tokens"]
    assert [(row["document"], row["tokens"]) for row in rows.to_pylist()] == [
        ("d0", [START, 300, 70_000]),
        ("d0", [70_000, 5, START]),
        ("d3", [START, 7, START]),
    ]
