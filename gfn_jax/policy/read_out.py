"""Log-probabilities out of hidden states: the softmax over the vocabulary is never there for all of them at once."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gfn_jax.models.language_model import LanguageModel
from gfn_jax.types import checked

CHUNK_ELEMENTS = 1 << 23
"""Most logits held at once: states are read out in chunks, so that [N, T, V] never exists."""


class Chunk(NamedTuple):
    """Some neighbouring states of every row, whose logits are there at one time.

    step_GxC             how many tokens are before each state
    drawn_GxC            the item that was drawn there: ⊤ at a trajectory's last state, and behind it
    frozen_hidden_GxCxD  the frozen model's hidden states, where they were handed to `read_out`
    """

    step_GxC: jax.Array
    drawn_GxC: jax.Array
    frozen_hidden_GxCxD: jax.Array | None


@checked
def read_out(
    model: LanguageModel,
    hidden_GxMxD: Float[Array, "G M D"],
    states: Chunk,
    terminator: int,
    *,
    mask: Callable[[jax.Array, Chunk], jax.Array] | None = None,
) -> tuple[Float[Array, "G M"], Float[Array, "G M"]]:
    """log p(what was drawn | s) and log p(⊤ | s), from the model's hidden states at all these states s.

    The softmax is of the model's logits, chunk by chunk: as they are, or as `mask(logits_GxCxV, chunk)` returns
    them, which are the same but for -inf at what a state may not do. That reads -inf here, too.

    The values are differentiated by `hidden_GxMxD` alone. With head vectors w_v, the gradient of log p(v) by it is
    w_v - sum_u p(u) w_u; where gradients are asked for the mean is taken along with the values, so that
    no logits are kept or computed again for the backward pass.
    """
    rows, count = hidden_GxMxD.shape[:2]
    most = max(1, min(count, CHUNK_ELEMENTS // (rows * model.architecture.padded_vocab_size)))
    in_chunks = functools.partial(_in_chunks, size=-(-count // -(-count // most)))
    drawn_GxM, ends_GxM = states.drawn_GxC, jnp.full_like(states.drawn_GxC, terminator)
    chunks = jax.tree.map(in_chunks, states)

    def compute(hidden_GxMxD, *, with_mean: bool):
        def one_chunk(given):
            chunk, hidden_GxCxD, ends_GxC = given
            logits = model.logits(hidden_GxCxD)
            if mask is not None:
                logits = mask(logits, chunk)
            (taken, end), weights, total = _log_probs_at((chunk.drawn_GxC, ends_GxC), logits)
            mean = model.mean_logit_gradient(weights) / total[..., None] if with_mean else None
            return taken, end, mean

        read = jax.lax.map(one_chunk, (chunks, in_chunks(hidden_GxMxD), in_chunks(ends_GxM)))
        return jax.tree.map(lambda x: _whole(x, count), read)

    @jax.custom_vjp
    def log_probs(hidden_GxMxD):
        return compute(hidden_GxMxD, with_mean=False)[:2]

    def forward(hidden_GxMxD):
        *log_p, mean_GxMxD = compute(hidden_GxMxD, with_mean=True)
        return tuple(log_p), mean_GxMxD

    def backward(mean_GxMxD, cotangents):
        parts = [
            ct_GxM[..., None] * (model.logit_gradients(tokens_GxM) - mean_GxMxD)
            for ct_GxM, tokens_GxM in zip(cotangents, (drawn_GxM, ends_GxM), strict=True)
        ]
        return ((parts[0] + parts[1]).astype(hidden_GxMxD.dtype),)

    log_probs.defvjp(forward, backward)
    return log_probs(hidden_GxMxD)


def _in_chunks(x: jax.Array, size: int) -> jax.Array:
    """[G, M, ..] -> [chunks, G, size, ..], the last chunk padded."""
    rows, count = x.shape[:2]
    chunks = -(-count // size)
    padded = jnp.pad(x, [(0, 0), (0, chunks * size - count), *[(0, 0)] * (x.ndim - 2)])
    return jnp.moveaxis(padded.reshape(rows, chunks, size, *x.shape[2:]), 1, 0)


def _whole(x: jax.Array, count: int) -> jax.Array:
    """The inverse of `_in_chunks`."""
    chunks, rows, size = x.shape[:3]
    return jnp.moveaxis(x, 0, 1).reshape(rows, chunks * size, *x.shape[3:])[:, :count]


def _log_probs_at(items: Sequence[jax.Array], logits: jax.Array) -> tuple[list[jax.Array], jax.Array, jax.Array]:
    """The log-softmax [G, C] at each of these items [G, C]; and its weights before they are divided by their total."""
    at_items = [jnp.take_along_axis(logits, each[..., None], axis=-1)[..., 0] for each in items]
    highest = logits.max(-1, keepdims=True)
    weights = jnp.exp(logits - highest)
    total = weights.sum(-1)
    log_total = highest[..., 0] + jnp.log(total)
    return [values - log_total for values in at_items], weights, total
