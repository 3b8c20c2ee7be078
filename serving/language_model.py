"""LanguageModel: a loaded version of the language workload, ready to go on with texts."""

from collections.abc import Iterator, Sequence

from torch import Tensor

from cluster.errors import RegistryError
from jobs.features.bpe import START
from jobs.version import Version
from jobs.workloads.chain import Chain
from jobs.workloads.language import LanguageSpec, decoder_of
from jobs.workloads.tokenizer import encoded, ends_of, pieces_of
from serving.continuous_batch import ContinuousBatch
from serving.published import TOLERANCE, Published
from serving.sampling import only
from serving.text_stream import TextStream

WAY_OUT = "Serve another version, or train this one again with the code that runs here."


class LanguageModel(Published):
    """Continuations by one version."""

    def __init__(self, version: str, created_at: str, content: Version) -> None:
        assert isinstance(content.model, Chain)
        super().__init__(version, created_at, content)
        workload = content.spec.workload
        assert isinstance(workload, LanguageSpec)
        self._workload = workload
        self._pieces = pieces_of(workload, content.transform)
        self._ends = ends_of(workload, content.transform)
        self._model = content.model

    @property
    def context_length(self) -> int:
        """Tokens of a text that the model reads, the one that begins a document among them."""
        return self._workload.context_length

    @property
    def golden(self) -> list[tuple[str, int]]:
        """Prompts, each with how many tokens of what followed in training are known."""
        return [(row["prompt"], len(row["continuation"])) for row in self._content.golden.to_pylist()]

    def tokens_of(self, text: str) -> list[int]:
        """The beginning of a document as tokens; several threads may ask at the same time."""
        return encoded(self._workload, text, self._content.transform)

    def room_after(self, prompt: Sequence[int]) -> int:
        """How many tokens may follow a prompt; below 1 where it is too long itself."""
        return self.context_length + 1 - len(prompt)

    def stream(self, stops: Sequence[str] = ()) -> TextStream:
        """What turns tokens into text."""
        return TextStream(self._pieces, stops, self._ends)

    def opened(self, max_texts: int) -> ContinuousBatch:
        """The model as any number may ask it, which goes on with so many texts at a time; the caller closes it."""
        return ContinuousBatch(decoder_of(self._workload, self._model, max_texts), self._allowed)

    def check_golden(self) -> None:
        """Raise RegistryError unless each golden prompt goes on as in training, as far as a context reaches."""
        for row in self._content.golden.to_pylist():
            prompt = self.tokens_of(row["prompt"])
            expected = list(zip(row["continuation"], row["log_probabilities"], strict=True))
            for place, (given, (token, wanted)) in enumerate(zip(self._likeliest(prompt), expected, strict=False)):
                if given[0] != token or not abs(given[1] - wanted) <= TOLERANCE:  # so that NaN is refused, too
                    raise RegistryError(
                        f"version {self.version} goes on after {row['prompt']!r} unlike it did in training: token "
                        f"{place + 1} is {given[0]} with log probability {given[1]:.6g}, was {token} with "
                        f"{wanted:.6g}, which may differ by {TOLERANCE:g}. {WAY_OUT}"
                    )

    def _likeliest(self, prompt: Sequence[int]) -> Iterator[tuple[int, float]]:
        """The likeliest token, then the likeliest after that, with their log probabilities; to the end of a context."""
        if self.room_after(prompt) < 1:
            return
        decoder = decoder_of(self._workload, self._model, 1)
        logits = decoder.begin([prompt])
        for left in reversed(range(self.room_after(prompt))):
            token = int(only(logits, len(self._pieces), {START})[0].argmax())
            yield token, float(logits[0].log_softmax(0)[token])
            if left:
                logits = decoder.go_on([token])

    def _allowed(self, logits: Tensor) -> Tensor:
        return only(logits, len(self._pieces), {START} - self._ends)
