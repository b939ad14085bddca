"""Llama (Touvron et al. 2023) and those that compute the same with other settings: Mistral, Qwen2 and Qwen3.

Rotary positions, root-mean-square norms before the parts of a layer, a gated MLP, grouped queries.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from gfn_jax.models.architecture import Architecture, Axis, Kind, Linear, Norm
from gfn_jax.models.block import ACTIVATIONS, Attend, Block
from gfn_jax.models.config_keys import ConfigKeys
from gfn_jax.models.lora import LoRALinear
from gfn_jax.models.norms import RMSNorm
from gfn_jax.models.rotary import Rotation, read_rotary

_QKV = ("self_attn_q_proj", "self_attn_k_proj", "self_attn_v_proj")
_GATED = ("mlp_gate_proj", "mlp_up_proj")


class LlamaBlock(Block):
    together = _QKV, _GATED

    architecture: "LlamaConfig"
    input_layernorm: RMSNorm
    self_attn_q_proj: LoRALinear
    self_attn_k_proj: LoRALinear
    self_attn_v_proj: LoRALinear
    self_attn_q_norm: RMSNorm
    self_attn_k_norm: RMSNorm
    self_attn_o_proj: LoRALinear
    post_attention_layernorm: RMSNorm
    mlp_gate_proj: LoRALinear
    mlp_up_proj: LoRALinear
    mlp_down_proj: LoRALinear

    def __call__(self, hidden: jax.Array, attend: Attend, rotation: Rotation | None) -> tuple[jax.Array, Any]:
        attended, kept = self.attend_to(self.input_layernorm(hidden), attend, rotation)
        hidden = self.spread(hidden + attended)
        return self.spread(hidden + self.gated_mlp(self.post_attention_layernorm(hidden))), kept

    def attend_to(self, normed: jax.Array, attend: Attend, rotation: Rotation | None) -> tuple[jax.Array, Any]:
        """The layer's attention, from the normalised hidden states on."""
        assert rotation is not None
        normed = self.spread(normed)
        q, k, v = self.of_same(normed, _QKV)
        if self.architecture.qk_norm:
            q, k = self.self_attn_q_norm(q), self.self_attn_k_norm(k)
        attended, kept = attend(rotation.turn(q), rotation.turn(k), v)
        return self.self_attn_o_proj(attended), kept

    def gated_mlp(self, normed: jax.Array) -> jax.Array:
        """The layer's MLP, from the normalised hidden states on."""
        normed = self.spread(normed)

        # Kept for the backward pass: the two inputs alone, not what the activation computes in between.
        @jax.checkpoint
        def gated(gate, up):
            return ACTIVATIONS[self.architecture.hidden_act](gate) * up

        return self.mlp_down_proj(gated(*self.of_same(normed, _GATED)))


@dataclasses.dataclass(frozen=True)
class LlamaConfig(Architecture):
    """Under the names of Hugging Face's `config.json`, where it has one.

    kinds, kind_of_layer  rotary embeddings and window of every layer
    qkv_bias, output_bias, mlp_bias  which linear layers have a bias
    qk_norm               whether queries and keys are normalised, head by head
    """

    prefix, layers, ignored = "model.", "layers.", (".rotary_emb.inv_freq",)
    token_embedding = "embed_tokens.weight"
    block = LlamaBlock

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    hidden_act: str
    tie_word_embeddings: bool
    kinds: tuple[Kind, ...]
    kind_of_layer: tuple[int, ...]
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool

    @property
    def width(self) -> int:
        return self.hidden_size

    @property
    def depth(self) -> int:
        return self.num_hidden_layers

    @property
    def context(self) -> int:
        return self.max_position_embeddings

    @property
    def key_value_heads(self) -> int:
        return self.num_key_value_heads

    @property
    def head_width(self) -> int:
        return self.head_dim

    @property
    def parts(self) -> tuple[Linear | Norm, ...]:
        width, inner = (Axis("width", self.hidden_size),), (Axis("inner", self.intermediate_size),)
        groups, head = Axis("heads", self.num_key_value_heads), Axis(None, self.head_dim)
        heads = (groups, Axis(None, self.num_attention_heads // self.num_key_value_heads), head)
        norms = (self.norm("self_attn.q_norm", self.head_dim), self.norm("self_attn.k_norm", self.head_dim))
        return (
            self.norm("input_layernorm"),
            Linear("self_attn.q_proj", width, heads, self.qkv_bias),
            Linear("self_attn.k_proj", width, (groups, head), self.qkv_bias),
            Linear("self_attn.v_proj", width, (groups, head), self.qkv_bias),
            *(norms if self.qk_norm else ()),
            Linear("self_attn.o_proj", heads, width, self.output_bias),
            self.norm("post_attention_layernorm"),
            Linear("mlp.gate_proj", width, inner, self.mlp_bias),
            Linear("mlp.up_proj", width, inner, self.mlp_bias),
            Linear("mlp.down_proj", inner, width, self.mlp_bias),
        )

    @property
    def final_norm(self) -> Norm:
        return self.norm("norm")

    def norm(self, name: str, size: int | None = None) -> Norm:
        return Norm(name, RMSNorm, size or self.hidden_size, self.rms_norm_eps)


def read_llama(keys: ConfigKeys) -> LlamaConfig:
    """Llama 1 to 3.x, and what took its architecture over: SmolLM2, TinyLlama, ..."""
    bias = keys.take("attention_bias", False)
    keys.off("rope_interleaved", False)
    keys.ignore("is_llama_config", "max_sequence_length")  # the second is max_position_embeddings again
    return _read(keys, context=2048, qkv_bias=bias, output_bias=bias, mlp_bias=keys.take("mlp_bias", False))


def read_mistral(keys: ConfigKeys) -> LlamaConfig:
    """Mistral: every layer has the window, of 4096 where none is given."""
    return _read(keys, context=131072, key_value_heads=8, window=keys.take("sliding_window", 4096))


def read_qwen2(keys: ConfigKeys) -> LlamaConfig:
    """Qwen2 and Qwen2.5: queries, keys and values always have a bias."""
    return _read_qwen(keys, qkv_bias=True)


def read_qwen3(keys: ConfigKeys) -> LlamaConfig:
    """Qwen3: norms of queries and keys; heads of 128 where no width is given."""
    bias = keys.take("attention_bias", False)
    return _read_qwen(keys, qkv_bias=bias, output_bias=bias, qk_norm=True, head_width=128)


def _read_qwen(keys: ConfigKeys, **settings: Any) -> LlamaConfig:
    """Layers from `max_window_layers` on have a window, if `use_sliding_window` says so, unless `layer_types` does."""
    keys.off("use_mrope", False)  # sections of the rotary embedding for images
    window, first = keys.take("sliding_window", 4096), keys.take("max_window_layers", 28)
    if not isinstance(first, int):
        keys.refuse("max_window_layers", first, "a valid integer is needed")
    window = window if keys.take("use_sliding_window", False) else None
    return _read(keys, context=32768, key_value_heads=32, window=window, first_with_window=first, **settings)


def _read(
    keys: ConfigKeys,
    *,
    context: int,
    key_value_heads: int | None = None,
    head_width: int | None = None,
    window: int | None = None,
    first_with_window: int = 0,
    **settings: bool,
) -> LlamaConfig:
    heads, width = keys.take("num_attention_heads"), keys.take("hidden_size")
    depth, context = keys.take("num_hidden_layers"), keys.take("max_position_embeddings", context)
    groups = keys.take("num_key_value_heads", key_value_heads) or heads
    given = {"num_attention_heads": heads, "hidden_size": width, "num_hidden_layers": depth}
    given |= {"num_key_value_heads": groups, "max_position_embeddings": context}
    keys.check_sizes(**given)
    keys.check_depth("num_hidden_layers", depth)
    if window is not None:
        keys.check_sizes(sliding_window=window)
    if not (head_dim := keys.take("head_dim", head_width)):
        keys.check_divides("hidden_size", width, "num_attention_heads", heads)
        head_dim = width // heads
    keys.check_sizes(head_dim=head_dim)
    keys.check_divides("num_attention_heads", heads, "num_key_value_heads", groups)
    layer_types = keys.take("layer_types", None)
    if layer_types is None:
        layer_types = ["full_attention" if layer < first_with_window else "sliding_attention" for layer in range(depth)]
    by_type = {"full_attention": None, "sliding_attention": window}
    rotary = read_rotary(keys, head_dim, context)
    kinds, kind_of_layer = kinds_of_layers(keys, layer_types, depth, {t: Kind(rotary, w) for t, w in by_type.items()})
    config = keys.validated(
        LlamaConfig,
        **given,
        head_dim=head_dim,
        vocab_size=keys.take("vocab_size"),
        intermediate_size=keys.take("intermediate_size"),
        rms_norm_eps=keys.take("rms_norm_eps", 1e-6),
        hidden_act=keys.take("hidden_act", "silu"),
        tie_word_embeddings=keys.take("tie_word_embeddings", False),
        kinds=kinds,
        kind_of_layer=kind_of_layer,
        **({"qkv_bias": False, "output_bias": False, "mlp_bias": False, "qk_norm": False} | settings),
    )
    keys.check_sizes(vocab_size=config.vocab_size, intermediate_size=config.intermediate_size)
    if config.hidden_act not in ACTIVATIONS:
        keys.refuse("hidden_act", config.hidden_act, f"there are {', '.join(ACTIVATIONS)}")
    return config


def kinds_of_layers(
    keys: ConfigKeys, layer_types: list[str], depth: int, by_type: Mapping[str, Kind]
) -> tuple[tuple[Kind, ...], tuple[int, ...]]:
    """The different kinds that the layers are of, and of each layer which one.

    Raises `UserError` where a type is none of `by_type`, or there are not as many as layers.
    """
    if not (isinstance(layer_types, list) and all(isinstance(name, str) for name in layer_types)):
        keys.refuse("layer_types", layer_types, "must be a list of names")
    if unknown := set(layer_types) - by_type.keys():
        keys.refuse("layer_types", min(unknown), f"there are {', '.join(by_type)}")
    if len(layer_types) != depth:
        keys.refuse("layer_types", f"a list of {len(layer_types)}", f"there are {depth} layers")
    of_layers = [by_type[name] for name in layer_types]
    kinds = tuple(dict.fromkeys(of_layers))
    return kinds, tuple(kinds.index(kind) for kind in of_layers)


_LLAMA3 = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}
_QWEN3 = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
}
_SMOLLM2 = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100000.0,
    "tie_word_embeddings": True,
}
PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "HuggingFaceTB/SmolLM2-135M": _SMOLLM2,
    "meta-llama/Llama-3.1-8B": _LLAMA3,
    "Qwen/Qwen3-8B": _QWEN3,
}
