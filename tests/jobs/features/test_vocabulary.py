from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from jobs.features.split import TrainRows
from jobs.features.vocabulary import UNKNOWN, Vocabulary

WORDS = ["a", "b", "c", "é", "ä", "Z", "10", "9", " ", "\x00", "😀", "never"]


def train_rows(values: list[str | None]) -> TrainRows:
    return TrainRows(pa.table({"word": pa.array(values, pa.string()), "split": ["train"] * len(values)}))


def drawn(seed: int, num_rows: int = 200) -> list[str | None]:
    draw = np.random.default_rng(seed)
    return [None if index == 0 else WORDS[index - 1] for index in draw.integers(0, len(WORDS), num_rows)]


def fitted(values: list[str | None], min_count: int = 1) -> Vocabulary:
    unfitted = Vocabulary(column="word", output="index", min_count=min_count)
    return unfitted.fitted(unfitted.merge([unfitted.statistics(train_rows(values))]))


@pytest.mark.parametrize("min_count", [1, 17])
@pytest.mark.parametrize("seed", range(4))
def test_values_are_ordered_by_falling_count_then_by_value(seed: int, min_count: int) -> None:
    counts = Counter(value for value in drawn(seed) if value is not None)
    kept = [value for value in counts if counts[value] >= min_count]
    expected = sorted(kept, key=lambda value: (-counts[value], value.encode()))
    vocabulary = fitted(drawn(seed), min_count)
    assert vocabulary.values.to_pylist() == expected
    assert vocabulary.size == len(expected) + 1


@pytest.mark.parametrize("seed", range(6))
def test_statistics_merged_in_any_grouping_and_order_give_the_same_vocabulary(seed: int) -> None:
    values, draw, unfitted = drawn(seed), np.random.default_rng(seed), Vocabulary(column="word", output="index")
    cuts = sorted(draw.integers(0, len(values), 5))  # equal cuts make empty parts
    parts = [values[start:end] for start, end in zip([0, *cuts], [*cuts, len(values)], strict=True)]
    tables = [unfitted.statistics(train_rows(part)) for part in parts]
    tables = [tables[index] for index in draw.permutation(len(tables))]
    while len(tables) > 1:
        num_merged = int(draw.integers(2, len(tables) + 1))
        tables = [*tables[num_merged:], unfitted.merge(tables[:num_merged])]
    assert unfitted.fitted(tables[0]) == fitted(values)


@pytest.mark.parametrize("min_count", [1, 17])
def test_a_table_and_its_rows_one_by_one_get_the_same_indices(min_count: int) -> None:
    vocabulary = fitted(drawn(0), min_count)
    words = [*drawn(1), "unseen", "A", "", "a ", "\x00 nobody"]
    table = vocabulary.apply(pa.table({"word": pa.array(words, pa.string())}))
    assert table.column("index").type == pa.int32()
    assert table.column("index").to_pylist() == [vocabulary.apply_row({"word": word})["index"] for word in words]


def test_an_index_leads_back_to_its_value_and_unknown_ones_get_0() -> None:
    vocabulary = fitted(["b", "a", "b", None])
    assert [vocabulary.apply_row({"word": word})["index"] for word in ("b", "a")] == [1, 2]
    for word in ("c", "", None):
        assert vocabulary.apply_row({"word": word})["index"] == UNKNOWN == 0
        assert vocabulary.apply(pa.table({"word": pa.array([word], pa.string())})).column("index").to_pylist() == [0]


@pytest.mark.parametrize("chunks", [[["b", "a"], ["x"], []], [[], []], []])
def test_a_table_of_several_chunks_or_none_is_applied_to(chunks: list[list[str]]) -> None:
    column = pa.chunked_array(chunks, pa.string())
    indices = fitted(["b", "b", "a"]).apply(pa.table({"word": column})).column("index")
    assert indices.to_pylist() == [{"b": 1, "a": 2}.get(word, 0) for word in column.to_pylist()]


def test_the_kind_of_string_does_not_matter() -> None:
    table = pa.table({"word": pa.array(["b", "a", "x"], pa.large_string())})
    assert fitted(["b", "b", "a"]).apply(table).column("index").to_pylist() == [1, 2, 0]


def test_no_training_rows_give_a_vocabulary_that_knows_nothing() -> None:
    vocabulary = fitted([])
    assert vocabulary.size == 1
    assert vocabulary.apply(pa.table({"word": ["a"]})).column("index").to_pylist() == [0]


def test_settings_and_state_make_an_equal_vocabulary() -> None:
    vocabulary = fitted(drawn(0), min_count=17)
    assert Vocabulary.model_validate(vocabulary.settings()).with_state(vocabulary.state()) == vocabulary


def test_entries_of_lists_are_looked_up_one_by_one() -> None:
    lists = pa.array([["b", "a"], [], None, ["b", None, "b"]], pa.list_(pa.string()))
    unfitted = Vocabulary(column="tags", output="number", of="labels")
    rows = TrainRows(pa.table({"tags": lists, "split": ["train"] * 4}))
    vocabulary = unfitted.fitted(unfitted.merge([unfitted.statistics(rows)]))
    assert vocabulary.values.to_pylist() == ["b", "a"]
    asked = pa.chunked_array([[["x", "a"]], [["b"], None]], pa.list_(pa.string()))
    applied = vocabulary.apply(pa.table({"tags": asked.slice(0)})).column("number")
    assert applied.type == pa.list_(pa.int32())
    assert applied.to_pylist() == [[0, 2], [1], []]
    assert vocabulary.apply(pa.table({"tags": asked.slice(1)})).column("number").to_pylist() == [[1], []]
    assert vocabulary.apply_row({"tags": ["x", "a"]}) == {"number": [0, 2]}
