"""Words of a text, and runs of them; and where words begin that white space parts."""

import re
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

_WORD = re.compile(r"\b\w\w+\b")
"""Of two letters or digits at least, of any script, as scikit-learn takes them."""
_UNBROKEN = re.compile(r"\S+")


def word_starts(text: str | None) -> list[int]:
    """The character at which each word begins, where words are what white space parts, as in `str.split`."""
    return [found.start() for found in _UNBROKEN.finditer(text)] if text else []


def terms_of(text: str | None, lower: bool, ngrams: tuple[int, int]) -> Iterator[str]:
    """Every run of `ngrams[0]` to `ngrams[1]` words, joined by a space; none of a missing text."""
    words = _WORD.findall(text.lower() if lower else text) if text else []
    for size in range(ngrams[0], ngrams[1] + 1):
        yield from words if size == 1 else (" ".join(words[i : i + size]) for i in range(len(words) - size + 1))


def terms_of_all(texts: Iterable[str | None], lower: bool, ngrams: tuple[int, int]) -> tuple[np.ndarray, pa.Array]:
    """The terms of many texts one after the other, and the number of the text that each is from.

    Returns:
        Numbers of texts [terms] int64, and terms [terms] string.
    """
    found = [list(terms_of(text, lower, ngrams)) for text in texts]
    rows = np.repeat(np.arange(len(found)), [len(terms) for terms in found])
    return rows, pa.array([term for terms in found for term in terms], pa.string())
