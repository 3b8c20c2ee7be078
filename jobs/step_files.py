"""What steps need besides rows: the tokenizers of Hugging Face folders, read once and kept in the fitted transform."""

import hashlib
import json
from typing import Any

from cluster.errors import DataError
from cluster.storage import Storage
from jobs.features.pretrained_tokens import PretrainedTokens
from jobs.features.step import Step
from jobs.features.transform import Transform

TOKENIZER, CONFIG = "tokenizer.json", "config.json"


def with_files(transform: Transform) -> Transform:
    """The transform whose steps have what they need besides rows.

    Raises:
        DataError: a file is missing or not of the kind that is read.
    """
    return Transform(tuple(map(_with_file, transform.steps)), transform.lookups)


def file_digests(transform: Transform) -> dict[str, str]:
    """What tells the files that steps need from others, by the folder's name.

    Raises:
        DataError: a file is missing.
    """
    digests = {}
    for step in transform.steps:
        if isinstance(step, PretrainedTokens):
            both = b"\0".join(_read(step.folder, name) for name in (TOKENIZER, CONFIG))
            digests[step.folder] = hashlib.sha256(both).hexdigest()[:12]
    return digests


def _with_file(step: Step) -> Step:
    if not isinstance(step, PretrainedTokens):
        return step
    config = _config(step.folder)
    ends = config.get("eos_token_id")
    ends = ends if isinstance(ends, list) else [ends] if ends is not None else []
    begin = config.get("bos_token_id")
    if begin is None and not ends:
        raise DataError(
            f"{step.folder}/{CONFIG} names no token that begins a document, nor one that ends it: give it bos_token_id "
            "or eos_token_id"
        )
    return step.with_tokenizer(_read(step.folder, TOKENIZER).decode(), ends[0] if begin is None else begin, ends)


def _config(folder: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(_read(folder, CONFIG))
    except ValueError as error:
        raise DataError(f"{folder}/{CONFIG} cannot be read: {error}. Fetch the folder again") from None
    return found


def _read(folder: str, name: str) -> bytes:
    storage = Storage(folder)
    if not storage.exists(name):
        raise DataError(
            f"{folder} has no {name}; give the path or URI of a Hugging Face folder, with {CONFIG} and {TOKENIZER}"
        )
    return storage.read(name)
