"""How the next token is chosen: tempered, cut to the likeliest, and drawn by inversion.

Behaviour changes what is sampled, never the log-probabilities that are reported.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, Key

from gfn_jax.models.architecture import VOCABULARY_MULTIPLE
from gfn_jax.types import checked


@struct.dataclass
class Behaviour:
    """How samples are drawn from the policy: on-policy unless told otherwise.

    With probability `temperature_prob` a whole batch is sampled at a temperature drawn uniformly
    from [`temperature_low`, `temperature_high`], else at 1. `top_k` = 0 and no `top_p` are off.
    As an argument of a compiled function, temperatures and `top_p` may change without compiling again.
    """

    temperature_low: float | jax.Array = 1.0
    temperature_high: float | jax.Array = 1.0
    temperature_prob: float | jax.Array = 0.0
    top_k: int = struct.field(pytree_node=False, default=0)
    top_p: float | jax.Array | None = None


ON_POLICY = Behaviour()


def draw_temperature(behaviour: Behaviour, key: Key[Array, ""]) -> jax.Array:
    """This batch's behaviour temperature."""
    whether, which = jax.random.split(key)
    tempered = jax.random.uniform(which, (), jnp.float32, behaviour.temperature_low, behaviour.temperature_high)
    return jnp.where(jax.random.uniform(whether) < behaviour.temperature_prob, tempered, 1.0)


@checked
def behaviour_logits(
    behaviour: Behaviour, logits: Float[Array, "N V"], temperature: Float[Array, ""]
) -> Float[Array, "N V"]:
    """The masked logits tempered, then cut to the `top_k` likeliest and to the `top_p` nucleus.

    The nucleus is the smallest set of likeliest items whose probabilities sum to `top_p` or more.
    """
    logits = logits / temperature.astype(logits.dtype)
    if behaviour.top_k:
        logits = _likeliest(logits, lambda is_in_NxV: is_in_NxV.sum(-1) >= behaviour.top_k)
    if behaviour.top_p is not None:
        p, top_p = jax.nn.softmax(logits, axis=-1), behaviour.top_p
        logits = _likeliest(logits, lambda is_in_NxV: jnp.where(is_in_NxV, p, 0).sum(-1) >= top_p)
    return logits


def _likeliest(logits: jax.Array, is_enough: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """The logits [N, V] of the fewest likeliest items that are enough, ties included; -inf for the others.

    The least of these logits is found by bisection over all numbers of their type: unlike sorting, that
    leaves a vocabulary that is split over devices where it is.
    """
    bits = jnp.finfo(logits.dtype).bits
    pattern = jax.lax.bitcast_convert_type(logits + 0.0, f"int{bits}")  # there is one zero
    order = jnp.where(pattern < 0, pattern ^ jnp.iinfo(pattern.dtype).max, pattern)  # as the numbers are ordered

    def halve(_, edges):
        low, high = edges  # from the one on there is enough, from the other on there is not
        middle = (low & high) + ((low ^ high) >> 1)
        enough = is_enough(order >= middle[:, None])
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    low, _ = jax.lax.fori_loop(0, bits, halve, (order.min(-1), order.max(-1) + 1))
    return jnp.where(order >= low[:, None], logits, -jnp.inf)


@checked
def draw_items(uniform_2xN: Float[Array, "2 N"], logits: Float[Array, "N V"]) -> Int[Array, " N"]:
    """One item of each row, in proportion to the exponentials of its logits; one of -inf is never drawn.

    By inversion, first of a group of neighbours, then within it: of two random numbers for each row, from
    [0, 1), where the Gumbel trick takes one for each item.
    """
    weights = jnp.exp(logits - logits.max(-1, keepdims=True))
    # As many groups as the vocabulary's size is a multiple of: a vocabulary that is split over devices stays so.
    groups = weights.reshape(len(weights), math.gcd(weights.shape[1], VOCABULARY_MULTIPLE), -1)
    which, where = uniform_2xN
    group_N = _invert(which, groups.sum(-1))
    inside = jnp.take_along_axis(groups, group_N[:, None, None], axis=1)[:, 0]
    return (group_N * groups.shape[-1] + _invert(where, inside)).astype(jnp.int32)


def _invert(uniform_N: jax.Array, weights_NxI: jax.Array) -> jax.Array:
    """The first item up to which the weights sum to more than this share of them all."""
    sums = jnp.cumsum(weights_NxI, axis=1)
    is_behind = (sums > uniform_N[:, None] * sums[:, -1:]) & (weights_NxI > 0)
    # Rounded sums may not grow everywhere: where no item is behind, it is the likeliest.
    return jnp.where(is_behind.any(1), is_behind.argmax(1), weights_NxI.argmax(1))
