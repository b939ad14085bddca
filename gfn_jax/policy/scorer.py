"""Log-probabilities of given continuations, by one teacher-forced pass over all of their states."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gfn_jax.models.language_model import LanguageModel
from gfn_jax.policy.masks import Rules, mask_logits, support_tolerance
from gfn_jax.types import Prompts, Scores, Trajectories, checked

CHUNK_ELEMENTS = 1 << 23
"""Most logits held at once: states are read out in chunks, so that [N, T, V] never exists."""


@checked
def hidden_states(model: LanguageModel, prompts: Prompts, trajectories: Trajectories) -> Float[Array, "N T D"]:
    """The last hidden state at every state of every trajectory; prompts are encoded once each."""
    batch = prompts.length_B.shape[0]
    tokens_BxSxL = trajectories.tokens_NxL.reshape(batch, -1, trajectories.tokens_NxL.shape[-1])
    hidden_BxSxTxD = model.states(prompts, tokens_BxSxL)
    return hidden_BxSxTxD.reshape(-1, *hidden_BxSxTxD.shape[2:])


class Chunk(NamedTuple):
    """Some neighbouring states of all trajectories, whose logits are there at one time.

    step_C               how many tokens are before each state
    drawn_NxC            the item that was drawn there: ⊤ at a trajectory's last state, and behind it
    frozen_hidden_NxCxD  the frozen model's hidden states, where they were handed to `read_out`
    """

    step_C: jax.Array
    drawn_NxC: jax.Array
    frozen_hidden_NxCxD: jax.Array | None


@checked
def read_out(
    model: LanguageModel,
    hidden_NxTxD: Float[Array, "N T D"],
    trajectories: Trajectories,
    terminator: int,
    *,
    mask: Callable[[jax.Array, Chunk], jax.Array] | None = None,
    frozen_hidden_NxTxD: Float[Array, "N T D"] | None = None,
) -> tuple[Float[Array, "N L"], Float[Array, "N T"]]:
    """log p(y_{t+1} | s_t) and log p(⊤ | s_t), from the model's hidden states at all states s_t.

    The softmax is of the model's logits, chunk by chunk: as they are, or as `mask(logits_NxCxV, chunk)` returns
    them, which are the same but for -inf at what a state may not do. That reads -inf here, too.

    The values are differentiated by `hidden_NxTxD` alone. With head vectors w_v, the gradient of log p(v) by it is
    w_v - sum_u p(u) w_u; where gradients are asked for the mean is taken along with the values, so that
    no logits are kept or computed again for the backward pass.
    """
    rows, states = hidden_NxTxD.shape[:2]
    size = max(1, min(states, CHUNK_ELEMENTS // (rows * model.architecture.padded_vocab_size)))
    in_chunks = functools.partial(_in_chunks, size=size)
    drawn_NxT = _drawn_items(trajectories, terminator)
    ends_NxT = jnp.full_like(drawn_NxT, terminator)
    steps = jnp.arange(-(-states // size) * size).reshape(-1, size)
    chunks = Chunk(steps, *jax.tree.map(in_chunks, (drawn_NxT, frozen_hidden_NxTxD)))

    def compute(hidden_NxTxD, *, with_mean: bool):
        def one_chunk(given):
            chunk, hidden_NxCxD, ends_NxC = given
            logits = model.logits(hidden_NxCxD)
            if mask is not None:
                logits = mask(logits, chunk)
            (taken, end), weights, total = _log_probs_at((chunk.drawn_NxC, ends_NxC), logits)
            mean = model.mean_logit_gradient(weights) / total[..., None] if with_mean else None
            return taken, end, mean

        read = jax.lax.map(one_chunk, (chunks, in_chunks(hidden_NxTxD), in_chunks(ends_NxT)))
        return jax.tree.map(lambda x: _whole(x, states), read)

    @jax.custom_vjp
    def log_probs(hidden_NxTxD):
        return compute(hidden_NxTxD, with_mean=False)[:2]

    def forward(hidden_NxTxD):
        *log_p, mean_NxTxD = compute(hidden_NxTxD, with_mean=True)
        return tuple(log_p), mean_NxTxD

    def backward(mean_NxTxD, cotangents):
        parts = [
            ct_NxT[..., None] * (model.logit_gradients(tokens_NxT) - mean_NxTxD)
            for ct_NxT, tokens_NxT in zip(cotangents, (drawn_NxT, ends_NxT), strict=True)
        ]
        return ((parts[0] + parts[1]).astype(hidden_NxTxD.dtype),)

    log_probs.defvjp(forward, backward)
    log_next_NxT, log_terminator_NxT = log_probs(hidden_NxTxD)
    return log_next_NxT[:, :-1], log_terminator_NxT


def _in_chunks(x: jax.Array, size: int) -> jax.Array:
    """[N, T, ..] -> [chunks, N, size, ..], the last chunk padded."""
    rows, states = x.shape[:2]
    chunks = -(-states // size)
    padded = jnp.pad(x, [(0, 0), (0, chunks * size - states), *[(0, 0)] * (x.ndim - 2)])
    return jnp.moveaxis(padded.reshape(rows, chunks, size, *x.shape[2:]), 1, 0)


def _whole(x: jax.Array, states: int) -> jax.Array:
    """The inverse of `_in_chunks`."""
    chunks, rows, size = x.shape[:3]
    return jnp.moveaxis(x, 0, 1).reshape(rows, chunks * size, *x.shape[3:])[:, :states]


def _drawn_items(trajectories: Trajectories, terminator: int) -> Int[Array, "N T"]:
    """The item that was drawn at every state: ⊤ at a trajectory's last one, and behind it."""
    is_token_NxL, _ = reached(trajectories)
    drawn_NxL = jnp.where(is_token_NxL, trajectories.tokens_NxL, terminator)
    return jnp.pad(drawn_NxL, [(0, 0), (0, 1)], constant_values=terminator)


def _log_probs_at(items: Sequence[jax.Array], logits: jax.Array) -> tuple[list[jax.Array], jax.Array, jax.Array]:
    """The log-softmax [N, C] at each of these items [N, C]; and its weights before they are divided by their total."""
    at_items = [jnp.take_along_axis(logits, each[..., None], axis=-1)[..., 0] for each in items]
    highest = logits.max(-1, keepdims=True)
    weights = jnp.exp(logits - highest)
    total = weights.sum(-1)
    log_total = highest[..., 0] + jnp.log(total)
    return [values - log_total for values in at_items], weights, total


@checked
def reached(trajectories: Trajectories) -> tuple[Bool[Array, "N L"], Bool[Array, "N T"]]:
    """Which tokens belong to each trajectory, and which states it got to."""
    steps = jnp.arange(trajectories.tokens_NxL.shape[1] + 1)[None, :]
    length = trajectories.length_N[:, None]
    return steps[:, :-1] < length, steps <= length


@checked
def score(
    policy: LanguageModel, frozen: LanguageModel, rules: Rules, prompts: Prompts, trajectories: Trajectories
) -> Scores:
    """The policy's log-probabilities along the trajectories, under the same masks as in sampling.

    A token that the masks forbid at its state has log-probability -inf.
    """
    hidden_NxTxD, frozen_hidden_NxTxD = hidden_states(policy, prompts, trajectories), None
    if rules.needs_frozen_logits:
        frozen_hidden_NxTxD = hidden_states(frozen, prompts, trajectories)
    tolerance = support_tolerance(hidden_NxTxD.dtype)

    def mask(logits_NxCxV: jax.Array, chunk: Chunk) -> jax.Array:
        frozen_hidden = chunk.frozen_hidden_NxCxD
        frozen_logits = None if frozen_hidden is None else frozen.logits(frozen_hidden)
        step = chunk.step_C[None, :]
        return mask_logits(rules, logits_NxCxV, step, frozen_logits, drawn=chunk.drawn_NxC, tolerance=tolerance)

    log_next, log_terminator = read_out(
        policy, hidden_NxTxD, trajectories, rules.terminator, mask=mask, frozen_hidden_NxTxD=frozen_hidden_NxTxD
    )
    is_token_NxL, is_state_NxT = reached(trajectories)
    # At the support's edge rounding may differ from the sampler's: what it could not stop at has no reward.
    is_terminable_NxT = is_state_NxT & trajectories.is_terminable_NxT & (log_terminator > -jnp.inf)
    return Scores(
        log_pf_NxL=jnp.where(is_token_NxL, log_next, 0),
        log_pterm_NxT=jnp.where(is_terminable_NxT, log_terminator, 0),
        is_terminable_NxT=is_terminable_NxT,
    )


def only_last_state(scores: Scores, trajectories: Trajectories) -> Scores:
    """The scores with every trajectory terminable at its last state alone, as a terminal reward sees it."""
    is_last_NxT = jnp.arange(scores.is_terminable_NxT.shape[1])[None, :] == trajectories.length_N[:, None]
    return Scores(scores.log_pf_NxL, scores.log_pterm_NxT, scores.is_terminable_NxT & is_last_NxT)


@checked
def frozen_log_probs(
    frozen: LanguageModel, prompts: Prompts, trajectories: Trajectories, terminator: int
) -> tuple[Float[Array, "N L"], Float[Array, "N T"]]:
    """The frozen model's own log p(y_{t+1} | s_t) and log p(⊤ | s_t) over its full vocabulary: no masks.

    Zero at tokens and states that the trajectory does not reach.
    """
    hidden = hidden_states(frozen, prompts, trajectories)
    log_next, log_terminator = read_out(frozen, hidden, trajectories, terminator)
    is_token_NxL, is_state_NxT = reached(trajectories)
    return jnp.where(is_token_NxL, log_next, 0), jnp.where(is_state_NxT, log_terminator, 0)
