"""Two ways to keep the keys and values of a prompt and of its S samples, and to attend to them from one more position.

Both give the same attention. Each sample may see its prompt and its own tokens, the prompt's mask is [B, P] and that of
its own tokens [L].
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gfn_jax.models.attention import KeyValues, attend_joined, attend_once

_MULTIPLE = 8  # keys, or a GPU's products of bfloat16 are padded one by one


class Apart:
    """Every sample's own keys in an array of their own, [B, S, G, L, K], beside the prompt's: the fewest products."""

    def __init__(self, layers: Sequence[KeyValues], samples: int, length: int, scale: float):
        """`layers` are the prompts' keys and values of every layer, [B, G, P, K]."""
        self._layers, self._samples, self._length, self._scale = layers, samples, length, scale

    def empty(self) -> tuple[KeyValues, ...]:
        return tuple(jax.tree.map(self._zeros, layer) for layer in self._layers)

    def _zeros(self, prompt_BxGxPxK: jax.Array) -> jax.Array:
        batch, groups, _, width = prompt_BxGxPxK.shape
        return jnp.zeros((batch, self._samples, groups, self._length, width), prompt_BxGxPxK.dtype)

    def reordered(self, own: KeyValues, samples_BxS: jax.Array) -> KeyValues:
        return jax.tree.map(lambda x: jnp.take_along_axis(x, samples_BxS[:, :, None, None, None], 1), own)

    def mask(self, own_mask_L: jax.Array, prompt_mask_BxP: jax.Array) -> Any:
        return own_mask_L, prompt_mask_BxP

    def attend(
        self, layer: int, q_BxSxGxMxK: jax.Array, new: KeyValues, own: KeyValues, step: jax.Array, mask: Any
    ) -> tuple[jax.Array, KeyValues]:
        """What the position `step` attends to, itself included, [B, S, G, M, K]; and the cache with it."""
        zero = jnp.zeros_like(step)

        def insert(stack, new_BxSxGxK):
            return jax.lax.dynamic_update_slice(stack, new_BxSxGxK[:, :, :, None], (zero, zero, zero, step, zero))

        own = jax.tree.map(insert, own, new)
        own_mask_L, prompt_mask_BxP = mask
        return attend_once(q_BxSxGxMxK, own, own_mask_L, self._scale, self._layers[layer], prompt_mask_BxP), own


class Joined:
    """The prompt's keys and behind them all samples', token by token, in one row [B, G, P + L S, K], and some spare.

    One product serves all samples, each of which then sees its own alone: S times the FLOPs, in few kernels that fill
    an accelerator's matrix unit.
    """

    def __init__(self, layers: Sequence[KeyValues], samples: int, length: int, scale: float, multiple: int):
        """`layers` as above; where S is no `multiple`, queries of nothing fill it up."""
        self._layers, self._samples, self._length, self._scale = layers, samples, length, scale
        self._spare_queries = -samples % multiple
        self._prompt_length = layers[0].keys.shape[2]
        self._spare = -(self._prompt_length + samples * length) % _MULTIPLE

    def empty(self) -> tuple[KeyValues, ...]:
        behind = [(0, 0), (0, 0), (0, self._length * self._samples + self._spare), (0, 0)]
        return tuple(jax.tree.map(lambda x: jnp.pad(x, behind), layer) for layer in self._layers)

    def reordered(self, own: KeyValues, samples_BxS: jax.Array) -> KeyValues:
        def reorder(joined_BxGxCxK):
            ends = [self._prompt_length, self._prompt_length + self._length * self._samples]
            prompt, tokens, spare = jnp.split(joined_BxGxCxK, ends, 2)
            apart = tokens.reshape(*tokens.shape[:2], self._length, self._samples, -1)
            apart = jnp.take_along_axis(apart, samples_BxS[:, None, None, :, None], 3)
            return jnp.concatenate([prompt, apart.reshape(tokens.shape), spare], 2)

        return jax.tree.map(reorder, own)

    def mask(self, own_mask_L: jax.Array, prompt_mask_BxP: jax.Array) -> jax.Array:
        sample_R = jnp.pad(jnp.arange(self._samples), (0, self._spare_queries), mode="edge")  # they, too, see some key
        is_own_RxS = sample_R[:, None] == jnp.arange(self._samples)[None]
        own_RxC = (own_mask_L[None, :, None] & is_own_RxS[:, None, :]).reshape(len(sample_R), -1)
        batch = len(prompt_mask_BxP)
        parts = (prompt_mask_BxP[:, None, :], own_RxC[None], jnp.zeros((1, 1, self._spare), bool))
        return jnp.concatenate([jnp.broadcast_to(part, (batch, len(sample_R), part.shape[-1])) for part in parts], -1)

    def attend(
        self, layer: int, q_BxSxGxMxK: jax.Array, new: KeyValues, own: KeyValues, step: jax.Array, mask: jax.Array
    ) -> tuple[jax.Array, KeyValues]:
        zero = jnp.zeros_like(step)
        first = self._prompt_length + step * self._samples

        def insert(joined, new_BxSxGxK):
            return jax.lax.dynamic_update_slice(joined, jnp.moveaxis(new_BxSxGxK, 1, 2), (zero, zero, first, zero))

        own = jax.tree.map(insert, own, new)
        q_BxRxGxMxK = jnp.pad(q_BxSxGxMxK, [(0, 0), (0, self._spare_queries), (0, 0), (0, 0), (0, 0)])
        return attend_joined(q_BxRxGxMxK, own, mask, self._scale)[:, : self._samples], own
