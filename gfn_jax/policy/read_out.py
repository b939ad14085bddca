"""Log-probabilities out of hidden states: the softmax over the vocabulary is never there for all of them at once."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gfn_jax.models.language_model import LanguageModel
from gfn_jax.types import checked

CHUNK_ELEMENTS, FEWEST_STATES = 1 << 23, 256
"""Most logits of a row held at once: states are read out in chunks, so that [N, T, V] never exists.

But not of fewer states than these, for which the whole head is read.
"""


class States(NamedTuple):
    """States of every row of a packing.

    step_WxU             how many tokens are before each state
    drawn_WxU            the item that was drawn there: ⊤ at a trajectory's last state, and behind it
    frozen_hidden_WxUxD  the frozen model's hidden states, where the mask needs them
    """

    step_WxU: jax.Array
    drawn_WxU: jax.Array
    frozen_hidden_WxUxD: jax.Array | None


@checked
def read_out(
    model: LanguageModel,
    hidden_WxUxD: Float[Array, "W U D"],
    states: States,
    terminator: int,
    *,
    mask: Callable[[jax.Array, States], jax.Array] | None = None,
) -> tuple[Float[Array, "W U"], Float[Array, "W U"]]:
    """log p(what was drawn | s) and log p(⊤ | s), from the model's hidden states at all these states s.

    The softmax is of the model's logits, chunk by chunk: as they are, or as `mask(logits_WxCxV, chunk)` returns
    them, which are the same but for -inf at what a state may not do. That reads -inf here, too.

    The values are differentiated by `hidden_WxUxD` alone. With head vectors w_v, the gradient of log p(v) by it is
    w_v - sum_u p(u) w_u; where gradients are asked for the mean is taken along with the values, so that
    no logits are kept or computed again for the backward pass.
    """
    count = hidden_WxUxD.shape[1]
    most = min(count, max(FEWEST_STATES, CHUNK_ELEMENTS // model.architecture.padded_vocab_size))
    in_chunks = functools.partial(_in_chunks, size=-(-count // -(-count // most)))
    drawn_WxU, ends_WxU = states.drawn_WxU, jnp.full_like(states.drawn_WxU, terminator)
    chunks = jax.tree.map(in_chunks, states)

    def compute(hidden_WxUxD, *, with_mean: bool):
        def one_chunk(given):
            chunk, hidden_WxCxD, ends_WxC = given
            logits = model.logits(hidden_WxCxD)
            if mask is not None:
                logits = mask(logits, chunk)
            (taken, end), weights, total = _log_probs_at((chunk.drawn_WxU, ends_WxC), logits)
            mean = model.mean_logit_gradient(weights) / total[..., None] if with_mean else None
            return taken, end, mean

        read = jax.lax.map(one_chunk, (chunks, in_chunks(hidden_WxUxD), in_chunks(ends_WxU)))
        return jax.tree.map(lambda x: _whole(x, count), read)

    @jax.custom_vjp
    def log_probs(hidden_WxUxD):
        return compute(hidden_WxUxD, with_mean=False)[:2]

    def forward(hidden_WxUxD):
        *log_p, mean_WxUxD = compute(hidden_WxUxD, with_mean=True)
        return tuple(log_p), mean_WxUxD

    def backward(mean_WxUxD, cotangents):
        parts = [
            ct_WxU[..., None] * (model.logit_gradients(tokens_WxU) - mean_WxUxD)
            for ct_WxU, tokens_WxU in zip(cotangents, (drawn_WxU, ends_WxU), strict=True)
        ]
        return ((parts[0] + parts[1]).astype(hidden_WxUxD.dtype),)

    log_probs.defvjp(forward, backward)
    return log_probs(hidden_WxUxD)


def _in_chunks(x: jax.Array, size: int) -> jax.Array:
    """[W, U, ..] -> [chunks, W, size, ..], the last chunk padded."""
    rows, count = x.shape[:2]
    chunks = -(-count // size)
    padded = jnp.pad(x, [(0, 0), (0, chunks * size - count), *[(0, 0)] * (x.ndim - 2)])
    return jnp.moveaxis(padded.reshape(rows, chunks, size, *x.shape[2:]), 1, 0)


def _whole(x: jax.Array, count: int) -> jax.Array:
    """The inverse of `_in_chunks`."""
    chunks, rows, size = x.shape[:3]
    return jnp.moveaxis(x, 0, 1).reshape(rows, chunks * size, *x.shape[3:])[:, :count]


def _log_probs_at(items: Sequence[jax.Array], logits: jax.Array) -> tuple[list[jax.Array], jax.Array, jax.Array]:
    """The log-softmax [W, C] at each of these items [W, C]; and its weights before they are divided by their total."""
    at_items = [jnp.take_along_axis(logits, each[..., None], axis=-1)[..., 0] for each in items]
    highest = logits.max(-1, keepdims=True)
    weights = jnp.exp(logits - highest)
    total = weights.sum(-1)
    log_total = highest[..., 0] + jnp.log(total)
    return [values - log_total for values in at_items], weights, total
