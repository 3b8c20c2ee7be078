"""Weights that are there already: of a version, a checkpoint or a Hugging Face folder, by our names."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from torch import Tensor, nn

from cluster.errors import SpecError
from cluster.registry import Registry
from cluster.storage import Storage
from jobs import version
from jobs.features.pretrained_tokens import PretrainedTokens
from jobs.features.transform import Transform
from jobs.hugging_face_folder import CONFIG, HuggingFaceFolder, renumbered
from jobs.hugging_face_tokenizer import TOKENIZER, tokenizer_json
from jobs.parallel.checkpoint import PREFIX, Checkpoints
from jobs.spec import RingSpec, StartSpec
from jobs.version import Version
from jobs.weight_names import own_weights
from jobs.workloads.language import LanguageSpec
from jobs.workloads.reading import ReadingSpec
from jobs.workloads.tokenizer import pieces_of

Shapes = dict[str, tuple[int, ...]]
EMBEDDING = "embedding.token.weight"
BY_TOKEN = frozenset({"vocabulary_size", "tie_embeddings"})
"""Keys of a decoder that nothing but its embedding and its head depends on."""


class Start(Protocol):
    """Weights that are there already, by our names."""

    def line(self) -> str:
        """Which these are, in a few words."""

    def key(self) -> str:
        """What tells them from others."""

    def settled(self, given: StartSpec) -> StartSpec:
        """The section of the spec that means the same wherever and whenever it is read."""

    def check(self, spec: RingSpec, transform: Transform, left_out: frozenset[str]) -> str:
        """Raise SpecError where the weights mean something else than the model's; returns what is to be minded."""

    def shapes(self, model: nn.Module) -> Shapes:
        """The shape of every weight; what this model has no name for keeps its own."""

    def weights(self, names: list[str], transform: Transform) -> dict[str, Tensor]:
        """These weights, for tokens that are numbered as the transform does."""


@dataclass(frozen=True)
class FromVersion:
    """A published version."""

    registry: Registry
    given: str
    """Its name, or an alias."""
    version: str
    is_own: bool
    """Whether it is of the model that is trained."""

    def line(self) -> str:
        """Its name."""
        return f"version {self.version} of '{self.registry.name}'"

    def key(self) -> str:
        """Its name; of an own alias that, since each run moves it: else a run would be the reason for the next one."""
        return self.given if self.is_own else self.version

    def settled(self, given: StartSpec) -> StartSpec:
        """By its name."""
        return given.model_copy(update={"model": self.registry.name, "version": self.version})

    def check(self, spec: RingSpec, transform: Transform, left_out: frozenset[str]) -> str:
        """See `Start`: tokens must be the same ones; of other steps it is said where they are not."""
        given, wanted = self._content.spec.workload, spec.workload
        if given.kind != wanted.kind:
            raise SpecError(f"train.start: {self.line()} is a {given.kind} model, workload.kind={wanted.kind}")
        if isinstance(given, LanguageSpec) and isinstance(wanted, LanguageSpec):
            is_same = pieces_of(given, self._content.transform) == pieces_of(wanted, transform)
            if not is_same and EMBEDDING not in left_out:
                raise SpecError(
                    f"train.start: {self.line()} reads other tokens than those that were fitted for this spec, so its "
                    'embedding would mean nothing; leave it out: train.start.leave_out=["embedding.*", "head.output.*"]'
                )
            return ""
        if self._content.transform.alike(transform):
            return ""
        return f"{self.line()} was fitted on other rows, where the number of a category may mean another one"

    def shapes(self, model: nn.Module) -> Shapes:
        """See `Start`."""
        return {name: tuple(weight.shape) for name, weight in own_weights(self._content.model)}

    def weights(self, names: list[str], transform: Transform) -> dict[str, Tensor]:
        """See `Start`."""
        return dict(own_weights(self._content.model))

    @cached_property
    def _content(self) -> Version:
        with self.registry.open(self.version) as folder:
            return version.read(folder)


@dataclass(frozen=True)
class FromCheckpoint:
    """A checkpoint of a run in the same storage: the averages where it keeps them."""

    checkpoints: Checkpoints
    step: int

    @classmethod
    def at(cls, storage: Storage, path: str) -> "FromCheckpoint":
        """The one in a folder `step-...`, or the best one of a run's folder.

        Raises:
            SpecError: there is none.
        """
        folder, _, last = path.rstrip("/").rpartition("/")
        is_step = last.startswith(PREFIX)
        checkpoints = Checkpoints(storage, folder if is_step else path.rstrip("/"))
        steps = checkpoints.steps()
        if is_step:
            steps = [step for step in steps if checkpoints.at(step) == path.rstrip("/")]
        if not steps:
            raise SpecError(
                f"train.start.checkpoint={path}: there is no checkpoint in '{storage.uri}' by that name; give the "
                f"folder of a run, checkpoints/NAME/KEY, or of one of its steps, checkpoints/NAME/KEY/{PREFIX}00000480"
            )
        best = checkpoints.progress(steps[-1]).best_step
        return cls(checkpoints, best if not is_step and best in steps else steps[-1])

    def line(self) -> str:
        """Its folder."""
        return self.checkpoints.at(self.step)

    def key(self) -> str:
        """Its folder."""
        return self.line()

    def settled(self, given: StartSpec) -> StartSpec:
        """By its step."""
        return given.model_copy(update={"checkpoint": self.line()})

    def check(self, spec: RingSpec, transform: Transform, left_out: frozenset[str]) -> str:
        """See `Start`: a checkpoint does not say what it was fitted on."""
        return f"{self.line()} has to be of the same prepared rows, else the numbers of tokens or categories differ"

    def shapes(self, model: nn.Module) -> Shapes:
        """See `Start`."""
        return self.checkpoints.shapes(self.step)

    def weights(self, names: list[str], transform: Transform) -> dict[str, Tensor]:
        """See `Start`."""
        return self.checkpoints.read_weights(self.step, names)


@dataclass(frozen=True)
class FromFolder:
    """A Hugging Face folder, at a path or URI that every worker reaches."""

    uri: str

    @property
    def _storage(self) -> Storage:
        return Storage(self.uri)

    @cached_property
    def _local(self) -> tuple[HuggingFaceFolder, TemporaryDirectory[str] | None]:
        """The folder on this machine; a copy stays as long as this object."""
        storage = self._storage
        if storage.is_local:
            return HuggingFaceFolder(Path(storage.path("")), self.uri), None
        scratch = TemporaryDirectory()
        storage.download("", Path(scratch.name))
        return HuggingFaceFolder(Path(scratch.name), self.uri), scratch

    def line(self) -> str:
        """Its path or URI."""
        return self.uri

    def key(self) -> str:
        """A digest of path, bytes and time of change of its files."""
        root, files = self._storage.path(""), self._storage.files("")
        if not files:
            raise SpecError(f"train.start.folder={self.uri} does not exist or is empty; give a folder with {CONFIG}")
        told = [[str(file.path).removeprefix(root), int(file.size), int(file.mtime_ns or 0)] for file in files]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]

    def settled(self, given: StartSpec) -> StartSpec:
        """By its absolute path: workers have other working folders."""
        return given.model_copy(update={"folder": self._storage.uri})

    def check(self, spec: RingSpec, transform: Transform, left_out: frozenset[str]) -> str:
        """See `Start`."""
        workload = spec.workload
        is_decoder = isinstance(workload, LanguageSpec) and workload.has_heads
        if not is_decoder and not isinstance(workload, ReadingSpec):
            form = workload.architecture if isinstance(workload, LanguageSpec) else workload.kind
            raise SpecError(
                f"train.start.folder={self.uri}: Hugging Face folders are read for the transformers of language, "
                f"text and tagging, this model is {form}; give a version or a checkpoint"
            )
        assert isinstance(workload, LanguageSpec | ReadingSpec)
        self._local[0].check_fits(workload, BY_TOKEN if EMBEDDING in left_out else frozenset())
        if EMBEDDING in left_out or self._local[0].text_of(TOKENIZER) == tokenizer_json(workload, transform):
            return ""
        return (
            f"{self.uri} has learned the tokens of its own tokenizer; here its vectors stand for ours, by number. "
            f"With workload.tokenizer=folder workload.tokenizer_folder={self.uri} its tokenizer is taken, too"
        )

    def shapes(self, model: nn.Module) -> Shapes:
        """See `Start`."""
        folder = self._local[0]
        ours = {folder.their_name(name): name for name, _ in own_weights(model)}
        return {ours.get(name, name): shape for name, shape in folder.shapes().items()}

    def weights(self, names: list[str], transform: Transform) -> dict[str, Tensor]:
        """See `Start`."""
        found = self._local[0].weights(names)
        kept = [step for step in transform.steps if isinstance(step, PretrainedTokens)]
        return renumbered(found, kept[-1].begin) if kept else found
