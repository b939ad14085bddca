"""The training objectives, pure functions on arrays, all of the same signature.

For a terminable state let

    g[t] = log_r[t] - log_pterm[t] - sum_{k<t} log_pf[k].

A policy samples in proportion to R if and only if, for every prompt x, g equals log Z(x) at every
terminable state of every trajectory. The objectives are different ways to make g constant. Each
takes g, log R and their mask, the estimates of log Z (which only `tb` reads) and the number of
samples for each prompt, and gives one loss for each prompt: a sum of weighted squares over the sum
of the weights, or over 1 if that is less.

Beside these `OBJECTIVES` there is a control, `reinforce`, which maximises log R instead.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gfn_jax.types import Scores, checked


def log_ratio(scores: Scores, log_r_NxT: Float[Array, "N T"]) -> Float[Array, "N T"]:
    """g at every state; 0 where the state is not terminable."""
    return _log_ratio(scores.log_pf_NxL, scores.log_pterm_NxT, scores.is_terminable_NxT, log_r_NxT)


@checked
def _log_ratio(
    log_pf_NxL: Float[Array, "N L"],
    log_pterm_NxT: Float[Array, "N L+1"],
    is_terminable_NxT: Bool[Array, "N L+1"],
    log_r_NxT: Float[Array, "N L+1"],
) -> Float[Array, "N L+1"]:
    log_pf_sum_NxT = jnp.pad(jnp.cumsum(log_pf_NxL, axis=1), [(0, 0), (1, 0)])
    return jnp.where(is_terminable_NxT, log_r_NxT - log_pterm_NxT - log_pf_sum_NxT, 0)


@checked
def at_last_state(values_NxT: Float[Array, "N T"], is_terminable_NxT: Bool[Array, "N T"]) -> Float[Array, " N"]:
    """The values where each trajectory stops; of g this is log R(y ⊤) - log π(y ⊤)."""
    states = jnp.arange(values_NxT.shape[1])[None, :]
    last_N = jnp.where(is_terminable_NxT, states, -1).max(axis=1)
    return jnp.take_along_axis(values_NxT, last_N[:, None], axis=1)[:, 0]


@checked
def subtb(
    g_NxT: Float[Array, "N T"],
    log_r_NxT: Float[Array, "N T"],
    is_terminable_NxT: Bool[Array, "N T"],
    log_z_B: Float[Array, " B"],
    *,
    samples_per_prompt: int,
    subtb_lambda: float,
) -> Float[Array, " B"]:
    """Modified sub-trajectory balance (Hu et al. 2024, eq. 3).

    The mean of lambda^(j-i-1) (g[j] - g[i])^2 over the terminable states i < j of each trajectory,
    counted one after the other. With g as a difference of logarithms this is their
    log [R(s_i ⊤) prod_{i<=k<j} π(y_{k+1} | s_k) π(⊤ | s_j)] - log [R(s_j ⊤) π(⊤ | s_i)], squared.

    Where the empty continuation is not terminable, each trajectory also starts from a state that
    stands just before its first terminable one. Its g is a constant estimate of log Z(x): the mean
    of what the prompt's other trajectories pair with their start, with those pairs' weights.
    Without it the tokens before the first terminable state would never be trained.
    """
    pair_squares_N, pair_weights_N = _pairs(g_NxT, is_terminable_NxT, subtb_lambda)
    start_squares_N, start_weights_N = _start_pairs(g_NxT, is_terminable_NxT, samples_per_prompt, subtb_lambda)
    return _weighted_mean(pair_squares_N + start_squares_N, pair_weights_N + start_weights_N, samples_per_prompt)


@checked
def db(
    g_NxT: Float[Array, "N T"],
    log_r_NxT: Float[Array, "N T"],
    is_terminable_NxT: Bool[Array, "N T"],
    log_z_B: Float[Array, " B"],
    *,
    samples_per_prompt: int,
    subtb_lambda: float,
) -> Float[Array, " B"]:
    """Detailed balance over neighbouring terminable states (Deleu et al. 2022): `subtb` as lambda goes to 0."""
    return subtb(g_NxT, log_r_NxT, is_terminable_NxT, log_z_B, samples_per_prompt=samples_per_prompt, subtb_lambda=0.0)


@checked
def pooled(
    g_NxT: Float[Array, "N T"],
    log_r_NxT: Float[Array, "N T"],
    is_terminable_NxT: Bool[Array, "N T"],
    log_z_B: Float[Array, " B"],
    *,
    samples_per_prompt: int,
    subtb_lambda: float,
) -> Float[Array, " B"]:
    """The variance of g over all terminable states of all trajectories of a prompt."""
    return _variance(g_NxT, is_terminable_NxT, samples_per_prompt)


@checked
def vargrad(
    g_NxT: Float[Array, "N T"],
    log_r_NxT: Float[Array, "N T"],
    is_terminable_NxT: Bool[Array, "N T"],
    log_z_B: Float[Array, " B"],
    *,
    samples_per_prompt: int,
    subtb_lambda: float,
) -> Float[Array, " B"]:
    """The variance of g over the last states of a prompt's trajectories (Richter et al. 2020; Zhang et al. 2023)."""
    last_N = at_last_state(g_NxT, is_terminable_NxT)
    return _variance(last_N[:, None], is_terminable_NxT.any(axis=1, keepdims=True), samples_per_prompt)


@checked
def tb(
    g_NxT: Float[Array, "N T"],
    log_r_NxT: Float[Array, "N T"],
    is_terminable_NxT: Bool[Array, "N T"],
    log_z_B: Float[Array, " B"],
    *,
    samples_per_prompt: int,
    subtb_lambda: float,
) -> Float[Array, " B"]:
    """Trajectory balance (Malkin et al. 2022): (g - log Z(x))^2 at the last state, log Z(x) learned."""
    mask_N = is_terminable_NxT.any(axis=1).astype(g_NxT.dtype)
    deviations_N = at_last_state(g_NxT, is_terminable_NxT) - jnp.repeat(log_z_B, samples_per_prompt)
    return _weighted_mean(mask_N * jnp.square(deviations_N), mask_N, samples_per_prompt)


@checked
def reinforce(
    g_NxT: Float[Array, "N T"],
    log_r_NxT: Float[Array, "N T"],
    is_terminable_NxT: Bool[Array, "N T"],
    log_z_B: Float[Array, " B"],
    *,
    samples_per_prompt: int,
    subtb_lambda: float,
) -> Float[Array, " B"]:
    """No sampler but a control: the policy gradient (Williams 1992) of the expected log R where trajectories stop.

    Its value is minus the mean log R of a prompt's N trajectories, and its gradient minus the mean of
    (log R - baseline) d log π(y ⊤), with the mean log R of the prompt's *other* trajectories as baseline (Kool et al.
    2019). So the trajectories must be the policy's own, and there must be two or more for a prompt. Where this
    stands still, all of the policy's mass is on the texts of highest reward.
    """
    mask_N = is_terminable_NxT.any(axis=1).astype(g_NxT.dtype)
    log_r_N = jax.lax.stop_gradient(mask_N * at_last_state(log_r_NxT, is_terminable_NxT))
    log_pi_N = log_r_N - at_last_state(g_NxT, is_terminable_NxT)
    others_N = _all_but_own(mask_N, samples_per_prompt)
    baseline_N = _all_but_own(log_r_N, samples_per_prompt) / jnp.maximum(others_N, 1)
    advantage_N = jnp.where(others_N > 0, log_r_N - baseline_N, 0)  # one that is alone is no better than any other
    surrogate_N = mask_N * advantage_N * (log_pi_N - jax.lax.stop_gradient(log_pi_N))  # 0, but for its gradient
    by_prompt = (-1, samples_per_prompt)
    return -(log_r_N + surrogate_N).reshape(by_prompt).sum(1) / jnp.maximum(mask_N.reshape(by_prompt).sum(1), 1)


OBJECTIVES: dict[str, Callable[..., jax.Array]] = {
    "subtb": subtb,
    "db": db,
    "pooled": pooled,
    "vargrad": vargrad,
    "tb": tb,
}
CONTROLS: dict[str, Callable[..., jax.Array]] = {"reinforce": reinforce}
"""What is no sampler, for comparison."""


def _weighted_mean(squares_N, weights_N, samples_per_prompt):
    by_prompt = (-1, samples_per_prompt)
    return squares_N.reshape(by_prompt).sum(1) / jnp.maximum(weights_N.reshape(by_prompt).sum(1), 1)


def _variance(g_NxT, mask_NxT, samples_per_prompt):
    """The variance of each prompt's masked values."""
    by_prompt = (-1, samples_per_prompt * g_NxT.shape[1])
    g, mask = g_NxT.reshape(by_prompt), mask_NxT.reshape(by_prompt).astype(g_NxT.dtype)
    count_B = jnp.maximum(mask.sum(1), 1)
    mean_B = (mask * g).sum(1) / count_B
    return (mask * jnp.square(g - mean_B[:, None])).sum(1) / count_B


def _pairs(g_NxT, is_terminable_NxT, subtb_lambda):
    """Weighted squares and weights of the pairs i < j of terminable states, summed for each trajectory."""
    mask = is_terminable_NxT.astype(g_NxT.dtype)
    count_N = mask.sum(1)
    if subtb_lambda == 1:
        # The sum over pairs of (g[j] - g[i])^2 is the count times the squared deviations from the mean.
        mean_N = (mask * g_NxT).sum(1) / jnp.maximum(count_N, 1)
        deviations_NxT = mask * (g_NxT - mean_N[:, None])
        return count_N * jnp.square(deviations_NxT).sum(1), count_N * (count_N - 1) / 2
    if subtb_lambda == 0:
        # Every terminable state with the last one before it.
        states = jnp.where(is_terminable_NxT, jnp.arange(g_NxT.shape[1])[None, :], -1)
        before_NxT = jnp.pad(jax.lax.cummax(states, axis=1), [(0, 0), (1, 0)], constant_values=-1)[:, :-1]
        mask = (is_terminable_NxT & (before_NxT >= 0)).astype(g_NxT.dtype)
        differences = g_NxT - jnp.take_along_axis(g_NxT, jnp.maximum(before_NxT, 0), axis=1)
        return (mask * jnp.square(differences)).sum(1), mask.sum(1)
    rank_NxT = jnp.cumsum(is_terminable_NxT, axis=1)
    gap_NxTxT = rank_NxT[:, None, :] - rank_NxT[:, :, None]  # [n, i, j]: how far j stands after i
    is_pair = is_terminable_NxT[:, None, :] & is_terminable_NxT[:, :, None] & (gap_NxTxT > 0)
    weights = jnp.where(is_pair, _power(subtb_lambda, gap_NxTxT - 1, g_NxT.dtype), 0)
    squares = jnp.square(g_NxT[:, None, :] - g_NxT[:, :, None])
    return (weights * squares).sum((1, 2)), weights.sum((1, 2))


def _start_pairs(g_NxT, is_terminable_NxT, samples_per_prompt, subtb_lambda):
    """The same for the pairs of the start state with every terminable state; 0 where no start is needed."""
    rank_NxT = jnp.cumsum(is_terminable_NxT, axis=1)
    is_paired_NxT = is_terminable_NxT & ~is_terminable_NxT[:, :1]
    weights_NxT = jnp.where(is_paired_NxT, _power(subtb_lambda, rank_NxT - 1, g_NxT.dtype), 0)
    # Centred on a constant of the prompt, so that large log Z costs no precision in the leave-one-out sums.
    per_prompt = (-1, samples_per_prompt * g_NxT.shape[1])
    weight_B = weights_NxT.reshape(per_prompt).sum(1)
    centre_B = (weights_NxT * g_NxT).reshape(per_prompt).sum(1) / jnp.maximum(weight_B, 1)
    centre_N = jax.lax.stop_gradient(jnp.repeat(centre_B, samples_per_prompt))
    centred_NxT = g_NxT - centre_N[:, None]

    own_weight_N, own_sum_N = weights_NxT.sum(1), (weights_NxT * centred_NxT).sum(1)
    others_weight_N = _all_but_own(own_weight_N, samples_per_prompt)
    others_sum_N = _all_but_own(own_sum_N, samples_per_prompt)
    start_g_N = jax.lax.stop_gradient(others_sum_N / jnp.where(others_weight_N > 0, others_weight_N, 1))
    weights_NxT = jnp.where(others_weight_N[:, None] > 0, weights_NxT, 0)
    squares_NxT = jnp.square(centred_NxT - start_g_N[:, None])
    return (weights_NxT * squares_NxT).sum(1), weights_NxT.sum(1)


def _all_but_own(x_N, samples_per_prompt):
    per_prompt = x_N.reshape(-1, samples_per_prompt)
    return (per_prompt.sum(1, keepdims=True) - per_prompt).reshape(-1)


def _power(base: float, exponent, dtype):
    """base^exponent for whole exponents of 0 or more, with 0^0 = 1."""
    return jnp.power(jnp.asarray(base, dtype), jnp.maximum(exponent, 0).astype(dtype))
