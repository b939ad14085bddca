"""GPT-2 (Radford et al. 2019): learned positions, norms before the parts of a layer, a bias everywhere."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax

from gfn_jax.models.architecture import Architecture, Axis, Kind, Linear, Norm
from gfn_jax.models.block import ACTIVATIONS, Attend, Block
from gfn_jax.models.config_keys import ConfigKeys
from gfn_jax.models.lora import LoRALinear
from gfn_jax.models.norms import LayerNorm
from gfn_jax.models.rotary import Rotation


class GPT2Block(Block):
    architecture: "GPT2Config"
    ln_1: LayerNorm
    attn_c_attn: LoRALinear
    attn_c_proj: LoRALinear
    ln_2: LayerNorm
    mlp_c_fc: LoRALinear
    mlp_c_proj: LoRALinear

    def __call__(self, hidden: jax.Array, attend: Attend, rotation: Rotation | None) -> tuple[jax.Array, Any]:
        qkv = self.attn_c_attn(self.spread(self.ln_1(hidden)))
        q, k, v = (qkv[..., index, :, :] for index in range(3))
        attended, kept = attend(q[..., None, :], k, v)
        hidden = self.spread(hidden + self.attn_c_proj(attended[..., 0, :]))
        # Kept for the backward pass: the activation's input alone, not its many intermediate values.
        activation = jax.checkpoint(ACTIVATIONS[self.architecture.activation_function])
        inner = activation(self.mlp_c_fc(self.spread(self.ln_2(hidden))))
        return self.spread(hidden + self.mlp_c_proj(inner)), kept


@dataclasses.dataclass(frozen=True)
class GPT2Config(Architecture):
    """Under the names that Hugging Face's `config.json` gives it."""

    prefix, layers, ignored = "transformer.", "h.", (".attn.bias", ".attn.masked_bias")  # masks of old checkpoints
    token_embedding, position_embedding = "wte.weight", "wpe.weight"
    block = GPT2Block
    kinds = (Kind(),)

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    tie_word_embeddings: bool = True

    @property
    def kind_of_layer(self) -> tuple[int, ...]:
        return (0,) * self.n_layer

    @property
    def width(self) -> int:
        return self.n_embd

    @property
    def depth(self) -> int:
        return self.n_layer

    @property
    def context(self) -> int:
        return self.n_positions

    @property
    def key_value_heads(self) -> int:
        return self.n_head

    @property
    def head_width(self) -> int:
        return self.n_embd // self.n_head

    @property
    def parts(self) -> tuple[Linear | Norm, ...]:
        width, inner = (Axis("width", self.n_embd),), (Axis("inner", self.n_inner or 4 * self.n_embd),)
        heads = (Axis("heads", self.n_head), Axis(None, self.head_width))
        how = {"has_bias": True, "outputs_first": False}
        narrow = 0.02 / math.sqrt(2 * self.n_layer)
        return (
            self._norm("ln_1"),
            Linear("attn.c_attn", width, (Axis(None, 3), *heads), **how),
            Linear("attn.c_proj", heads, width, std=narrow, **how),
            self._norm("ln_2"),
            Linear("mlp.c_fc", width, inner, **how),
            Linear("mlp.c_proj", inner, width, std=narrow, **how),
        )

    @property
    def final_norm(self) -> Norm:
        return self._norm("ln_f")

    def _norm(self, name: str) -> Norm:
        return Norm(name, LayerNorm, self.n_embd, self.layer_norm_epsilon)


def read(keys: ConfigKeys) -> GPT2Config:
    """The architecture of a `config.json`; raises `UserError` where this project does not compute it."""
    keys.off("scale_attn_weights", True)
    keys.off("scale_attn_by_inverse_layer_idx", False)
    keys.ignore("attn_pdrop", "embd_pdrop", "resid_pdrop", "n_ctx", "n_special", "predict_special_tokens")
    keys.ignore("reorder_and_upcast_attn", "summary_activation", "summary_first_dropout", "summary_proj_to_labels")
    keys.ignore("summary_type", "summary_use_proj")
    defaults = {field.name: field.default for field in dataclasses.fields(GPT2Config)}
    given = {name: keys.take(name, default) for name, default in defaults.items()}
    keys.check_sizes(**{name: given[name] for name in ("n_embd", "n_head", "n_layer", "n_positions", "vocab_size")})
    keys.check_depth("n_layer", given["n_layer"])
    config = keys.validated(GPT2Config, **given)
    if config.activation_function not in ACTIVATIONS:
        keys.refuse("activation_function", config.activation_function, f"there are {', '.join(ACTIVATIONS)}")
    keys.check_divides("n_embd", config.n_embd, "n_head", config.n_head)
    return config


_GPT2 = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "bos_token_id": 50256, "eos_token_id": 50256}
PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "distilgpt2": _GPT2 | {"n_layer": 6},
    "gpt2": _GPT2,
    "gpt2-medium": _GPT2 | {"n_embd": 1024, "n_layer": 24, "n_head": 16},
    "gpt2-large": _GPT2 | {"n_embd": 1280, "n_layer": 36, "n_head": 20},
    "gpt2-xl": _GPT2 | {"n_embd": 1600, "n_layer": 48, "n_head": 25},
}
