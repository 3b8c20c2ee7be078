import re
from typing import Any

import pytest

from cluster.errors import DataError, SpecError
from jobs.hugging_face import config_of, differences, spec_of, their_name
from jobs.workloads.language import LanguageSpec
from jobs.workloads.rope_scaling import RopeScalingSpec
from jobs.workloads.transformer import TransformerSpec, transformer
from tests.jobs.hugging_face_models import FORMS, MODELS, SIZES, model_of

LLAMA_3_2 = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.45.0.dev0",
    "use_cache": True,
    "vocab_size": 128256,
}
"""As Meta publishes Llama 3.2 1B."""


def config(form: str = "llama", **changed: Any) -> dict[str, Any]:
    """As transformers writes it."""
    kind, given = FORMS[form]
    return {**MODELS[kind][0](**{**SIZES, **given}).to_diff_dict(), **changed}


def test_a_published_configuration_in_our_words() -> None:
    assert spec_of(LLAMA_3_2, "config.json") == TransformerSpec(
        num_layers=16,
        hidden_dim=2048,
        num_heads=32,
        num_kv_heads=8,
        feed_forward_dim=8192,
        rope_theta=500_000.0,
        rope_scaling=RopeScalingSpec(
            factor=32, low_frequency_factor=1, high_frequency_factor=4, original_context_length=8192
        ),
        tie_embeddings=True,
        vocabulary_size=128_256,
    )


def test_old_configurations_leave_out_what_was_not_yet_there() -> None:
    newer = ("rope_scaling", "rope_theta", "num_key_value_heads", "head_dim", "tie_word_embeddings", "attention_bias")
    spec = spec_of({key: value for key, value in LLAMA_3_2.items() if key not in newer}, "config.json")
    assert (spec.num_kv_heads, spec.features_a_head, spec.rope_theta, spec.rope_scaling) == (32, 64, 10_000.0, None)
    assert not spec.tie_embeddings


@pytest.mark.parametrize("form", FORMS)
def test_our_configuration_is_read_by_transformers_as_it_was_meant(form: str) -> None:
    kind, _ = FORMS[form]
    given = config(form)
    spec = spec_of(given, "config.json")
    again = MODELS[kind][0](**config_of(spec, context_length=64)).to_dict()
    original = MODELS[kind][0](**given).to_dict()
    apart = {key for key in again.keys() | original.keys() if again.get(key) != original.get(key)}
    assert apart <= {"bos_token_id", "eos_token_id", "architectures", "dtype", "head_dim"}


@pytest.mark.parametrize("form", FORMS)
def test_every_weight_of_theirs_has_one_name_of_ours(form: str) -> None:
    theirs = [name for name, _ in model_of(form).named_parameters()]
    ours = [name for name, _ in transformer(spec_of(config(form), "config.json")).named_parameters()]
    assert sorted(map(their_name, ours)) == sorted(theirs)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"model_type": "mixtral"},
            "model_type=mixtral is a form of model that ours does not have; give .*llama, qwen2",
        ),
        ({"model_type": None}, "model_type=None is a form"),
        ({"hidden_act": "gelu_pytorch_tanh"}, "activation: input should be 'relu', .*, got \"gelu_pytorch_tanh\""),
        (
            {"attention_bias": True},
            "attention_bias=True is not supported, it puts a bias on the output .*; only .*False",
        ),
        ({"mlp_bias": True}, "mlp_bias=True is not supported, our feed-forward blocks have no biases"),
        ({"attention_dropout": 0.1}, "attention_dropout=0.1 is not supported, our attention has no dropout"),
        (
            {"quantization_config": {"bits": 4}},
            "quantization_config=.* is not supported, weights have to be plain floats",
        ),
        ({"sliding_window": 4096}, "sliding_window=4096 is not supported, our attention sees all of a text"),
        ({"num_experts": 8}, "the key num_experts=8 is unknown here, so the model may compute something else"),
        ({"num_key_value_heads": 5}, "num_heads=6 do not share num_kv_heads=5 evenly"),
        ({"vocab_size": 32}, "vocabulary_size: input should be greater than or equal to 257, got 32"),
        ({"vocab_size": None}, "vocab_size missing; without it the model is not known"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_type=yarn with factor=4.0 are not supported"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 4.0}}, "rope_type=llama3 with factor=4.0 are not"),
        (
            {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}},
            "rope_type=linear with factor=2",
        ),
        (
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
            "rope_type=default with partial_rotary_factor=0.5 are not supported; only rope_type=default",
        ),
    ],
)
def test_what_ours_cannot_hold_is_refused_with_the_reason(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"^their/config.json.*{message}"):
        spec_of(config(**changed), "their/config.json")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"use_sliding_window": True}, "use_sliding_window=True is not supported"),
        (
            {"layer_types": ["full_attention", "sliding_attention"]},
            "layer_types with sliding_attention is not supported",
        ),
    ],
)
def test_a_sliding_window_of_qwen_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        spec_of(config("qwen2", **changed), "config.json")
    spec_of(config("qwen2", sliding_window=4096), "config.json")  # it is named, but not used


def test_what_no_published_form_has_is_refused() -> None:
    with pytest.raises(SpecError, match=r"qkv_bias=true with workload\.qk_norm=true: no published form of decoder has"):
        config_of(LanguageSpec(qkv_bias=True, qk_norm=True), 128)


def test_differences_are_overrides_that_lift_them() -> None:
    wanted = spec_of(LLAMA_3_2, "config.json")
    changes = differences(wanted, TransformerSpec())
    assert changes[:3] == ["workload.num_layers=16", "workload.hidden_dim=2048", "workload.num_heads=32"]
    assert "workload.tie_embeddings=true" in changes
    assert differences(wanted, wanted.model_copy(update={"head_dim": 64})) == []
    assert not any(re.search("qk_norm|qkv_bias|activation", change) for change in changes)
