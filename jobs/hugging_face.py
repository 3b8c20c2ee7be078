"""The decoders of Hugging Face's `transformers` that ours holds exactly: their configuration and names as ours.

Pure: of plain data alone. `jobs.hugging_face_folder` reads and writes the files.
"""

from collections.abc import Collection, Mapping
from typing import Any

from cluster import spec as specs
from cluster.errors import DataError, SpecError
from jobs.features.bpe import START
from jobs.workloads.transformer import TransformerSpec

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
"""By `model_type`."""
KEYS = {
    "num_hidden_layers": "num_layers",
    "hidden_size": "hidden_dim",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "head_dim": "head_dim",
    "intermediate_size": "feed_forward_dim",
    "hidden_act": "activation",
    "rms_norm_eps": "norm_epsilon",
    "tie_word_embeddings": "tie_embeddings",
    "vocab_size": "vocabulary_size",
}
"""Theirs -> ours, where the value is the same."""
DEFAULTS = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": False}
"""What a key means that is left out, in all of these models."""
QWEN3_HEAD_DIM = 128
"""Where none is given; in the others it then follows from the other sizes."""
ROPE_KEYS = {
    "factor": "factor",
    "low_freq_factor": "low_frequency_factor",
    "high_freq_factor": "high_frequency_factor",
    "original_max_position_embeddings": "original_context_length",
}
Only = Mapping[str, tuple[Any, str]]
"""Keys that change what a model computes, with the only value that ours has, and why."""
ONLY: Only = {
    "attention_bias": (False, "it puts a bias on the output of attention too"),
    "mlp_bias": (False, "our feed-forward blocks have no biases"),
    "attention_dropout": (0.0, "our attention has no dropout"),
    "use_sliding_window": (False, "our attention sees all of a text"),
    "partial_rotary_factor": (1.0, "positions turn all features of our heads"),
    "is_encoder_decoder": (False, "ours is a decoder alone"),
    "add_cross_attention": (False, "ours is a decoder alone"),
    "quantization_config": (None, "weights have to be plain floats"),
}
"""Keys that change what a model computes, with the only value that ours has, and why."""
IGNORED = frozenset(
    {
        *("model_type", "architectures", "transformers_version", "_name_or_path", "torch_dtype", "dtype"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "use_cache", "pretraining_tp"),
        *("max_position_embeddings", "max_window_layers", "is_decoder", "_attn_implementation_autoset"),
        *("rope_theta", "rope_scaling", "rope_parameters", "sliding_window", "layer_types"),  # looked at by themselves
    }
)
"""Keys that change nothing of what a model computes for a given text."""
LINKS = {"embedding.token": "model.embed_tokens", "head.norm": "model.norm", "head.output": "lm_head"}
LAYER_PARTS = {
    "attention_norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
    "attention.output": "self_attn.o_proj",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.up": "mlp.up_proj",
    "feed_forward.down": "mlp.down_proj",
}
NO_WEIGHTS = ".rotary_emb.inv_freq"
"""The end of a tensor's name in old folders, which follows from the configuration."""


def spec_of(config: Mapping[str, Any], source: str) -> TransformerSpec:
    """The model that a `config.json` describes.

    Args:
        source: where it is from, for messages.

    Raises:
        DataError: ours cannot hold it exactly; the message names the key and the reason.
    """
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        raise DataError(
            f"{source}: model_type={kind} is a form of model that ours does not have; give a folder of one of "
            f"{', '.join(ARCHITECTURES)}"
        )
    check_keys(config, ONLY, KEYS.keys() | IGNORED, source)
    _check_windows(config, source)
    given = DEFAULTS | {key: value for key, value in config.items() if value is not None}
    missing = [key for key in KEYS if key not in given and key not in ("head_dim", "num_key_value_heads")]
    if missing:
        raise DataError(f"{source}: {', '.join(missing)} missing; without it the model is not known")
    tree: dict[str, Any] = {ours: given[theirs] for theirs, ours in KEYS.items() if theirs in given}
    tree.setdefault("num_kv_heads", tree["num_heads"])
    tree |= {"qkv_bias": kind == "qwen2", "qk_norm": kind == "qwen3", **_rope(config, source)}
    if kind == "qwen3":
        tree.setdefault("head_dim", QWEN3_HEAD_DIM)
    if tree.get("head_dim") == tree["hidden_dim"] // tree["num_heads"]:
        del tree["head_dim"]  # ours has it so by itself
    try:
        return specs.check(TransformerSpec, tree, f"{source}, in our words")
    except SpecError as error:
        raise DataError(str(error)) from None


def config_of(spec: TransformerSpec, context_length: int) -> dict[str, Any]:
    """The `config.json` of our model.

    Raises:
        SpecError: no model of theirs has this form.
    """
    if spec.qk_norm and spec.qkv_bias:
        raise SpecError(
            "workload.qkv_bias=true with workload.qk_norm=true: no published form of decoder has both, so transformers "
            "could not load it; a model with one of them can be exported"
        )
    kind = "qwen3" if spec.qk_norm else "qwen2" if spec.qkv_bias else "llama"
    config = {theirs: getattr(spec, ours) for theirs, ours in KEYS.items()}
    scaling: dict[str, Any] = {}
    if spec.rope_scaling:
        scaling = {"rope_type": "llama3"} | {
            theirs: getattr(spec.rope_scaling, ours) for theirs, ours in ROPE_KEYS.items()
        }
    return {
        "model_type": kind,
        "architectures": [ARCHITECTURES[kind]],
        **config,
        "head_dim": spec.features_a_head,
        "rope_theta": spec.rope_theta,
        "rope_scaling": scaling or None,
        "max_position_embeddings": context_length,
        "bos_token_id": START,
        "eos_token_id": None,
        "torch_dtype": "float32",
    }


def their_name(name: str) -> str:
    """What a weight of ours is called there: `layer0.attention.query.weight` -> `model.layers.0.self_attn...`."""
    part, _, leaf = name.rpartition(".")
    if part in LINKS:
        return f"{LINKS[part]}.{leaf}"
    layer, _, inside = part.partition(".")
    return f"model.layers.{layer.removeprefix('layer')}.{LAYER_PARTS[inside]}.{leaf}"


def plain_name(name: str) -> str | None:
    """A name of theirs as newer folders have it; None of a tensor that is not needed."""
    return None if name.endswith(NO_WEIGHTS) else name


def differences(wanted: TransformerSpec, given: TransformerSpec) -> list[str]:
    """The overrides that would make a given model the wanted one: `workload.hidden_dim=64`."""
    changes = []
    for key in (*KEYS.values(), "qkv_bias", "qk_norm", "rope_theta", "rope_scaling"):
        name = "features_a_head" if key == "head_dim" else key
        value = getattr(wanted, name)
        if value != getattr(given, name):
            shown = value.model_dump_json() if isinstance(value, specs.Spec) else str(value)
            changes.append(f"workload.{key}={shown.lower() if isinstance(value, bool) else shown}")
    return changes


def check_keys(config: Mapping[str, Any], only: Only, known: Collection[str], source: str) -> None:
    """Raise DataError for a key that has another value than the only one that ours has, or is not known."""
    for key, value in config.items():
        wanted, why = only.get(key, (None, ""))
        if key in only and value not in (wanted, None):
            raise DataError(f"{source}: {key}={value} is not supported, {why}; only {key}={wanted} is")
        if key not in only and key not in known:
            raise DataError(
                f"{source}: the key {key}={value} is unknown here, so the model may compute something else than ours; "
                "remove it where it is known to change nothing"
            )


def _check_windows(config: Mapping[str, Any], source: str) -> None:
    slides = not str(config["model_type"]).startswith("qwen") and config.get("sliding_window") is not None
    others = {kind for kind in config.get("layer_types") or () if kind != "full_attention"}
    if slides or others:
        given = (
            f"layer_types with {', '.join(sorted(others))}" if others else f"sliding_window={config['sliding_window']}"
        )
        raise DataError(f"{source}: {given} is not supported, our attention sees all of a text")


def _rope(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling`, which newer folders keep in `rope_parameters`."""
    given = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = given.pop("rope_theta", config.get("rope_theta") or 10_000.0)
    old_kind = given.pop("type", "default")
    kind = given.pop("rope_type", old_kind)
    known = set(ROPE_KEYS) if kind == "llama3" else set()
    if kind not in ("default", "llama3") or set(given) != known:
        shown = ", ".join(f"{key}={value}" for key, value in given.items()) or "nothing else"
        raise DataError(
            f"{source}: positions of rope_type={kind} with {shown} are not supported; only rope_type=default, which "
            f"takes nothing else, and rope_type=llama3 with {', '.join(ROPE_KEYS)} are"
        )
    scaling = {ours: given[theirs] for theirs, ours in ROPE_KEYS.items()} if kind == "llama3" else None
    return {"rope_theta": theta, "rope_scaling": scaling}
