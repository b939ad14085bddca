"""Token by token: a model set up to continue its prompts, every layer's weights and cache in arrays of their own.

Teacher-forced passes scan over stacked layers. A loop over tokens would slice the weights out of their
stacks at every token, and so they are taken apart once, before it; where that loses no precision, the
adapter is merged into them.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gfn_jax.models.attention import KeyValues, is_visible
from gfn_jax.models.caches import Apart, Joined
from gfn_jax.models.language_model import LanguageModel
from gfn_jax.types import Prompts, checked

Cache = tuple[KeyValues, ...]
"""Every layer's keys and values, as `Apart` or `Joined` says."""


class Decoder:
    """Continues every one of B prompts S times, by at most L tokens.

    first_hidden_BxSxD  the hidden state that the first token is read from
    empty_cache         what `advance` is given first
    """

    def __init__(self, model: LanguageModel, prompts: Prompts, samples: int, length: int):
        architecture = model.architecture
        _, prompt = model.encode(prompts)
        batch, width = prompt.last_hidden_BxD.shape
        self.first_hidden_BxSxD = jnp.broadcast_to(prompt.last_hidden_BxD[:, None], (batch, samples, width))
        flat = [jax.tree.map(lambda x, layer=layer: x[layer], prompt.layers) for layer in range(architecture.depth)]
        by_heads = [each.by_heads(architecture.key_value_heads) for each in flat]
        layers = [jax.tree.map(lambda x: jnp.moveaxis(x, 2, 1), each) for each in by_heads]  # [B, G, P, K]
        of_cache = layers, samples, length, architecture.attention_scale
        if model.layout.has_few_kernels:
            self._cache = Joined(*of_cache, model.layout.multiple_of_samples)
        else:
            self._cache = Apart(*of_cache)
        self.empty_cache: Cache = self._cache.empty()
        self._model, self._prompts, self._length = model, prompts, length
        self._blocks = model.separate_blocks()

    def reordered(self, cache: Cache, samples: Int[Array, "B S"]) -> Cache:
        """The cache of continuations that go on from these samples of the same prompt."""
        return tuple(self._cache.reordered(own, samples) for own in cache)

    @checked
    def advance(
        self, tokens: Int[Array, "B S"], step: Int[Array, ""], cache: Cache
    ) -> tuple[Float[Array, "B S D"], Cache]:
        """Hidden state of one more token, the `step`-th (from 0) of its continuation; the cache with this token."""
        architecture, prompts = self._model.architecture, self._prompts
        position_B = prompts.length_B + step
        hidden = self._model.embed(tokens[..., None], position_B[:, None, None])
        rotations = self._model.rotations(position_B[:, None, None])
        positions = prompts.tokens_BxP.shape[1] + self._length
        masks = [
            self._cache.mask(
                is_visible(step[None], jnp.arange(self._length), kind.window_within(self._length))[0],
                prompts.visible_from(position_B[:, None], kind.window_within(positions))[:, 0],
            )
            for kind in architecture.kinds
        ]
        kept = []
        for layer, (kind, block, own) in enumerate(zip(architecture.kind_of_layer, self._blocks, cache, strict=True)):

            def attend(q, k, v, layer=layer, mask=masks[kind], own=own):
                new = KeyValues(k[:, :, 0], v[:, :, 0])
                attended, own = self._cache.attend(layer, q[:, :, 0], new, own, step, mask)
                return attended[:, :, None], own

            hidden, own = block(step)(hidden, attend, rotations[kind])
            kept.append(own)
        return self._model.final_norm(hidden)[:, :, 0], tuple(kept)
