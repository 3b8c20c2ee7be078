"""Text as the tokens of a tokenizer that was trained elsewhere: the `tokenizer.json` of a Hugging Face folder."""

import json
import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Literal, Self

import pyarrow as pa
from pydantic import Field
from tokenizers import Tokenizer

from cluster.errors import DataError
from jobs.features.bpe import NUM_TOKENS, SIGNS, START, ends_of_tokens
from jobs.features.step import Step, put_lists
from jobs.features.values import ColumnKind

_BYTE_OF = {sign: byte for byte, sign in enumerate(SIGNS)}


class PretrainedTokens(Step):
    """Numbers of tokens, whole and in int32; a missing text has none.

    The tokenizer is a byte-level BPE (Radford et al., 2019), as those of Qwen and of Llama 3 are. Its numbers are kept,
    but that the token which begins a document and number 256 change places: so `START` begins a document here, too.
    """

    kind: Literal["pretrained_tokens"] = "pretrained_tokens"
    column: str
    output: str
    folder: str
    """The path or URI of the Hugging Face folder; its tokenizer is kept, so that it is needed once."""
    vocabulary_size: int = Field(ge=NUM_TOKENS)
    """Numbers that there may be at most."""
    ends_output: str = ""
    """As of `bpe`."""

    @property
    def learns(self) -> bool:
        """Nothing from rows: `with_tokenizer` gives it all."""
        return False

    @property
    def reads(self) -> dict[str, ColumnKind]:
        """The text."""
        return {self.column: "text"}

    @property
    def makes(self) -> dict[str, ColumnKind]:
        """The tokens, and where they end."""
        return dict.fromkeys(filter(None, (self.output, self.ends_output)), "numbers")

    def with_tokenizer(self, tokenizer: str, begin: int, ends: Iterable[int]) -> Self:
        """The step with the content of a `tokenizer.json`.

        Args:
            begin: the number, there, of the token that begins a document.
            ends: the numbers, there, of tokens after which a text is over.

        Raises:
            DataError: it is no byte-level BPE, or lacks one of these.
        """
        wrong = _wrong(tokenizer)
        if wrong:
            raise DataError(
                f"{self.folder}/tokenizer.json {wrong}; only byte-level BPE is read, as in folders of Qwen and Llama 3"
            )
        columns = {
            "tokenizer": pa.array([tokenizer], pa.large_string()),
            "begin": pa.array([begin], pa.int32()),
            "ends": pa.array([sorted(ends)], pa.list_(pa.int32())),
        }
        given = self.with_state(pa.table(columns))
        unknown = [number for number in (begin, *ends) if given._tokenizer.id_to_token(number) is None]
        if unknown:
            raise DataError(
                f"{self.folder}: config.json names the token {unknown[0]} as one that begins or ends a text, which "
                "tokenizer.json lacks; fetch the folder again"
            )
        if len(given.pieces) > self.vocabulary_size:
            raise DataError(
                f"{self.folder}/tokenizer.json has tokens up to number {len(given.pieces) - 1}, more than "
                f"vocabulary_size={self.vocabulary_size} has room for; give at least {len(given.pieces)}"
            )
        return given

    def apply(self, table: pa.Table) -> pa.Table:
        """Lists of int32."""
        texts = table.column(self.column).to_pylist()
        table = put_lists(table, self.output, self.encoded(texts))
        return put_lists(table, self.ends_output, ends_of_tokens(self._tokenizer, texts)) if self.ends_output else table

    def apply_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A list of whole numbers each."""
        texts = [row[self.column]]
        found = {self.output: self.encoded(texts)[0]}
        return found | ({self.ends_output: ends_of_tokens(self._tokenizer, texts)[0]} if self.ends_output else {})

    def told(self) -> str:
        """How many tokens there are."""
        return f"{self.column}: {self._tokenizer.get_vocab_size():,} tokens of {self.folder}"

    def encoded(self, texts: Iterable[str | None]) -> list[list[int]]:
        """The tokens of each text, by our numbers."""
        found = self._tokenizer.encode_batch_fast([text or "" for text in texts], add_special_tokens=False)
        swapped = self._swapped
        return [[swapped.get(number, number) for number in encoding.ids] for encoding in found]

    @cached_property
    def pieces(self) -> tuple[bytes, ...]:
        """The bytes of each token, by our numbers; none of `START` and of numbers that no token has."""
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        special = {added["content"] for added in json.loads(self.tokenizer).get("added_tokens", [])}
        pieces = [b""] * (max(*vocabulary.values(), START) + 1)
        for name, number in vocabulary.items():
            pieces[number] = name.encode() if name in special else bytes(_BYTE_OF[sign] for sign in name)
        pieces[START], pieces[self.begin] = pieces[self.begin], pieces[START]
        pieces[START] = b""
        return tuple(pieces)

    @property
    def tokenizer(self) -> str:
        """The content of `tokenizer.json`."""
        return str(self.state().column("tokenizer")[0].as_py())

    @property
    def begin(self) -> int:
        """The number, there, of the token that begins a document."""
        return int(self.state().column("begin")[0].as_py())

    @property
    def begin_name(self) -> str:
        """What the token that begins a document is called."""
        return str(self._tokenizer.id_to_token(self.begin))

    @property
    def their_ends(self) -> list[int]:
        """The tokens after which a text is over, by their numbers there."""
        numbers: list[int] = self.state().column("ends")[0].as_py()
        return numbers

    @property
    def ends(self) -> frozenset[int]:
        """The same by our numbers."""
        return frozenset(self._swapped.get(number, number) for number in self.their_ends)

    @cached_property
    def _swapped(self) -> dict[int, int]:
        return {self.begin: START, START: self.begin}

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # threads do not survive a fork
        tokenizer = Tokenizer.from_str(self.tokenizer)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer


def _wrong(tokenizer: str) -> str:
    """Why a `tokenizer.json` is not one that is read; empty where it is."""
    try:
        content = json.loads(tokenizer)
        kind, decoder = content["model"]["type"], json.dumps(content.get("decoder"))
        names = list(content["model"]["vocab"])
        Tokenizer.from_str(tokenizer)
    except Exception as error:  # the library raises no kind of its own
        return f"cannot be read: {error}"
    if kind != "BPE" or '"ByteLevel"' not in decoder:
        return f"is a {kind} whose decoder is {decoder}"
    others = [name for name in names if not set(name) <= _BYTE_OF.keys()]
    special = {added["content"] for added in content.get("added_tokens", [])}
    odd = next((name for name in others if name not in special), None)
    return f"has the token {odd!r}, which is no bytes" if odd is not None else ""
