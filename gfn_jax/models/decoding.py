"""Token by token: a model set up to continue its prompts, every layer's weights and cache in arrays of their own.

Teacher-forced passes scan over stacked layers. A loop over tokens would slice the weights out of their
stacks at every token, and so they are taken apart once, before it; where that loses no precision, the
adapter is merged into them.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gfn_jax.models.gpt2 import GPT2, Block, KeyValues
from gfn_jax.types import Prompts, checked

Cache = tuple[KeyValues, ...]
"""Every layer's keys and values, [B, S, H, L, K]."""


class Decoder:
    """Continues every one of B prompts S times, by at most L tokens.

    first_hidden_BxSxD  the hidden state that the first token is read from
    empty_cache         what `advance` is given first
    """

    def __init__(self, model: GPT2, prompts: Prompts, samples: int, length: int):
        config = model.config
        _, prompt = model.encode(prompts)
        batch, width = prompt.last_hidden_BxD.shape
        self.first_hidden_BxSxD = jnp.broadcast_to(prompt.last_hidden_BxD[:, None], (batch, samples, width))
        zeros = jnp.zeros(
            (batch, samples, config.n_head, length, width // config.n_head), self.first_hidden_BxSxD.dtype
        )
        self.empty_cache: Cache = (KeyValues(zeros, zeros),) * config.n_layer
        self._model, self._prompt_tokens = model, prompts
        heads_first = jax.tree.map(lambda x: jnp.moveaxis(x, 3, 2), prompt.layers)  # [layers, B, H, P, K]
        self._prompts = [jax.tree.map(lambda x, layer=layer: x[layer], heads_first) for layer in range(config.n_layer)]
        self._blocks = model.separate_blocks()

    @checked
    def advance(
        self, tokens: Int[Array, "B S"], step: Int[Array, ""], cache: Cache
    ) -> tuple[Float[Array, "B S D"], Cache]:
        """Hidden state of one more token, the `step`-th (from 0) of its continuation; the cache with this token."""
        hidden = self._model.embed(tokens[..., None], (self._prompt_tokens.length_B + step)[:, None, None])
        kept = []
        for block, prompt, own in zip(self._blocks, self._prompts, cache, strict=True):
            hidden, own = self._through(block(step), hidden, step, prompt, own)
            kept.append(own)
        return self._model.ln_f(hidden)[:, :, 0], tuple(kept)

    def _through(self, block: Block, hidden: jax.Array, step: jax.Array, prompt: KeyValues, own: KeyValues):
        def attend(q, k, v):
            zero = jnp.zeros_like(step)

            def insert(stack, new_BxSx1xHxK):
                return jax.lax.dynamic_update_slice(
                    stack, jnp.moveaxis(new_BxSx1xHxK, 3, 2), (zero, zero, zero, step, zero)
                )

            kept = jax.tree.map(insert, own, KeyValues(k, v))
            return attend_once(q[:, :, 0], kept, step, prompt, self._prompt_tokens.is_token_BxP)[:, :, None], kept

        return block(hidden, attend)


def attend_once(
    q_BxSxHxK: jax.Array, own: KeyValues, step: jax.Array, prompt: KeyValues, is_prompt_BxP: jax.Array
) -> jax.Array:
    """Attention of one position of every continuation, the `step`-th, to those up to it and to its prompt.

    `own` is [B, S, H, L, K], `prompt` [B, H, P, K].
    """
    accumulate = jnp.promote_types(q_BxSxHxK.dtype, jnp.float32)
    scale = 1 / math.sqrt(q_BxSxHxK.shape[-1])
    own_logits = jnp.einsum("bshk,bshlk->bshl", q_BxSxHxK, own.keys, preferred_element_type=accumulate)
    is_reached = (jnp.arange(own.keys.shape[3]) <= step)[None, None, None, :]
    own_logits = jnp.where(is_reached, scale * own_logits, -jnp.inf)
    prompt_logits = jnp.einsum("bshk,bhpk->bshp", q_BxSxHxK, prompt.keys, preferred_element_type=accumulate)
    prompt_logits = jnp.where(is_prompt_BxP[:, None, None, :], scale * prompt_logits, -jnp.inf)
    weights = jax.nn.softmax(jnp.concatenate([own_logits, prompt_logits], -1), axis=-1).astype(own.values.dtype)
    own_weights, prompt_weights = jnp.split(weights, [own.keys.shape[3]], axis=-1)
    return jnp.einsum("bshl,bshlk->bshk", own_weights, own.values) + jnp.einsum(
        "bshp,bhpk->bshk", prompt_weights, prompt.values
    )
