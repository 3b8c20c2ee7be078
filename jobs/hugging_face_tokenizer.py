"""The tokens of a `language`, `text` or `tagging` model as the `tokenizer.json` that Hugging Face's libraries read."""

import json
from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from jobs.features.bpe import START, spelt
from jobs.features.pretrained_tokens import PretrainedTokens
from jobs.features.transform import Transform
from jobs.workloads.language import LanguageSpec
from jobs.workloads.reading import ReadingSpec
from jobs.workloads.tokenizer import Tokenized, pieces_of, tokenizer_of

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
BEGIN = "<|begin|>"
"""What `START` is called there. A text that spells it out begins a document there, as of any special token."""


def tokenizer_json(spec: Tokenized, transform: Transform) -> str:
    """Makes the numbers of our tokens from a text, the one that begins a document before them, and texts from these.

    One that was taken from a folder goes out as it came in.
    """
    learned = tokenizer_of(spec, transform)
    if isinstance(learned, PretrainedTokens):
        return learned.tokenizer
    names = _names(pieces_of(spec, transform))
    merges = [(names[left], names[right]) for left, right in (learned.merges if learned else ())]
    tokenizer = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, merges))
    tokenizer.add_special_tokens([AddedToken(BEGIN, special=True, normalized=False)])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, START)])
    return str(tokenizer.to_str(pretty=True))


def tokenizer_config(spec: LanguageSpec | ReadingSpec, transform: Transform, chat_template: str | None) -> str:
    """The `tokenizer_config.json` beside it; with a template of conversations where the model goes on with them."""
    learned = tokenizer_of(spec, transform)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": learned.begin_name if isinstance(learned, PretrainedTokens) else BEGIN,
        "model_max_length": spec.context_length,
        "clean_up_tokenization_spaces": False,
        **({"chat_template": chat_template} if chat_template is not None else {}),
    }
    return json.dumps(config, indent=2)


def _names(pieces: Sequence[bytes]) -> list[str]:
    names = [spelt(piece) for piece in pieces]
    names[START] = BEGIN
    return names
