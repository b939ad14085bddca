"""Attention of continuations to themselves and to the prompt that they share, with grouped queries.

Of H heads each of G key-value heads serves M = H / G (Ainslie et al. 2023); keys are never repeated in memory. Long
texts are taken block by block, so that no array of all heads is as long as the text in two axes, forward or backward.
"""

import jax
import jax.numpy as jnp
from flax import struct

LONGEST_WHOLE = 384
"""More queries than so many are taken in blocks."""
BLOCK = 256


@struct.dataclass
class KeyValues:
    """Keys and values, with whatever leading axes stand before [.., G, K]."""

    keys: jax.Array
    values: jax.Array

    def flat(self) -> "KeyValues":
        """A position's heads one behind the other, [.., G K]: a narrow last axis leaves a TPU's tiles half empty."""
        return jax.tree.map(lambda x: x.reshape(*x.shape[:-2], -1), self)

    def by_heads(self, groups: int) -> "KeyValues":
        """The inverse of `flat`."""
        return jax.tree.map(lambda x: x.reshape(*x.shape[:-1], groups, -1), self)


def is_visible(query_positions: jax.Array, key_positions: jax.Array, window: int | None) -> jax.Array:
    """Which keys [.., C] a causal query at each of the positions [.., Q] sees, as [.., Q, C]."""
    behind = query_positions[..., :, None] - key_positions[..., None, :]
    return behind >= 0 if window is None else (behind >= 0) & (behind < window)


def attention(
    q_BxSxQxGxMxK: jax.Array,
    own: KeyValues,
    own_mask_QxC: jax.Array,
    scale: float,
    prompt: KeyValues | None = None,
    prompt_mask_BxQxP: jax.Array | None = None,
) -> jax.Array:
    """Attention of S continuations over their own keys and, behind them, their shared prompt's.

    `own` is [B, S, C, G, K], `prompt` [B, P, G, K]; the prompt's mask may have one row for all queries. The last of a
    text's own keys are those of the queries, of which none sees a later one.
    """
    count, before = q_BxSxQxGxMxK.shape[2], own.keys.shape[2] - q_BxSxQxGxMxK.shape[2]
    if count <= LONGEST_WHOLE:
        return _attention(q_BxSxQxGxMxK, own, own_mask_QxC, scale, prompt, prompt_mask_BxQxP)
    # What a block's softmax needs is computed again on the way back, or all blocks' would be kept for it.
    of_block = jax.checkpoint(_attention, static_argnums=3)
    found = []
    for first in range(0, count, BLOCK):
        end = min(first + BLOCK, count)
        rows, seen = slice(first, end), slice(before + end)
        mask_BxQxP = prompt_mask_BxQxP
        if mask_BxQxP is not None and mask_BxQxP.shape[1] > 1:
            mask_BxQxP = mask_BxQxP[:, rows]
        own_seen = jax.tree.map(lambda x, seen=seen: x[:, :, seen], own)
        found.append(of_block(q_BxSxQxGxMxK[:, :, rows], own_seen, own_mask_QxC[rows, seen], scale, prompt, mask_BxQxP))
    return jnp.concatenate(found, 2)


def _attention(q_BxSxQxGxMxK, own: KeyValues, own_mask_QxC, scale: float, prompt: KeyValues | None, prompt_mask_BxQxP):
    accumulate = jnp.promote_types(q_BxSxQxGxMxK.dtype, jnp.float32)
    logits = jnp.einsum("bsqgmk,bscgk->bsgqmc", q_BxSxQxGxMxK, own.keys, preferred_element_type=accumulate)
    logits = jnp.where(own_mask_QxC[None, None, None, :, None, :], scale * logits, -jnp.inf)
    if prompt is None or prompt_mask_BxQxP is None:
        weights = jax.nn.softmax(logits, axis=-1).astype(own.values.dtype)
        return jnp.einsum("bsgqmc,bscgk->bsqgmk", weights, own.values)
    prompt_logits = jnp.einsum("bsqgmk,bpgk->bsgqmp", q_BxSxQxGxMxK, prompt.keys, preferred_element_type=accumulate)
    prompt_logits = jnp.where(prompt_mask_BxQxP[:, None, None, :, None, :], scale * prompt_logits, -jnp.inf)
    both = jax.nn.softmax(jnp.concatenate([logits, prompt_logits], -1), axis=-1).astype(own.values.dtype)
    weights, prompt_weights = jnp.split(both, [logits.shape[-1]], axis=-1)
    return jnp.einsum("bsgqmc,bscgk->bsqgmk", weights, own.values) + jnp.einsum(
        "bsgqmp,bpgk->bsqgmk", prompt_weights, prompt.values
    )


def attend_joined(q_BxSxGxMxK: jax.Array, joined: KeyValues, mask_BxSxC: jax.Array, scale: float) -> jax.Array:
    """`attend_once` where a prompt's and all its samples' keys are one row, `joined` [B, G, C, K]."""
    accumulate = jnp.promote_types(q_BxSxGxMxK.dtype, jnp.float32)
    logits = jnp.einsum("bsgmk,bgck->bgsmc", q_BxSxGxMxK, joined.keys, preferred_element_type=accumulate)
    logits = jnp.where(mask_BxSxC[:, None, :, None, :], scale * logits, -jnp.inf)
    weights = jax.nn.softmax(logits, axis=-1).astype(joined.values.dtype)
    return jnp.einsum("bgsmc,bgck->bsgmk", weights, joined.values)


def attend_once(
    q_BxSxGxMxK: jax.Array,
    own: KeyValues,
    own_mask_L: jax.Array,
    scale: float,
    prompt: KeyValues,
    prompt_mask_BxP: jax.Array,
) -> jax.Array:
    """Attention of one position of every continuation to its own keys and to its prompt's.

    `own` is [B, S, G, L, K], `prompt` [B, G, P, K].
    """
    accumulate = jnp.promote_types(q_BxSxGxMxK.dtype, jnp.float32)
    own_logits = jnp.einsum("bsgmk,bsglk->bsgml", q_BxSxGxMxK, own.keys, preferred_element_type=accumulate)
    own_logits = jnp.where(own_mask_L[None, None, None, None, :], scale * own_logits, -jnp.inf)
    prompt_logits = jnp.einsum("bsgmk,bgpk->bsgmp", q_BxSxGxMxK, prompt.keys, preferred_element_type=accumulate)
    prompt_logits = jnp.where(prompt_mask_BxP[:, None, None, None, :], scale * prompt_logits, -jnp.inf)
    weights = jax.nn.softmax(jnp.concatenate([own_logits, prompt_logits], -1), axis=-1).astype(own.values.dtype)
    own_weights, prompt_weights = jnp.split(weights, [own.keys.shape[3]], axis=-1)
    return jnp.einsum("bsgml,bsglk->bsgmk", own_weights, own.values) + jnp.einsum(
        "bsgmp,bgpk->bsgmk", prompt_weights, prompt.values
    )
