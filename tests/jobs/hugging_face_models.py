"""Tiny decoders made by `transformers` itself, at random and without a network."""

import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported

import transformers

SIZES = {
    "vocab_size": 300,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "max_position_embeddings": 64,
}
LLAMA_3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
    "rope_theta": 500.0,
}
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"rms_norm_eps": 1e-3}),
    "llama 3.1": ("llama", {"head_dim": 12, "rope_parameters": LLAMA_3}),
    "llama tied": ("llama", {"tie_word_embeddings": True, "hidden_act": "gelu"}),
    "qwen2": ("qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "tie_word_embeddings": True}),
    "qwen2 of other heads": ("qwen2", {"head_dim": 12}),
    "qwen3": ("qwen3", {"head_dim": 16}),
}
"""`model_type` and what its configuration has besides `SIZES`."""
MODELS = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
}
transformers.utils.logging.disable_progress_bar()


def model_of(form: str, **config: Any) -> Any:
    """A model with weights large enough that every part of it matters."""
    kind, given = FORMS[form]
    make_config, make_model = MODELS[kind]
    torch.manual_seed(0)
    model: Any = make_model(make_config(**{**SIZES, **given, **config}))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            drawn = torch.randn_like(weight) / math.sqrt(weight.shape[-1] if weight.ndim > 1 else 4)
            weight.copy_(drawn + (1 if "norm" in name else 0))
    return model.eval()


def loaded(folder: Path) -> Any:
    """The model in a folder, as anybody would load it."""
    return transformers.AutoModelForCausalLM.from_pretrained(str(folder)).eval()


def tokens_of(num_rows: int = 4, length: int = 24) -> Tensor:
    return torch.randint(0, 300, (num_rows, length), generator=torch.Generator().manual_seed(1))
