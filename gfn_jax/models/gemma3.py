"""The language model of Gemma 3 (Gemma Team 2025): Llama's parts in another order and scale.

Norms before *and* behind the parts of a layer, whose weights count from 1; embeddings scaled; most layers see a
window and turn by a base of their own; queries scaled by a setting instead of their width.
"""

import dataclasses
import math
from typing import Any

import jax

from gfn_jax.models.architecture import Kind, Linear, Norm
from gfn_jax.models.block import Attend
from gfn_jax.models.config_keys import ConfigKeys
from gfn_jax.models.llama import LlamaBlock, LlamaConfig, kinds_of_layers
from gfn_jax.models.norms import RMSNorm
from gfn_jax.models.rotary import Rotation, make_rotary

_THETAS = {"sliding_attention": 10_000.0, "full_attention": 1_000_000.0}
_EVERY = 6  # every so manieth layer sees everything


class Gemma3Block(LlamaBlock):
    pre_feedforward_layernorm: RMSNorm
    post_feedforward_layernorm: RMSNorm

    def __call__(self, hidden: jax.Array, attend: Attend, rotation: Rotation | None) -> tuple[jax.Array, Any]:
        attended, kept = self.attend_to(self.input_layernorm(hidden), attend, rotation)
        hidden = self.spread(hidden + self.post_attention_layernorm(attended))
        inner = self.gated_mlp(self.pre_feedforward_layernorm(hidden))
        return self.spread(hidden + self.post_feedforward_layernorm(inner)), kept


@dataclasses.dataclass(frozen=True)
class Gemma3Config(LlamaConfig):
    query_pre_attn_scalar: float

    block = Gemma3Block

    @property
    def attention_scale(self) -> float:
        return 1 / math.sqrt(self.query_pre_attn_scalar)

    @property
    def embedding_scale(self) -> float:
        return math.sqrt(self.hidden_size)

    @property
    def parts(self) -> tuple[Linear | Norm, ...]:
        return (*super().parts, self.norm("pre_feedforward_layernorm"), self.norm("post_feedforward_layernorm"))

    def norm(self, name: str, size: int | None = None) -> Norm:
        return Norm(name, RMSNorm, size or self.hidden_size, self.rms_norm_eps, offset=1.0)


def read(keys: ConfigKeys) -> Gemma3Config:
    """The architecture of a `config.json` of type gemma3_text."""
    for name in ("final_logit_softcapping", "attn_logit_softcapping"):
        keys.off(name, None)
    keys.off("use_bidirectional_attention", False, None)
    depth, width, context = (
        keys.take("num_hidden_layers", 26),
        keys.take("hidden_size", 2304),
        keys.take("max_position_embeddings", 131072),
    )
    heads, groups = keys.take("num_attention_heads", 8), keys.take("num_key_value_heads", 4)
    head_dim, bias = keys.take("head_dim", 256), keys.take("attention_bias", False)
    given = {"num_hidden_layers": depth, "hidden_size": width, "max_position_embeddings": context}
    given |= {"num_attention_heads": heads, "num_key_value_heads": groups, "head_dim": head_dim}
    keys.check_sizes(**given)
    keys.check_depth("num_hidden_layers", depth)
    keys.check_divides("num_attention_heads", heads, "num_key_value_heads", groups)
    every = keys.take("sliding_window_pattern", keys.take("_sliding_window_pattern", _EVERY))
    keys.check_sizes(sliding_window_pattern=every)
    layer_types = keys.take("layer_types", None) or [
        "full_attention" if (layer + 1) % every == 0 else "sliding_attention" for layer in range(depth)
    ]
    if (window := keys.take("sliding_window", 4096)) is not None:
        keys.check_sizes(sliding_window=window)
    windows = {"sliding_attention": window, "full_attention": None}
    rotaries = _read_rotaries(keys, head_dim, context)
    by_type = {name: Kind(rotary, windows[name]) for name, rotary in rotaries.items()}
    kinds, kind_of_layer = kinds_of_layers(keys, layer_types, depth, by_type)
    activation = keys.take("hidden_activation", "gelu_pytorch_tanh")
    if activation != "gelu_pytorch_tanh":  # programs differ in what they take "gelu" for
        keys.refuse("hidden_activation", activation, "only 'gelu_pytorch_tanh' is computed here")
    config = keys.validated(
        Gemma3Config,
        **given,
        vocab_size=keys.take("vocab_size", 262208),
        intermediate_size=keys.take("intermediate_size", 9216),
        rms_norm_eps=keys.take("rms_norm_eps", 1e-6),
        hidden_act=activation,
        tie_word_embeddings=keys.take("tie_word_embeddings", True),
        kinds=kinds,
        kind_of_layer=kind_of_layer,
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=False,
        qk_norm=True,
        query_pre_attn_scalar=keys.take("query_pre_attn_scalar", 256),
    )
    keys.check_sizes(vocab_size=config.vocab_size, intermediate_size=config.intermediate_size)
    return config


def _read_rotaries(keys: ConfigKeys, head_dim: int, context: int) -> dict[str, Any]:
    """The rotary embeddings of each type of layer: by type in the newer form; older, with two keys for the bases."""
    given = {name: dict(each or {}) for name, each in (keys.take("rope_parameters", None) or {}).items()}
    for name in given.keys() - _THETAS.keys():
        keys.refuse("rope_parameters", name, f"there are {', '.join(_THETAS)}")
    older = {
        "full_attention": keys.take("rope_theta", _THETAS["full_attention"]),
        "sliding_attention": keys.take("rope_local_base_freq", _THETAS["sliding_attention"]),
    }
    rotaries = {}
    for name, theta in older.items():
        parameters = {"rope_theta": theta} | given.get(name, {})
        if name == "full_attention":
            parameters |= keys.take("rope_scaling", None) or {}
        rotaries[name] = make_rotary(keys.inner(f"rope_parameters.{name}", parameters), head_dim, context)
    return rotaries
