"""export: a published version of `language`, `text` or `tagging` -> a folder that Hugging Face's `transformers` loads.

    python -m jobs.export jobs/specs/language.yaml FOLDER
    python -m jobs.export STORAGE/models/language/VERSION FOLDER

Of a spec it takes the version that `serving.version` names, the champion unless told otherwise.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cluster.command import run as run_command
from cluster.errors import SpecError, StorageError
from cluster.registry import Registry
from cluster.storage import Storage
from jobs import hugging_face_folder, version
from jobs.features.pretrained_tokens import PretrainedTokens
from jobs.hugging_face_tokenizer import TOKENIZER, TOKENIZER_CONFIG, tokenizer_config, tokenizer_json
from jobs.int8 import Int8Linear
from jobs.spec import load_ring
from jobs.version import Version
from jobs.workloads import classification
from jobs.workloads.language import LanguageSpec
from jobs.workloads.tagging import TaggingSpec
from jobs.workloads.text import TextSpec
from jobs.workloads.tokenizer import tokenizer_of

ENCODERS = TextSpec | TaggingSpec


@dataclass(frozen=True)
class Source:
    """Which version is exported."""

    registry: Registry
    version: str


def source_of(given: str, overrides: Sequence[str]) -> Source:
    """The version that a spec file, or the path or URI of a version's folder, stands for.

    Raises:
        SpecError: it is neither.
        RegistryError: there is no such version.
    """
    if given.endswith((".yaml", ".yml")):
        spec = load_ring(given, overrides)
        registry = Registry(Storage(spec.storage), spec.name)
        return Source(registry, registry.resolve(spec.serving.version))
    match given.rstrip("/").rsplit("/", 3):
        case [storage, "models", name, version] if not overrides:
            registry = Registry(Storage(storage), name)
            return Source(registry, registry.resolve(version))
    raise SpecError(
        f"'{' '.join([given, *overrides])}' names no version; give a spec file with overrides, such as "
        "jobs/specs/language.yaml serving.version=NAME, or the folder of a version: STORAGE/models/NAME/VERSION"
    )


def export(source: Source, target: str) -> str:
    """Write the version into the new folder `target`, a path or URI; returns a line that says what was written.

    Raises:
        SpecError: nothing in transformers has the form of this model.
        StorageError: the folder is there already, or cannot be written.
    """
    storage, name = _parted(target)
    if storage.exists(name):
        raise StorageError(f"'{target}' is there already; give a new folder, or remove it")
    with source.registry.open(source.version) as folder:
        content = version.read(folder)
    spec = _exportable(content, source)
    made_of = {"model": source.registry.name, "version": source.version}
    with TemporaryDirectory() as scratch:
        tokens = tokenizer_of(spec, content.transform)
        kept = tokens if isinstance(tokens, PretrainedTokens) else None
        if isinstance(spec, ENCODERS):
            labels = classification.labels(content.transform)
            hugging_face_folder.write_encoder(Path(scratch), spec, labels, content.model, kept)
        else:
            hugging_face_folder.write(Path(scratch), spec, content.model, kept)
        (Path(scratch) / TOKENIZER).write_text(tokenizer_json(spec, content.transform))
        template = content.spec.serving.generation.chat_template if isinstance(spec, LanguageSpec) else None
        (Path(scratch) / TOKENIZER_CONFIG).write_text(tokenizer_config(spec, content.transform, template))
        storage.publish(Path(scratch), name, {"exported": made_of})
    num_weights = sum(weight.numel() for weight in content.model.parameters())
    return f"export: version {source.version} of '{source.registry.name}', {num_weights:,} weights -> {target}"


def _parted(target: str) -> tuple[Storage, str]:
    """The storage above a folder, and its name there."""
    if "://" not in target:
        path = Path(target).expanduser().absolute()
        return Storage(str(path.parent)), path.name
    parent, _, name = target.rstrip("/").rpartition("/")
    return Storage(parent), name


def _exportable(content: Version, source: Source) -> LanguageSpec | TextSpec | TaggingSpec:
    told = f"version {source.version} of '{source.registry.name}'"
    spec = content.spec.workload
    is_decoder = isinstance(spec, LanguageSpec) and spec.has_heads
    if not is_decoder and not isinstance(spec, ENCODERS):
        form = spec.architecture if isinstance(spec, LanguageSpec) else spec.kind
        raise SpecError(
            f"{told} is a {form} model, of which transformers has no form; only the transformers of language, "
            "text and tagging can be exported"
        )
    assert isinstance(spec, LanguageSpec | ENCODERS)
    if any(isinstance(module, Int8Linear) for module in content.model.modules()):
        raise SpecError(f"{told} computes in int8, which transformers would not; export the version it was made of")
    return spec


def main(arguments: Sequence[str]) -> int:
    """Export from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", metavar="SPEC|VERSION", help="a spec file, or the folder of a version")
    parser.add_argument("folder", metavar="FOLDER", help="a path or URI that is not there yet")
    parser.add_argument("overrides", metavar="key.path=value", nargs="*", help="replaces one value of the spec")
    given = parser.parse_intermixed_args(arguments)
    print(export(source_of(given.source, given.overrides), given.folder))
    return 0


if __name__ == "__main__":
    run_command(main)
