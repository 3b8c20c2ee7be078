"""Near duplicates: texts that share most of their runs of words (Broder, 1997).

A text's signature holds, for each of many hash functions, the least hash of its runs. Two signatures agree in as many
places, on average, as the sets of runs overlap. Only texts that agree in all places of a band are compared (Leskovec,
Rajaraman and Ullman, Mining of Massive Datasets, chapter 3).
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field

from jobs.features.arrays import one_array
from jobs.features.leaving_out import LeavingOut
from jobs.features.row_hash import row_hashes
from jobs.features.split import TrainRows
from jobs.features.values import ColumnKind
from jobs.features.words import terms_of_all

NUM_HASHES = 128
"""Places of a signature; the overlap is then off by 0.044 (one standard deviation) at most."""
_FACTORS = np.random.default_rng(0).integers(1, 2**63, NUM_HASHES, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


class NearDuplicates(LeavingOut):
    """Leaves out training rows whose text is nearly that of a row with a smaller key. Texts of fewer words than a run,
    and missing ones, stay."""

    kind: Literal["near_duplicates"] = "near_duplicates"
    column: str
    similarity: float = Field(0.8, gt=0, le=1)
    """Share of all runs of two texts that both have, from which on they are near duplicates (Jaccard's index)."""
    run_words: int = Field(3, ge=1)
    """Words of a run."""

    @property
    def reads(self) -> dict[str, ColumnKind]:
        """The text and the key."""
        return {self.column: "text", self.key: "text"}

    def statistics(self, train: TrainRows) -> pa.Table:
        """The `key` and the `signature` of each text."""
        sizes = (self.run_words, self.run_words)
        rows, runs = terms_of_all(train.table.column(self.column).to_pylist(), lower=True, ngrams=sizes)
        texts, signatures = _signatures(rows, row_hashes([pa.chunked_array([runs])]))
        offsets = pa.array(np.arange(len(texts) + 1) * NUM_HASHES, pa.int32())
        return pa.table(
            {
                "key": one_array(train.table.column(self.key).take(pa.array(texts)).cast(pa.string())),
                "signature": pa.ListArray.from_arrays(offsets, pa.array(signatures.reshape(-1))),
            }
        )

    def merge(self, parts: Sequence[pa.Table]) -> pa.Table:
        """All signatures, by key."""
        return pa.concat_tables(parts).sort_by("key")

    def fitted(self, statistics: pa.Table) -> Self:
        """The keys to leave out."""
        keys = one_array(statistics.column("key"))
        signatures = one_array(statistics.column("signature")).flatten().to_numpy().reshape(-1, NUM_HASHES)
        left_out = self._later_of_pairs(signatures)
        return self.with_state(pa.table({"key": keys.take(pa.array(sorted(left_out), pa.int64()))}))

    def told(self) -> str:
        """How many rows are left out."""
        return f"{self.column}: {len(self.left_out):,} near duplicates among the training rows"

    def _later_of_pairs(self, signatures: np.ndarray) -> set[int]:
        """The rows that are like one before them; signatures [texts, places] are in the order of their keys."""
        firsts, copies = _first_of_equal(signatures)
        left_out = set(copies)
        for bucket in _buckets(signatures, firsts, _band_places(self.similarity)):
            for one, other in combinations(bucket, 2):
                if np.mean(signatures[one] == signatures[other]) >= self.similarity:
                    left_out.add(other)
        return left_out


def _signatures(rows: np.ndarray, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the texts that have runs [texts], and for each of them its least hashes [texts, places] uint32."""
    if not len(rows):
        return np.array([], np.int64), np.zeros((0, NUM_HASHES), np.uint32)
    starts = np.flatnonzero(np.append(True, rows[1:] != rows[:-1]))
    signatures = np.empty((len(starts), NUM_HASHES), np.uint32)
    for place, factor in enumerate(_FACTORS):
        signatures[:, place] = np.minimum.reduceat((hashes * factor) >> np.uint64(32), starts)
    return rows[starts], signatures


def _band_places(similarity: float) -> int:
    """Places of a band: as many as let all but one pair in a hundred of this similarity agree in some band."""
    for places in range(NUM_HASHES, 1, -1):
        if NUM_HASHES % places == 0 and (1 - similarity**places) ** (NUM_HASHES // places) <= 0.01:
            return places
    return 1


def _first_of_equal(signatures: np.ndarray) -> tuple[list[int], list[int]]:
    """The first row of each signature, and all others."""
    seen: dict[bytes, int] = {}
    copies = []
    for row, signature in enumerate(signatures):
        if seen.setdefault(signature.tobytes(), row) != row:
            copies.append(row)
    return list(seen.values()), copies


def _buckets(signatures: np.ndarray, rows: list[int], places: int) -> Iterator[list[int]]:
    """Rows that agree in a band, in their order; only where there are several."""
    for start in range(0, NUM_HASHES, places):
        buckets: dict[bytes, list[int]] = {}
        for row in rows:
            buckets.setdefault(signatures[row, start : start + places].tobytes(), []).append(row)
        yield from (bucket for bucket in buckets.values() if len(bucket) > 1)
