"""Bag of words: how often each term is in a text, and how rare it is elsewhere (Salton and Buckley, 1988)."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from jobs.features.arrays import one_array
from jobs.features.split import TrainRows
from jobs.features.step import Step, put
from jobs.features.values import ColumnKind
from jobs.features.words import terms_of, terms_of_all


class BagOfWords(Step):
    """An entry a term of the training rows, in the order of their text; a missing text has no terms.

    `tf_idf` multiplies the count by 1 + ln((1 + texts) / (1 + texts with the term)).
    """

    kind: Literal["bag_of_words"] = "bag_of_words"
    column: str
    output: str
    max_features: int = Field(ge=1)
    """The terms seen most often that get an entry; of equally frequent ones the first by text."""
    weight: Literal["count", "binary", "tf_idf"] = "tf_idf"
    ngrams: tuple[int, int] = (1, 1)
    """Terms are runs of so many words, from the one to the other."""
    min_count: int = Field(1, ge=1)
    """Texts that a term must be in."""
    max_share: float = Field(1.0, gt=0, le=1)
    """Of all texts, that a term may be in."""
    lower: bool = True
    """Whether capital letters count as small ones."""
    normalize: bool = True
    """Whether each row's entries are scaled to a 2-norm of 1."""

    @model_validator(mode="after")
    def _has_runs(self) -> Self:
        if not 1 <= self.ngrams[0] <= self.ngrams[1]:
            raise ValueError(f"ngrams={list(self.ngrams)} is no range of numbers of words; give such as [1, 2]")
        return self

    @property
    def reads(self) -> dict[str, ColumnKind]:
        """The text."""
        return {self.column: "text"}

    @property
    def makes(self) -> dict[str, ColumnKind]:
        """The entries."""
        return {self.output: "numbers"}

    def statistics(self, train: TrainRows) -> pa.Table:
        """Of each term how often it is there and in how many texts; of null how many texts there are."""
        rows, terms = terms_of_all(train.table.column(self.column).to_pylist(), self.lower, self.ngrams)
        pairs = pa.table({"row": rows, "term": terms}).group_by(["row", "term"]).aggregate([([], "count_all")])
        counted = pairs.group_by("term").aggregate([("count_all", "sum"), ("count_all", "count")])
        all_texts = pa.table({"term": pa.nulls(1, pa.string()), "count": [0], "texts": [train.table.num_rows]})
        return pa.concat_tables([counted.rename_columns(["term", "count", "texts"]), all_texts])

    def merge(self, parts: Sequence[pa.Table]) -> pa.Table:
        """The counts of several parts as one."""
        merged = pa.concat_tables(parts).group_by("term").aggregate([("count", "sum"), ("texts", "sum")])
        return merged.rename_columns(["term", "count", "texts"])

    def fitted(self, statistics: pa.Table) -> Self:
        """The step of these counts."""
        num_texts = statistics.filter(statistics.column("term").is_null()).column("texts")[0].as_py()
        texts = statistics.column("texts")
        is_kept = pc.and_(
            statistics.column("term").is_valid(),
            pc.and_(pc.greater_equal(texts, self.min_count), pc.less_equal(texts, self.max_share * num_texts)),
        )
        ordered = statistics.filter(is_kept).sort_by([("count", "descending"), ("term", "ascending")])
        kept = ordered.slice(0, self.max_features).sort_by("term")
        rarity = np.log((1 + num_texts) / (1 + kept.column("texts").to_numpy())) + 1
        return self.with_state(pa.table({"term": kept.column("term"), "rarity": rarity}))

    def apply(self, table: pa.Table) -> pa.Table:
        """Lists of float32."""
        rows, terms = terms_of_all(table.column(self.column).to_pylist(), self.lower, self.ngrams)
        places = pc.index_in(terms, self._terms)
        known = places.is_valid().to_numpy(zero_copy_only=False)
        counts = np.zeros((table.num_rows, self.size))
        np.add.at(counts, (rows[known], places.drop_null().to_numpy()), 1)
        offsets = pa.array(np.arange(table.num_rows + 1) * self.size, pa.int32())
        entries = pa.array(self._weighted(counts).reshape(-1), pa.float32())
        return put(table, self.output, pa.ListArray.from_arrays(offsets, entries))

    def apply_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A list of numbers."""
        counts = np.zeros((1, self.size))
        for term in terms_of(row[self.column], self.lower, self.ngrams):
            place = self._places.get(term)
            if place is not None:
                counts[0, place] += 1
        return {self.output: self._weighted(counts)[0].tolist()}

    def told(self) -> str:
        """How many terms, and the first ones."""
        return f"{self.column}: {self.size:,} terms: {', '.join(self._terms.slice(0, 8).to_pylist())}"

    @property
    def length(self) -> int:
        """Of the lists."""
        return self.size

    @cached_property
    def size(self) -> int:
        """How many entries each list has."""
        return len(self._terms)

    @cached_property
    def _terms(self) -> pa.Array:
        return one_array(self.state().column("term"))

    @cached_property
    def _places(self) -> dict[str, int]:
        return {term: place for place, term in enumerate(self._terms.to_pylist())}

    @cached_property
    def _rarity(self) -> np.ndarray:
        rarity: np.ndarray = self.state().column("rarity").to_numpy()
        return rarity

    def _weighted(self, counts: np.ndarray) -> np.ndarray:
        """Counts [rows, terms] -> entries [rows, terms] float32."""
        entries = np.minimum(counts, 1) if self.weight == "binary" else counts
        if self.weight == "tf_idf":
            entries = entries * self._rarity
        if self.normalize and self.size:
            norms = np.sqrt(np.square(entries).sum(1, keepdims=True))
            entries = entries / np.where(norms > 0, norms, 1)
        return entries.astype(np.float32)
