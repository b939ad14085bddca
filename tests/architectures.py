"""Small random models of every architecture of Hugging Face's, with sizes that no transposed axis survives."""

from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

SMALL = {"vocab_size": 131, "hidden_size": 30, "intermediate_size": 53, "num_hidden_layers": 2}
LARGER = {"vocab_size": 257, "hidden_size": 66, "intermediate_size": 37, "num_hidden_layers": 3}
LENGTH = {"max_position_embeddings": 64}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0}
SHORT = {"original_max_position_embeddings": 8, "rope_theta": 1e4}


def _heads(heads: int, key_value_heads: int) -> dict[str, int]:
    return {"num_attention_heads": heads, "num_key_value_heads": key_value_heads}


# Windows and original contexts are shorter than what the tests read.
MODELS: dict[str, PreTrainedConfig] = {
    "gpt2 tied": GPT2Config(vocab_size=131, n_positions=29, n_embd=21, n_head=3, n_layer=2, n_inner=53),
    "gpt2 untied": GPT2Config(
        vocab_size=257, n_positions=31, n_embd=55, n_head=5, n_layer=3, tie_word_embeddings=False
    ),
    "llama untied, all heads share": LlamaConfig(
        **SMALL, **_heads(3, 1), **LENGTH, rope_parameters=LLAMA3 | SHORT, attention_bias=True, mlp_bias=True
    ),
    "llama tied, three share": LlamaConfig(
        **LARGER, **_heads(6, 2), **LENGTH, rope_parameters=YARN | SHORT, tie_word_embeddings=True, head_dim=26
    ),
    "mistral untied, none share": MistralConfig(
        **LARGER,
        **_heads(3, 3),
        **LENGTH,
        sliding_window=5,
        rope_parameters={"rope_type": "linear", "factor": 3.0, "rope_theta": 5e4},
    ),
    "mistral tied, three share": MistralConfig(
        **SMALL, **_heads(3, 1), **LENGTH, sliding_window=7, tie_word_embeddings=True
    ),
    "qwen2 tied, three share": Qwen2Config(
        **LARGER,
        **_heads(3, 1),
        **LENGTH,
        use_sliding_window=True,
        sliding_window=5,
        max_window_layers=1,
        tie_word_embeddings=True,
    ),
    "qwen2 untied, none share": Qwen2Config(**SMALL, **_heads(5, 5), **LENGTH),
    "qwen3 untied, three share": Qwen3Config(**SMALL, **_heads(6, 2), **LENGTH, head_dim=14),
    "qwen3 tied, all heads share": Qwen3Config(
        **LARGER, **_heads(3, 1), **LENGTH, head_dim=10, tie_word_embeddings=True, attention_bias=True
    ),
    "gemma3 tied, none share": Gemma3TextConfig(
        **LARGER, **_heads(3, 3), **LENGTH, head_dim=26, sliding_window=5, query_pre_attn_scalar=17,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "gemma3 untied, three share": Gemma3TextConfig(
        **SMALL, **_heads(6, 2), **LENGTH, head_dim=14, sliding_window=4, query_pre_attn_scalar=14,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
        tie_word_embeddings=False,
        layer_types=["sliding_attention", "full_attention"],
    ),
}  # fmt: skip

GROUPED = {  # with two layers, of which one may have a window
    "vocab_size": 6,
    "hidden_size": 48,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 6,
    "max_position_embeddings": 19,
}
OF_TYPE = {
    "gemma3_text": {
        "query_pre_attn_scalar": 6,
        "sliding_window": 3,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "mistral": {"sliding_window": 3},
    "qwen2": {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
}


def save_model(directory: Path, config: PreTrainedConfig) -> PreTrainedModel:
    """A model with weights large enough to matter, saved to a directory; attention as it is written down."""
    torch.manual_seed(0)
    off = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "bos_token_id": None, "eos_token_id": None}
    for name, value in off.items():
        if hasattr(config, name):
            setattr(config, name, value)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
        if config.model_type == "gemma3_text":  # which scales them: tied ones would only repeat what they read
            model.get_input_embeddings().weight /= config.hidden_size**0.5
    model.save_pretrained(directory)
    return model
