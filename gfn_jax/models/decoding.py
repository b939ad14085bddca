"""Token by token: a model set up to continue its prompts, every layer's weights and cache in arrays of their own.

Teacher-forced passes scan over stacked layers. A loop over tokens would slice the weights out of their
stacks at every token, and so they are taken apart once, before it; where that loses no precision, the
adapter is merged into them.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gfn_jax.models.attention import KeyValues, attend_once, is_visible
from gfn_jax.models.block import Block
from gfn_jax.models.language_model import LanguageModel
from gfn_jax.models.rotary import Rotation
from gfn_jax.types import Prompts, checked

Cache = tuple[KeyValues, ...]
"""Every layer's keys and values, [B, S, G, L, K]."""


class Decoder:
    """Continues every one of B prompts S times, by at most L tokens.

    first_hidden_BxSxD  the hidden state that the first token is read from
    empty_cache         what `advance` is given first
    """

    def __init__(self, model: LanguageModel, prompts: Prompts, samples: int, length: int, shared: int = 0):
        """`shared` is of `LanguageModel.encode`."""
        architecture = model.architecture
        _, prompt = model.encode(prompts, shared)
        batch, width = prompt.last_hidden_BxD.shape
        self.first_hidden_BxSxD = jnp.broadcast_to(prompt.last_hidden_BxD[:, None], (batch, samples, width))
        shape = (batch, samples, architecture.key_value_heads, length, architecture.head_width)
        zeros = jnp.zeros(shape, self.first_hidden_BxSxD.dtype)
        self.empty_cache: Cache = (KeyValues(zeros, zeros),) * architecture.depth
        self._model, self._prompt_tokens, self._length = model, prompts, length
        heads_first = jax.tree.map(lambda x: jnp.moveaxis(x, 3, 2), prompt.layers)  # [layers, B, G, P, K]
        self._prompts = [
            jax.tree.map(lambda x, layer=layer: x[layer], heads_first) for layer in range(architecture.depth)
        ]
        self._blocks = model.separate_blocks()

    @checked
    def advance(
        self, tokens: Int[Array, "B S"], step: Int[Array, ""], cache: Cache
    ) -> tuple[Float[Array, "B S D"], Cache]:
        """Hidden state of one more token, the `step`-th (from 0) of its continuation; the cache with this token."""
        architecture, prompts = self._model.architecture, self._prompt_tokens
        position_B = prompts.length_B + step
        hidden = self._model.embed(tokens[..., None], position_B[:, None, None])
        rotations = self._model.rotations(position_B[:, None, None])
        positions = prompts.tokens_BxP.shape[1] + self._length
        masks = [
            (
                is_visible(step[None], jnp.arange(self._length), kind.window_within(self._length))[0],
                prompts.visible_from(position_B[:, None], kind.window_within(positions))[:, 0],
            )
            for kind in architecture.kinds
        ]
        kept = []
        for kind, block, prompt, own in zip(
            architecture.kind_of_layer, self._blocks, self._prompts, cache, strict=True
        ):
            hidden, own = self._through(block(step), hidden, step, prompt, own, rotations[kind], *masks[kind])
            kept.append(own)
        return self._model.final_norm(hidden)[:, :, 0], tuple(kept)

    def _through(
        self,
        block: Block,
        hidden: jax.Array,
        step: jax.Array,
        prompt: KeyValues,
        own: KeyValues,
        rotation: Rotation | None,
        own_mask_L: jax.Array,
        prompt_mask_BxP: jax.Array,
    ):
        scale = self._model.architecture.attention_scale

        def attend(q, k, v):
            zero = jnp.zeros_like(step)

            def insert(stack, new_BxSx1xGxK):
                return jax.lax.dynamic_update_slice(
                    stack, jnp.moveaxis(new_BxSx1xGxK, 3, 2), (zero, zero, zero, step, zero)
                )

            kept = jax.tree.map(insert, own, KeyValues(k, v))
            return attend_once(q[:, :, 0], kept, own_mask_L, scale, prompt, prompt_mask_BxP)[:, :, None], kept

        return block(hidden, attend, rotation)
