"""The encoders of Hugging Face's `transformers` that ours holds exactly, BERT's: configuration and names as ours.

Pure: of plain data alone. `jobs.hugging_face_folder` reads and writes the files.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from cluster import spec as specs
from cluster.errors import DataError, SpecError
from jobs.hugging_face import Only, check_keys
from jobs.workloads.encoder import NUM_TOKEN_TYPES, EncoderSpec
from jobs.workloads.tagging import TaggingSpec
from jobs.workloads.text import TextSpec

MODEL_TYPE = "bert"
ARCHITECTURES = {"text": "BertForSequenceClassification", "tagging": "BertForTokenClassification"}
"""By the kind of workload."""
KEYS = {
    "num_hidden_layers": "num_layers",
    "hidden_size": "hidden_dim",
    "num_attention_heads": "num_heads",
    "intermediate_size": "feed_forward_dim",
    "hidden_act": "activation",
    "layer_norm_eps": "norm_epsilon",
    "vocab_size": "vocabulary_size",
    "max_position_embeddings": "num_positions",
}
"""Theirs -> ours, where the value is the same."""
DEFAULTS = {"hidden_act": "gelu", "layer_norm_eps": 1e-12}
"""What a key means that is left out."""
ONLY: Only = {
    "position_embedding_type": ("absolute", "our positions are vectors of their own"),
    "type_vocab_size": (NUM_TOKEN_TYPES, "ours has the two types of BERT"),
    "is_decoder": (False, "ours reads a text from both sides"),
    "add_cross_attention": (False, "ours reads one text"),
    "is_encoder_decoder": (False, "ours is an encoder alone"),
    "quantization_config": (None, "weights have to be plain floats"),
}
"""Keys that change what a model computes, with the only value that ours has, and why."""
IGNORED = frozenset(
    {
        *("model_type", "architectures", "transformers_version", "_name_or_path", "torch_dtype", "dtype"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "use_cache", "gradient_checkpointing"),
        *("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "tie_word_embeddings"),
        *("id2label", "label2id", "num_labels", "return_dict", "output_hidden_states", "output_attentions"),
        *("chunk_size_feed_forward", "cross_attention_hidden_size", "problem_type"),
    }
)
"""Keys that change nothing of what a trained model computes for a given text."""
LINKS = {
    "embedding.token": "bert.embeddings.word_embeddings",
    "embedding.position": "bert.embeddings.position_embeddings",
    "embedding.token_type": "bert.embeddings.token_type_embeddings",
    "embedding.norm": "bert.embeddings.LayerNorm",
    "head.pooler": "bert.pooler.dense",
    "head.output": "classifier",
}
LAYER_PARTS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attended": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "feed_forward_norm": "output.LayerNorm",
}
OTHERS = re.compile(r"^cls\.|\.position_ids$")
"""Tensors that ours has no use for: the heads of pre-training, and numbers that follow from their place."""


def spec_of(config: Mapping[str, Any], source: str) -> EncoderSpec:
    """The model that a `config.json` describes.

    Raises:
        DataError: ours cannot hold it exactly; the message names the key and the reason.
    """
    check_keys(config, ONLY, KEYS.keys() | IGNORED, source)
    given = DEFAULTS | {key: value for key, value in config.items() if value is not None}
    missing = [key for key in KEYS if key not in given]
    if missing:
        raise DataError(f"{source}: {', '.join(missing)} missing; without it the model is not known")
    try:
        return specs.check(
            EncoderSpec, {ours: given[theirs] for theirs, ours in KEYS.items()}, f"{source}, in our words"
        )
    except SpecError as error:
        raise DataError(str(error)) from None


def config_of(spec: TextSpec | TaggingSpec, labels: Sequence[str]) -> dict[str, Any]:
    """The `config.json` of our model, whose classes have these labels."""
    return {
        "model_type": MODEL_TYPE,
        "architectures": [ARCHITECTURES[spec.kind]],
        **{theirs: getattr(spec, ours) for theirs, ours in KEYS.items()},
        "type_vocab_size": NUM_TOKEN_TYPES,
        "position_embedding_type": "absolute",
        "hidden_dropout_prob": spec.dropout,
        "attention_probs_dropout_prob": 0.0,
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
        "pad_token_id": None,
        "torch_dtype": "float32",
    }


def their_name(name: str) -> str:
    """What a weight of ours is called there: `layer0.query.weight` -> `bert.encoder.layer.0.attention.self...`."""
    part, _, leaf = name.rpartition(".")
    if part in LINKS:
        return f"{LINKS[part]}.{leaf}"
    layer, _, inside = part.partition(".")
    return f"bert.encoder.layer.{layer.removeprefix('layer')}.{LAYER_PARTS[inside]}.{leaf}"


def plain_name(name: str) -> str | None:
    """A name of theirs as newer folders of classifiers have it; None of a tensor that is not needed.

    Folders without a head leave out `bert.`, old ones call the weights of a norm gamma and beta.
    """
    if OTHERS.search(name):
        return None
    whole = name if name.startswith(("bert.", "classifier.")) else f"bert.{name}"
    return whole.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def differences(wanted: EncoderSpec, given: EncoderSpec) -> list[str]:
    """The overrides that would make a given model the wanted one: `workload.hidden_dim=64`."""
    keys = [key for key in KEYS.values() if getattr(wanted, key) != getattr(given, key)]
    return [f"workload.{key}={getattr(wanted, key)}" for key in keys]
