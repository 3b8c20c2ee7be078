"""The tokenizer of a workload that reads texts: how a spec names it, the step that makes tokens, and what they stand
for."""

from typing import Literal, Protocol, cast

from pydantic import model_validator

from cluster.spec import Spec
from jobs.features.bpe import START, Bpe
from jobs.features.pretrained_tokens import PretrainedTokens
from jobs.features.transform import Transform
from jobs.workloads.text_windows import BYTES, encode

TOKENS = "tokens"
"""The column of the tokens of a text, where a step makes them."""


class TokenizerSpec(Spec):
    """Which tokenizer."""

    tokenizer: Literal["bytes", "bpe", "folder"] = "bytes"
    """`bpe` learns `vocabulary_size` tokens on the training texts; they are fewer where these say too little.
    `folder` has those of the model in `tokenizer_folder`."""
    tokenizer_folder: str = ""
    """The path or URI of a Hugging Face folder, of which the tokenizer is taken."""

    @model_validator(mode="after")
    def _has_folder(self) -> "TokenizerSpec":
        if (self.tokenizer == "folder") != bool(self.tokenizer_folder):
            raise ValueError(
                f"tokenizer={self.tokenizer} with tokenizer_folder='{self.tokenizer_folder}': tokenizer=folder takes "
                "the path or URI of a Hugging Face folder there, and the other tokenizers take none"
            )
        return self


class Tokenized(Protocol):
    """A spec that says which tokenizer makes its tokens."""

    @property
    def tokenizer(self) -> Literal["bytes", "bpe", "folder"]:
        """By its name."""

    @property
    def tokenizer_folder(self) -> str:
        """Of `folder`."""

    @property
    def vocabulary_size(self) -> int:
        """Tokens that the model has room for."""


def token_steps(spec: Tokenized, ends_output: str = "") -> tuple[Bpe | PretrainedTokens, ...]:
    """The step that makes the tokens of the column `text`, and where they end; none where they are its bytes."""
    size, folder = spec.vocabulary_size, spec.tokenizer_folder
    if spec.tokenizer == "bytes":
        return ()
    if spec.tokenizer == "bpe":
        return (Bpe(column="text", output=TOKENS, vocabulary_size=size, ends_output=ends_output),)
    return (
        PretrainedTokens(column="text", output=TOKENS, folder=folder, vocabulary_size=size, ends_output=ends_output),
    )


def tokenizer_of(spec: Tokenized, transform: Transform) -> Bpe | PretrainedTokens | None:
    """The fitted step that makes tokens; None where they are bytes."""
    return None if spec.tokenizer == "bytes" else cast(Bpe | PretrainedTokens, transform.step(TOKENS))


def encoded(spec: Tokenized, text: str, transform: Transform) -> list[int]:
    """The tokens of a document's beginning, `START` before them."""
    tokenizer = tokenizer_of(spec, transform)
    return [START, *tokenizer.encoded([text])[0]] if tokenizer else encode(text)


def pieces_of(spec: Tokenized, transform: Transform) -> tuple[bytes, ...]:
    """The bytes of each token that exists."""
    tokenizer = tokenizer_of(spec, transform)
    return tokenizer.pieces if tokenizer else BYTES


def ends_of(spec: Tokenized, transform: Transform) -> frozenset[int]:
    """The tokens after which a text is over; none where every text goes on as long as it is asked to."""
    tokenizer = tokenizer_of(spec, transform)
    return tokenizer.ends if isinstance(tokenizer, PretrainedTokens) else frozenset()
