"""GPT-2 (Radford et al. 2019) with LoRA, its layers stacked and scanned, its cache a plain value.

A batch holds B prompts with S continuations each. A prompt is encoded once; its keys and values
serve all its continuations, in sampling and in scoring alike.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from gfn_jax.models.lora import LoRALinear
from gfn_jax.types import LoRAConfig, Prompts, checked, trailing

VOCABULARY_MULTIPLE = 128
_WHOLE = "whole weights"
LAYER_NAMES = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


@dataclasses.dataclass(frozen=True)
class GPT2Config:
    """The architecture, under the names that Hugging Face's `config.json` gives it."""

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
    def padded_vocab_size(self) -> int:
        return -(-self.vocab_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


_WEIGHT_AXES = {  # where a frozen weight lives -> the names of its axes, as far as they have one
    ("wte",): ("vocabulary", "width"),
    ("wpe",): (None, "width"),
    ("lm_head",): ("vocabulary", "width"),
    ("blocks", "attn_c_attn", "kernel"): (None, "width", None, "heads", None),
    ("blocks", "attn_c_attn", "bias"): (None, None, "heads", None),
    ("blocks", "attn_c_proj", "kernel"): (None, "heads", None, "width"),
    ("blocks", "mlp_c_fc", "kernel"): (None, "width", "inner"),
    ("blocks", "mlp_c_fc", "bias"): (None, "inner"),
    ("blocks", "mlp_c_proj", "kernel"): (None, "inner", "width"),
}

ARCHITECTURES = {
    "distilgpt2": GPT2Config(n_layer=6),
    "gpt2": GPT2Config(),
    "gpt2-medium": GPT2Config(n_embd=1024, n_layer=24, n_head=16),
    "gpt2-large": GPT2Config(n_embd=1280, n_layer=36, n_head=20),
    "gpt2-xl": GPT2Config(n_embd=1600, n_layer=48, n_head=25),
}

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where, over devices, a model's values lie while it computes; by default wherever the compiler puts them.

    spread  what is kept of every position, [.., D], between the parts of a layer
    whole   a weight, which lives at a path, as the computation needs it; None where it is whole as it is
    """

    spread: Callable[[jax.Array], jax.Array] = lambda x: x
    whole: Callable[[Path, jax.Array], jax.Array] | None = None


WHEREVER = Layout()


@struct.dataclass
class KeyValues:
    """Keys and values, with whatever leading axes stand before [.., H, K]."""

    keys: jax.Array
    values: jax.Array


@struct.dataclass
class PromptCache:
    """An encoded prompt: keys and values [layers, B, P, H, K], and the last token's hidden state."""

    layers: KeyValues
    last_hidden_BxD: Float[Array, "B D"]


class LayerNorm(nnx.Module):
    def __init__(self, width: int, epsilon: float, dtype: jnp.dtype):
        self.scale = nnx.Param(jnp.ones(width, dtype))
        self.bias = nnx.Param(jnp.zeros(width, dtype))
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean = wide.mean(-1, keepdims=True)
        variance = jnp.square(wide - mean).mean(-1, keepdims=True)
        normed = (wide - mean) * jax.lax.rsqrt(variance + self.epsilon)
        return normed.astype(x.dtype) * trailing(self.scale[...], x.ndim) + trailing(self.bias[...], x.ndim)


class Block(nnx.Module):
    """One pre-norm transformer layer; how it attends is passed in."""

    def __init__(
        self,
        config: GPT2Config,
        lora: LoRAConfig | None,
        dtype: jnp.dtype,
        quantize: str,
        layout: Layout,
        rngs: nnx.Rngs,
    ):
        width, heads = config.n_embd, config.n_head
        inner = config.n_inner or 4 * width
        head_axes = (heads, width // heads)
        residual_std = 0.02 / math.sqrt(2 * config.n_layer)

        def linear(name, inputs, outputs, std=0.02):
            adapter = lora if lora and name in adapted_layers(lora.targets) else None
            return LoRALinear(inputs, outputs, lora=adapter, dtype=dtype, quantize=quantize, kernel_std=std, rngs=rngs)

        self.ln_1 = LayerNorm(width, config.layer_norm_epsilon, dtype)
        self.attn_c_attn = linear("attn.c_attn", (width,), (3, *head_axes))
        self.attn_c_proj = linear("attn.c_proj", head_axes, (width,), residual_std)
        self.ln_2 = LayerNorm(width, config.layer_norm_epsilon, dtype)
        self.mlp_c_fc = linear("mlp.c_fc", (width,), (inner,))
        self.mlp_c_proj = linear("mlp.c_proj", (inner,), (width,), residual_std)
        self.activation, self.spread = config.activation_function, layout.spread

    def __call__(self, hidden, attend):
        qkv = self.attn_c_attn(self.spread(self.ln_1(hidden)))
        attended, kept = attend(*(qkv[..., index, :, :] for index in range(3)))
        hidden = self.spread(hidden + self.attn_c_proj(attended))
        # Kept for the backward pass: the activation's input alone, not its many intermediate values.
        activation = jax.checkpoint(ACTIVATIONS[self.activation])
        inner = activation(self.mlp_c_fc(self.spread(self.ln_2(hidden))))
        return self.spread(hidden + self.mlp_c_proj(inner)), kept


def weight_axes(path: Path, ndim: int) -> tuple[str | None, ...]:
    """The names of a frozen weight's axes: vocabulary, width, heads, inner (of the MLP), or None.

    The parts of a quantised kernel have the kernel's.
    """
    return _WEIGHT_AXES.get(path) or _WEIGHT_AXES.get(path[:-1], (None,) * ndim)


def adapted_layers(targets: Sequence[str]) -> tuple[str, ...]:
    """The layers that LoRA targets mean, as PEFT reads them: whole dotted suffixes."""
    return tuple(name for name in LAYER_NAMES if any(f".{name}".endswith(f".{target}") for target in targets))


def input_axes(path: Path) -> int:
    """How many of the axes of one layer's kernel are its inputs: attention's output has heads and head width."""
    return 2 if path[-2] == "attn_c_proj" else 1


def attention(q_BxSxQxHxK, own: KeyValues, own_mask, prompt: KeyValues | None, prompt_mask_BxP) -> jax.Array:
    """Attention of S continuations over their own keys and, behind them, their shared prompt's.

    `own` is [B, S, C, H, K] under a mask that broadcasts to [B, S, H, Q, C]; `prompt` [B, P, H, K].
    """
    accumulate = jnp.promote_types(q_BxSxQxHxK.dtype, jnp.float32)
    scale = 1 / math.sqrt(q_BxSxQxHxK.shape[-1])
    logits = jnp.einsum("bsqhk,bschk->bshqc", q_BxSxQxHxK, own.keys, preferred_element_type=accumulate)
    logits = jnp.where(own_mask, scale * logits, -jnp.inf)
    if prompt is None:
        weights = jax.nn.softmax(logits, axis=-1).astype(own.values.dtype)
        return jnp.einsum("bshqc,bschk->bsqhk", weights, own.values)
    prompt_logits = jnp.einsum("bsqhk,bphk->bshqp", q_BxSxQxHxK, prompt.keys, preferred_element_type=accumulate)
    prompt_logits = jnp.where(prompt_mask_BxP[:, None, None, None, :], scale * prompt_logits, -jnp.inf)
    both = jax.nn.softmax(jnp.concatenate([logits, prompt_logits], -1), axis=-1).astype(own.values.dtype)
    weights, prompt_weights = jnp.split(both, [logits.shape[-1]], axis=-1)
    return jnp.einsum("bshqc,bschk->bsqhk", weights, own.values) + jnp.einsum(
        "bshqp,bphk->bsqhk", prompt_weights, prompt.values
    )


class GPT2(nnx.Module):
    """The language model: the frozen one without `lora`, the policy with it."""

    def __init__(
        self,
        config: GPT2Config,
        lora: LoRAConfig | None = None,
        *,
        dtype: jnp.dtype = jnp.float32,
        quantize: str = "",
        remat: bool = False,
        layout: Layout = WHEREVER,
        rngs: nnx.Rngs,
    ):
        def embedding(rows):
            return nnx.Param(0.02 * jax.random.normal(rngs.params(), (rows, config.n_embd), dtype))

        @nnx.split_rngs(splits=config.n_layer)
        @nnx.vmap
        def stacked(rngs):
            return Block(config, lora, dtype, quantize, layout, rngs)

        self.config, self.layout = config, layout
        self.quantize, self.remat = quantize, remat
        self.wte = embedding(config.padded_vocab_size)
        self.wpe = embedding(config.n_positions)
        self.blocks = stacked(rngs)
        self.ln_f = LayerNorm(config.n_embd, config.layer_norm_epsilon, dtype)
        self.lm_head = None if config.tie_word_embeddings else embedding(config.padded_vocab_size)

    @checked
    def encode(self, prompts: Prompts) -> tuple[Float[Array, "B P D"], PromptCache]:
        """Hidden states of every prompt position, and the cache for what follows the prompts."""
        length = prompts.tokens_BxP.shape[1]
        hidden = self.embed(prompts.tokens_BxP, jnp.arange(length)[None, :])[:, None]
        causal = jnp.tril(jnp.ones((length, length), bool))

        def layer(hidden, block):
            def attend(q, k, v):
                kept = KeyValues(k[:, 0], v[:, 0])
                return attention(q, KeyValues(k, v), causal[None, None, None], None, None), kept

            return block(hidden, attend)

        hidden, layers = self._scan(layer, hidden)
        hidden = self.ln_f(hidden)[:, 0]
        last = jnp.take_along_axis(hidden, prompts.length_B[:, None, None] - 1, axis=1)[:, 0]
        return hidden, PromptCache(layers, last)

    @checked
    def states(self, prompts: Prompts, tokens: Int[Array, "B S L"]) -> Float[Array, "B S T D"]:
        """Hidden states at all states of continuations: behind the prompt, then behind each token.

        Prompts and continuations go through the layers side by side, so that every weight is used once.
        """
        length = prompts.tokens_BxP.shape[1]
        batch, samples, count = tokens.shape
        positions = prompts.length_B[:, None, None] + jnp.arange(count)[None, None, :]
        positions = jnp.broadcast_to(positions, tokens.shape).reshape(batch, -1)
        prompt_positions = jnp.broadcast_to(jnp.arange(length)[None, :], (batch, length))
        hidden = self.embed(
            jnp.concatenate([prompts.tokens_BxP, tokens.reshape(batch, -1)], 1),
            jnp.concatenate([prompt_positions, positions], 1),
        )
        prompt_causal, causal = (jnp.tril(jnp.ones((size, size), bool))[None, None, None] for size in (length, count))

        def layer(hidden, block):
            def attend(*qkv):
                of_prompt = [x[:, :length] for x in qkv]
                q, k, v = (x[:, length:].reshape(batch, samples, count, *x.shape[2:]) for x in qkv)
                attended = attention(q, KeyValues(k, v), causal, KeyValues(*of_prompt[1:]), prompts.is_token_BxP)
                prompt_q, *prompt_kv = (x[:, None] for x in of_prompt)
                prompt_attended = attention(prompt_q, KeyValues(*prompt_kv), prompt_causal, None, None)[:, 0]
                return jnp.concatenate([prompt_attended, attended.reshape(batch, -1, *attended.shape[3:])], 1), None

            return block(hidden, attend)

        hidden, _ = self._scan(layer, hidden)
        last = jnp.take_along_axis(hidden[:, :length], prompts.length_B[:, None, None] - 1, axis=1)
        first = jnp.broadcast_to(last[:, :, None], (batch, samples, 1, hidden.shape[-1]))
        behind = hidden[:, length:].reshape(batch, samples, count, -1)
        return self.ln_f(jnp.concatenate([first, behind], 2))

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Next-token logits [.., V] of at least float32; -inf in the columns that pad the vocabulary."""
        accumulate = jnp.promote_types(hidden.dtype, jnp.float32)
        logits = jnp.einsum("...d,vd->...v", hidden, self._head, preferred_element_type=accumulate)
        is_padding = jnp.arange(self.config.padded_vocab_size) >= self.config.vocab_size
        return jnp.where(trailing(is_padding, logits.ndim), -jnp.inf, logits)

    def logit_gradients(self, tokens: jax.Array) -> jax.Array:
        """The gradient [.., D] of each token's logit by the hidden state that it is read from."""
        return self._head[tokens]

    def mean_logit_gradient(self, weights: jax.Array) -> jax.Array:
        """The mean [.., D] over the vocabulary of these gradients under weights [.., V], in the weights' dtype."""
        head = self._head
        return jnp.einsum("...v,vd->...d", weights.astype(head.dtype), head, preferred_element_type=weights.dtype)

    @property
    def _head(self) -> jax.Array:
        return self._weight("wte" if self.lm_head is None else "lm_head")

    def _weight(self, name: str) -> jax.Array:
        weight = getattr(self, name)[...]
        return weight if self.layout.whole is None else self.layout.whole((name,), weight)

    def embed(self, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        """What the first layer reads, [.., D]."""
        return self.layout.spread(self._weight("wte")[tokens] + self._weight("wpe")[positions])

    def separate_blocks(self) -> list[Callable[[jax.Array], Block]]:
        """The layers, their weights taken out of the stacks, with the adapter merged in where that loses nothing.

        Each is a function of a loop's step, whose weights are put together, where they are spread over devices
        or quantised, in that step and not before.
        """
        graphdef, state = nnx.split(self.blocks)
        whole = self.layout.whole

        def separate(layer: int) -> Callable[[jax.Array], Block]:
            own = jax.tree.map(lambda weight: weight[layer], state)
            if whole is None and not self.quantize:
                block = nnx.merge(graphdef, own)
                for _, module in nnx.iter_modules(block):
                    if isinstance(module, LoRALinear):
                        module.merge_adapter()
                return lambda step: block

            def put_together(step: jax.Array) -> Block:
                spread, _ = jax.lax.optimization_barrier((own, step))
                return nnx.merge(graphdef, self._whole_block(spread))

            return put_together

        return [separate(layer) for layer in range(self.config.n_layer)]

    def _whole_block(self, state):
        whole = self.layout.whole
        if whole is None:
            return state
        return jax.tree_util.tree_map_with_path(
            lambda path, weight: checkpoint_name(whole(_block_path(path), weight), _WHOLE), state
        )

    def _scan(self, layer, carry):
        """Runs `layer(carry, block)` over the stacked blocks."""
        graphdef, state = nnx.split(self.blocks)

        def step(carry, block_state):
            return layer(carry, nnx.merge(graphdef, self._whole_block(block_state)))

        if self.remat:
            step = jax.checkpoint(step)
        elif self.layout.whole is not None:  # or the backward pass would find all layers' whole weights kept for it
            step = jax.checkpoint(step, policy=jax.checkpoint_policies.save_anything_except_these_names(_WHOLE))
        return jax.lax.scan(step, carry, state)


def _block_path(path: tuple) -> Path:
    """Where a weight of one layer lives in the stacked blocks."""
    return ("blocks", *(str(entry.key) for entry in path if isinstance(entry, jax.tree_util.DictKey)))
