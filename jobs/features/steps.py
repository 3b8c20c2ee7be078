"""The steps that a spec may name, by their `kind`."""

import json
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from jobs.features.bag_of_words import BagOfWords
from jobs.features.bins import Bins
from jobs.features.bpe import Bpe
from jobs.features.class_weight import ClassWeight
from jobs.features.compare import Compare
from jobs.features.complete import Complete
from jobs.features.duplicates import Duplicates
from jobs.features.first_tokens import FirstTokens
from jobs.features.hashed_words import HashedWords
from jobs.features.hashing import Hashing
from jobs.features.image import Image
from jobs.features.impute import Impute
from jobs.features.isolation_forest import IsolationForest
from jobs.features.lag import Lag
from jobs.features.logarithm import Logarithm
from jobs.features.near_duplicates import NearDuplicates
from jobs.features.one_hot import OneHot
from jobs.features.ordinal import Ordinal
from jobs.features.outliers import Outliers
from jobs.features.pretrained_tokens import PretrainedTokens
from jobs.features.rolling import Rolling
from jobs.features.scaling import Scaling
from jobs.features.smote import Smote
from jobs.features.step import Step
from jobs.features.target_encoding import TargetEncoding
from jobs.features.vector import Vector
from jobs.features.vocabulary import Vocabulary
from jobs.features.word_places import WordPlaces

StepSpec = Annotated[
    BagOfWords
    | Bins
    | Bpe
    | ClassWeight
    | Compare
    | Complete
    | Duplicates
    | FirstTokens
    | HashedWords
    | Hashing
    | Image
    | Impute
    | IsolationForest
    | Lag
    | Logarithm
    | NearDuplicates
    | OneHot
    | Ordinal
    | Outliers
    | PretrainedTokens
    | Rolling
    | Scaling
    | Smote
    | TargetEncoding
    | Vector
    | Vocabulary
    | WordPlaces,
    Field(discriminator="kind"),
]

_ADAPTER: TypeAdapter[Step] = TypeAdapter(StepSpec)


def step_of(settings: dict[str, Any]) -> Step:
    """The unfitted step of what `Step.settings` gave."""
    return _ADAPTER.validate_json(json.dumps(settings))
