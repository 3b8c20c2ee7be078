"""A Hugging Face folder of a decoder or an encoder: `config.json` and the weights in one or several safetensors files.

Files with pickles are never opened: to load one is to run what its author wrote.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cluster.errors import DataError, SpecError
from jobs import hugging_face, hugging_face_encoder
from jobs.features.bpe import START
from jobs.features.pretrained_tokens import PretrainedTokens
from jobs.workloads.encoder import EncoderSpec
from jobs.workloads.language import LanguageSpec
from jobs.workloads.tagging import TaggingSpec
from jobs.workloads.text import TextSpec
from jobs.workloads.transformer import TransformerSpec

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
DTYPES = {"F64", "F32", "F16", "BF16"}
"""As safetensors calls them; all become float32."""
MAX_NAMED = 5
"""Tensors that a message names."""
BY_NUMBER = {"embedding.token.weight", "head.output.weight"}
"""Our weights with a row a token."""


@dataclass(frozen=True)
class HuggingFaceFolder:
    """What lies in a local folder."""

    path: Path
    name: str
    """What the user called it, for messages."""

    @cached_property
    def _config(self) -> dict[str, Any]:
        return _read_json(self.path / CONFIG, self.name)

    @property
    def _is_encoder(self) -> bool:
        return self._config.get("model_type") == hugging_face_encoder.MODEL_TYPE

    @cached_property
    def spec(self) -> TransformerSpec | EncoderSpec:
        """The model that it holds.

        Raises:
            DataError: ours cannot hold it exactly, or there is no configuration.
        """
        read = hugging_face_encoder.spec_of if self._is_encoder else hugging_face.spec_of
        return read(self._config, f"{self.name}/{CONFIG}")

    def their_name(self, name: str) -> str:
        """What a weight of ours is called in such a folder."""
        return hugging_face_encoder.their_name(name) if self._is_encoder else hugging_face.their_name(name)

    def check_fits(self, spec: TransformerSpec | EncoderSpec, except_for: frozenset[str] = frozenset()) -> None:
        """Raise SpecError unless a model of this spec is the very one, `except_for` these keys of it."""
        own = self.spec
        if isinstance(own, TransformerSpec) and isinstance(spec, TransformerSpec):
            changes = hugging_face.differences(own, spec)
        elif isinstance(own, EncoderSpec) and isinstance(spec, EncoderSpec):
            changes = hugging_face_encoder.differences(own, spec)
        else:
            kind = "text or tagging" if self._is_encoder else "language"
            raise SpecError(
                f"{self.name} holds a {self._config['model_type']} model, which is one of workload.kind={kind}; give "
                "another folder"
            )
        changes = [change for change in changes if change.split("=")[0].removeprefix("workload.") not in except_for]
        if changes:
            raise SpecError(f"{self.name} holds a model of another form than workload says. Give {' '.join(changes)}")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every weight, by their names of newer folders; reads the heads of the files alone.

        Raises:
            DataError: there are no safetensors, or one is damaged, missing or not of plain floats.
        """
        found: dict[str, tuple[int, ...]] = {}
        for file, names in self._files.items():
            with _opened(self.path / file, self.name) as tensors:
                for name in names:
                    part = _part(tensors, name, f"{self.name}/{file}")
                    found[self._plain(name) or name] = tuple(part.get_shape())
        return found

    def weights(self, names: list[str]) -> dict[str, Tensor]:
        """The weights that ours are called so, by our names, in float32."""
        ours = {self.their_name(name): name for name in names}
        found: dict[str, Tensor] = {}
        for file, theirs in self._files.items():
            plain = {name: self._plain(name) or name for name in theirs}
            with _opened(self.path / file, self.name) as tensors:
                found |= {
                    ours[known]: tensors.get_tensor(name).float() for name, known in plain.items() if known in ours
                }
        return found

    def text_of(self, file: str) -> str | None:
        """The text of another file of the folder; None where it is not there."""
        path = self.path / file
        return path.read_text(encoding="utf-8") if path.is_file() else None

    @cached_property
    def _files(self) -> dict[str, list[str]]:
        """The names of the tensors in each file."""
        if (self.path / WEIGHTS).is_file():
            with _opened(self.path / WEIGHTS, self.name) as tensors:
                return {WEIGHTS: self._of_weights(tensors.keys())}
        if not (self.path / INDEX).is_file():
            raise DataError(self._without_safetensors())
        files: dict[str, list[str]] = defaultdict(list)
        for name, file in _read_json(self.path / INDEX, self.name).get("weight_map", {}).items():
            if "/" in file or "\\" in file:
                raise DataError(f"{self.name}/{INDEX} names the file '{file}', which does not lie in the folder")
            files[file].append(name)
        return {file: self._of_weights(names) for file, names in files.items()}

    def _of_weights(self, names: list[str]) -> list[str]:
        """Without what follows from the configuration, or is there twice."""
        spec = self.spec
        twice = {"lm_head.weight"} if isinstance(spec, TransformerSpec) and spec.tie_embeddings else set()
        return [name for name in names if self._plain(name) is not None and name not in twice]

    def _plain(self, name: str) -> str | None:
        return hugging_face_encoder.plain_name(name) if self._is_encoder else hugging_face.plain_name(name)

    def _without_safetensors(self) -> str:
        pickles = sorted(path.name for path in self.path.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        found = f"{', '.join(pickles)}, whose pickles can run any code and are not read" if pickles else "no weights"
        return (
            f"{self.name} has neither {WEIGHTS} nor {INDEX}, but {found}. Give a folder with safetensors: "
            "model.save_pretrained(FOLDER) of transformers writes them"
        )


def write(folder: Path, spec: LanguageSpec, model: nn.Module, tokens: PretrainedTokens | None = None) -> None:
    """Write a model into an empty local folder, as one consolidated file of weights.

    Args:
        tokens: the tokenizer, where it is one of another folder.

    Raises:
        SpecError: no model of theirs has this form.
    """
    config: dict[str, Any] = hugging_face.config_of(spec, spec.context_length)
    weights: dict[str, Tensor] = {**dict(model.named_parameters())}
    if tokens:
        config |= {"bos_token_id": tokens.begin, "eos_token_id": tokens.their_ends or None}
        weights = renumbered(weights, tokens.begin)
    _write(folder, config, {hugging_face.their_name(name): weight for name, weight in weights.items()})


def write_encoder(
    folder: Path,
    spec: TextSpec | TaggingSpec,
    labels: Sequence[str],
    model: nn.Module,
    tokens: PretrainedTokens | None = None,
) -> None:
    """The same of an encoder that names one of these labels, of a text or of each word."""
    weights: dict[str, Tensor] = {**dict(model.named_parameters())}
    if tokens:
        weights = renumbered(weights, tokens.begin)
    named = {hugging_face_encoder.their_name(name): weight for name, weight in weights.items()}
    _write(folder, hugging_face_encoder.config_of(spec, labels), named)


def _write(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    (folder / CONFIG).write_text(json.dumps(config, indent=2))
    plain = {name: weight.detach().contiguous() for name, weight in weights.items()}
    save_file(plain, str(folder / WEIGHTS), {"format": "pt"})


def renumbered(weights: Mapping[str, Tensor], begin: int) -> dict[str, Tensor]:
    """Weights by our names, where the tokens `begin` and `START` have changed places: from theirs to ours and back."""
    given = dict(weights)
    for name in BY_NUMBER & given.keys():
        order = torch.arange(len(given[name]))
        order[START], order[begin] = begin, START
        given[name] = given[name].detach()[order]
    return given


def _opened(path: Path, folder: str) -> Any:
    try:
        return safe_open(str(path), "pt")
    except (OSError, SafetensorError) as error:
        raise DataError(f"{folder}/{path.name} cannot be read: {error}. Fetch the folder again") from None


def _part(tensors: Any, name: str, source: str) -> Any:
    try:
        part = tensors.get_slice(name)
    except SafetensorError as error:
        raise DataError(
            f"{source} lacks {name}, which {INDEX} says is there: {error}. Fetch the folder again"
        ) from None
    if part.get_dtype() not in DTYPES:
        known = ", ".join(sorted(DTYPES))
        raise DataError(
            f"{source}: {name} is of {part.get_dtype()}, weights have to be floats of {known}; "
            "give the folder of the model before it was quantised"
        )
    return part


def _read_json(path: Path, folder: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder}/{path.name} cannot be read: {error}. A Hugging Face folder has {CONFIG} beside its weights"
        ) from None
    if not isinstance(found, dict):
        raise DataError(f"{folder}/{path.name} is no JSON object")
    return found
