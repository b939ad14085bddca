"""The masks that are part of the policy: applied to the logits before the log-softmax, here and nowhere else.

Sampler and scorer both call `mask_logits`, so what can be sampled and what the objective scores are
one distribution.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from gfn_jax.types import checked, trailing


@struct.dataclass
class Rules:
    """What a continuation may consist of.

    is_word_V      items that may stand in a continuation: not banned, not padding, not ⊤
    terminator     ⊤'s token id
    min_len        fewest tokens before ⊤
    max_len        most tokens before ⊤; there the stop is forced
    support_min_p  only tokens of at least this share of the frozen model's likeliest allowed token's
                   probability are allowed; 0 = all
    """

    is_word_V: Bool[Array, " V"]
    terminator: int = struct.field(pytree_node=False)
    min_len: int = struct.field(pytree_node=False)
    max_len: int = struct.field(pytree_node=False)
    support_min_p: float = struct.field(pytree_node=False)

    @property
    def needs_frozen_logits(self) -> bool:
        return self.support_min_p > 0


def make_rules(
    banned_items: np.ndarray, padded_vocab_size: int, terminator: int, min_len: int, max_len: int, support_min_p: float
) -> Rules:
    """Rules from the mask of banned items, which may be shorter than the model's vocabulary."""
    is_word = np.zeros(padded_vocab_size, bool)
    is_word[: len(banned_items)] = ~banned_items
    is_word[terminator] = False
    return Rules(jnp.asarray(is_word), terminator, min_len, max_len, support_min_p)


def support_tolerance(dtype: jnp.dtype) -> float:
    """Nats below the support's edge down to which an item that a model of this dtype drew counts as inside.

    Decoding and teacher forcing round differently; an item at the edge must not be drawn by the one and
    have probability 0 for the other.
    """
    return {"bfloat16": 0.5, "float32": 0.05, "float64": 1e-6}[dtype.name]


@checked
def mask_logits(
    rules: Rules,
    logits: Float[Array, "*states V"],
    step: jax.Array,
    frozen_logits: Float[Array, "*states V"] | None,
    *,
    drawn: Int[Array, "*states"] | None = None,
    tolerance: float = 0.0,
) -> Float[Array, "*states V"]:
    """The logits with -inf wherever the policy may not go.

    `step`, broadcastable to `states`, is each state's number of tokens so far. `frozen_logits` are
    needed where `rules.support_min_p` > 0: the support is relative to the frozen model's likeliest
    item among those that the other masks allow. Items that were `drawn` at these states count as inside
    the support down to `tolerance` nats below its edge (`support_tolerance`).
    """
    step = jnp.broadcast_to(step, logits.shape[:-1])[..., None]
    is_terminator = trailing(jnp.arange(logits.shape[-1]) == rules.terminator, logits.ndim)
    is_word = trailing(rules.is_word_V, logits.ndim)
    allowed = is_word | (is_terminator & (step >= rules.min_len))
    if rules.needs_frozen_logits:
        if frozen_logits is None:
            raise ValueError("a support mask needs the frozen model's logits")
        candidates = jnp.where(allowed, frozen_logits, -jnp.inf)
        edge = candidates.max(-1, keepdims=True) + math.log(rules.support_min_p)
        allowed = candidates >= edge
        if drawn is not None:
            is_drawn = trailing(jnp.arange(logits.shape[-1]), logits.ndim) == drawn[..., None]
            allowed |= is_drawn & (candidates >= edge - tolerance)
    # At the maximum length the stop is forced, whatever the support says.
    allowed = jnp.where(step >= rules.max_len, is_terminator, allowed)
    return jnp.where(allowed, logits, -jnp.inf)
