"""Log-probabilities of given continuations, by one teacher-forced pass over all of their states."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gfn_jax.models.language_model import LanguageModel
from gfn_jax.policy.masks import Rules, mask_logits
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


@checked
def read_out(
    model: LanguageModel,
    logits_of: Callable[..., jax.Array],
    hidden: tuple[Float[Array, "N T D"], ...],
    trajectories: Trajectories,
    terminator: int,
) -> tuple[Float[Array, "N L"], Float[Array, "N T"]]:
    """log p(y_{t+1} | s_t) and log p(⊤ | s_t) under the softmax of logits computed chunk by chunk.

    `logits_of(steps_C, drawn_NxC, *hidden_NxCxD)` gives the logits [N, C, V] of the states at
    `steps_C`, where `drawn_NxC` was taken (⊤ at a trajectory's last state): those of `model` for the
    first of `hidden`, masked. What a state may not do reads -inf.

    Only the first of `hidden` is differentiated. With head vectors w_v, the gradient of log p(v) by it is
    w_v - sum_u p(u) w_u; where gradients are asked for the mean is taken along with the values, so that
    no logits are kept or computed again for the backward pass.
    """
    rows, states = hidden[0].shape[:2]
    chunk = max(1, min(states, CHUNK_ELEMENTS // (rows * model.architecture.padded_vocab_size)))
    chunks = -(-states // chunk)

    def in_chunks(x):  # [N, T, ..] -> [chunks, N, C, ..], the last chunk padded
        padded = jnp.pad(x, [(0, 0), (0, chunks * chunk - states), *[(0, 0)] * (x.ndim - 2)])
        return jnp.moveaxis(padded.reshape(rows, chunks, chunk, *x.shape[2:]), 1, 0)

    def whole(x):  # back again
        return jnp.moveaxis(x, 0, 1).reshape(rows, chunks * chunk, *x.shape[3:])[:, :states]

    is_token_NxL, _ = reached(trajectories)
    drawn_NxT = jnp.pad(
        jnp.where(is_token_NxL, trajectories.tokens_NxL, terminator), [(0, 0), (0, 1)], constant_values=terminator
    )
    ends_NxT = jnp.full_like(drawn_NxT, terminator)
    steps = jnp.arange(chunks * chunk).reshape(chunks, chunk)

    def compute(hidden_NxTxD, *, with_mean: bool):
        def one_chunk(chunk_of):
            steps_C, drawn_NxC, ends_NxC, *hidden_NxCxD = chunk_of
            logits = logits_of(steps_C, drawn_NxC, *hidden_NxCxD)
            taken, end = (jnp.take_along_axis(logits, at[..., None], axis=-1)[..., 0] for at in (drawn_NxC, ends_NxC))
            highest = logits.max(-1, keepdims=True)
            weights = jnp.exp(logits - highest)
            total = weights.sum(-1)
            log_total = highest[..., 0] + jnp.log(total)
            mean = model.mean_logit_gradient(weights) / total[..., None] if with_mean else None
            return taken - log_total, end - log_total, mean

        inputs = (steps, *map(in_chunks, (drawn_NxT, ends_NxT, hidden_NxTxD, *hidden[1:])))
        return jax.tree.map(whole, jax.lax.map(one_chunk, inputs))

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
        return ((parts[0] + parts[1]).astype(hidden[0].dtype),)

    log_probs.defvjp(forward, backward)
    log_next_NxT, log_terminator_NxT = log_probs(hidden[0])
    return log_next_NxT[:, :-1], log_terminator_NxT


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
    hidden = [hidden_states(policy, prompts, trajectories)]
    if rules.needs_frozen_logits:
        hidden.append(hidden_states(frozen, prompts, trajectories))

    def logits_of(steps_C, drawn_NxC, policy_hidden, frozen_hidden=None):
        frozen_logits = None if frozen_hidden is None else frozen.logits(frozen_hidden)
        dtype = policy_hidden.dtype.name
        return mask_logits(rules, policy.logits(policy_hidden), steps_C[None, :], frozen_logits, drawn_NxC, dtype)

    log_next, log_terminator = read_out(policy, logits_of, tuple(hidden), trajectories, rules.terminator)
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
    log_next, log_terminator = read_out(
        frozen, lambda _steps, _drawn, hidden: frozen.logits(hidden), (hidden,), trajectories, terminator
    )
    is_token_NxL, is_state_NxT = reached(trajectories)
    return jnp.where(is_token_NxL, log_next, 0), jnp.where(is_state_NxT, log_terminator, 0)
