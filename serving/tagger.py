"""Tagger: a loaded version of the tagging workload, ready to say what each word of a text is."""

from collections.abc import Sequence

import pyarrow as pa
import torch
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel

from cluster.errors import RegistryError
from jobs.version import Version
from jobs.workloads import classification
from jobs.workloads.reading import READ, ReadingSpec
from jobs.workloads.tagging import PLACE, PREDICTED, PROBABILITIES, answered
from serving.problem import fault
from serving.published import TOLERANCE, Published

WAY_OUT = "Serve another version, or train this one again with the code that runs here."


class TaggedWord(BaseModel):
    """What the model says of a word."""

    word: str
    tag: str
    """The most likely one."""
    probability: float
    """Of that tag."""


class Tagger(Published):
    """Answers of one version."""

    def __init__(self, version: str, created_at: str, content: Version) -> None:
        super().__init__(version, created_at, content)
        assert isinstance(content.spec.workload, ReadingSpec)
        self._context_length = content.spec.workload.context_length
        self._transform = content.transform.only([READ, PLACE])
        self.tags = classification.labels(content.transform)

    @property
    def examples(self) -> list[str]:
        """The golden texts."""
        texts: list[str] = self._content.golden.column("text").to_pylist()
        return texts

    def tag(self, texts: Sequence[str]) -> list[list[TaggedWord]]:
        """What the model says of each word of each text.

        Raises:
            RequestValidationError: a text is longer than the model reads.
        """
        rows = self._transform.apply(pa.table({"text": pa.array(texts, pa.string())}))
        places = rows.column(PLACE).to_pylist()
        too_long = [self._too_long(number, place) for number, place in enumerate(places) if 0 in place]
        if too_long:
            raise RequestValidationError(too_long)
        with torch.inference_mode():
            answers = answered(self._content.model, self.tags, rows)
            return [
                [
                    TaggedWord(word=word, tag=tag, probability=share)
                    for word, tag, share in zip(text.split(), *answer, strict=True)
                ]
                for text, answer in zip(texts, answers, strict=True)
            ]

    def _too_long(self, number: int, places: Sequence[int]) -> dict[str, object]:
        rule = (
            f"has {len(places)} words, of which the first {places.index(0)} are what the model reads, "
            f"{self._context_length} tokens; send it in parts"
        )
        return fault(("body", "texts", number), rule)

    def check_golden(self) -> None:
        """Raise RegistryError unless each golden text, alone and among the others, is answered as in training.

        Only of a word of which no tag is likelier than all others together may the tag be another one.
        """
        texts = self.examples
        if not texts:
            return
        together, alone = self.tag(texts), [self.tag([text])[0] for text in texts]
        wanted = self._content.golden.to_pylist()
        for given in (together, alone):
            for words, row in zip(given, wanted, strict=True):
                for word, tag, share in zip(words, row[PREDICTED], row[PROBABILITIES], strict=True):
                    is_other = word.tag != tag and share > 0.5 + TOLERANCE
                    if is_other or not abs(word.probability - share) <= TOLERANCE:  # so that NaN is refused, too
                        raise RegistryError(
                            f"version {self.version} answers '{word.word}' of the golden text {row['id']} unlike it "
                            f"did in training: {word.tag} with {word.probability:.6g}, was {tag} with {share:.6g}, "
                            f"which may differ by {TOLERANCE:g}. {WAY_OUT}"
                        )
