"""Modified SubTB against a float64 loop over pairs, and the properties that make it a GFlowNet objective."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gfn_jax.objectives import at_last_state, log_ratio, subtb
from gfn_jax.types import Scores

PROMPTS, SAMPLES, LENGTH = 2, 3, 5
LAMBDAS = (0.0, 0.5, 0.9, 1.0)


def random_case(seed, min_len=0, gaps=False):
    """Scores and log R of ragged trajectories, in float64; `gaps` makes inner states non-terminable."""
    rng = np.random.default_rng(seed)
    rows = PROMPTS * SAMPLES
    lengths = rng.integers(min_len, LENGTH + 1, rows)
    states = np.arange(LENGTH + 1)[None]
    reached = states <= lengths[:, None]
    terminable = reached & (states >= min_len)
    if gaps:
        terminable &= (rng.random(terminable.shape) < 0.6) | (states == lengths[:, None])
        by_prompt = terminable.reshape(PROMPTS, SAMPLES, -1)
        by_prompt[..., 0] = by_prompt[:, :1, 0] & (lengths.reshape(PROMPTS, SAMPLES) >= 0)
    log_pf = np.where(states[:, :-1] < lengths[:, None], -rng.exponential(2, (rows, LENGTH)), 0)
    log_pterm = np.where(terminable, -rng.exponential(2, (rows, LENGTH + 1)), 0)
    log_r = rng.normal(-5, 3, (rows, LENGTH + 1))
    return log_pf, log_pterm, terminable, log_r


def reference(log_pf, log_pterm, terminable, log_r, subtb_lambda, start_g=None):
    """The objective by definition: every pair of every trajectory, one after the other.

    Returns the losses and each trajectory's estimate of log Z, which may also be given (as a constant).
    """
    losses, estimates = [], []
    for prompt in range(PROMPTS):
        paths = []
        for row in range(prompt * SAMPLES, (prompt + 1) * SAMPLES):
            g = {}
            for state in range(LENGTH + 1):
                if terminable[row, state]:
                    g[state] = log_r[row, state] - log_pterm[row, state] - sum(log_pf[row, :state])
            paths.append(([g[state] for state in sorted(g)], 0 not in g))
        total = weight = 0.0
        for row, (path, needs_start) in enumerate(paths):
            for i, j in itertools.combinations(range(len(path)), 2):
                total += subtb_lambda ** (j - i - 1) * (path[j] - path[i]) ** 2
                weight += subtb_lambda ** (j - i - 1)
            others = [
                (subtb_lambda**rank, value)
                for other, (values, _) in enumerate(paths)
                if other != row
                for rank, value in enumerate(values)
            ]
            if not needs_start:
                estimates.append(0.0)
                continue
            estimate = sum(w * value for w, value in others) / sum(w for w, _ in others)
            if start_g is not None:
                estimate = start_g[prompt * SAMPLES + row]
            estimates.append(estimate)
            for rank, value in enumerate(path):
                total += subtb_lambda**rank * (value - estimate) ** 2
                weight += subtb_lambda**rank
        losses.append(total / max(weight, 1))
    return np.array(losses), estimates


@functools.partial(jax.jit, static_argnums=4)
def losses(log_pf, log_pterm, terminable, log_r, subtb_lambda):
    scores = Scores(log_pf, log_pterm, terminable)
    return subtb(scores, log_r, samples_per_prompt=SAMPLES, subtb_lambda=subtb_lambda)


@pytest.mark.parametrize("subtb_lambda", LAMBDAS)
@pytest.mark.parametrize(("min_len", "gaps"), [(0, False), (2, False), (0, True), (LENGTH, False)])
def test_values_and_gradients_equal_a_loop_over_all_pairs(subtb_lambda, min_len, gaps):
    with jax.enable_x64(True):
        for seed in range(3):
            case = random_case(seed, min_len, gaps)
            expected, estimates = reference(*case, subtb_lambda)
            np.testing.assert_allclose(losses(*case, subtb_lambda), expected, rtol=1e-12)

            gradient = jax.grad(lambda *args: losses(*args, subtb_lambda).sum(), argnums=(0, 1, 3))(*case)
            for argument, got in zip((0, 1, 3), gradient, strict=True):
                for index in [(0, 0), (1, 2), (4, 1), (5, 4)]:
                    up, down = ([array.copy() for array in case] for _ in range(2))
                    up[argument][index] += 1e-6
                    down[argument][index] -= 1e-6
                    slope = (
                        reference(*up, subtb_lambda, start_g=estimates)[0].sum()
                        - reference(*down, subtb_lambda, start_g=estimates)[0].sum()
                    ) / 2e-6
                    if argument != 1 or case[2][index]:
                        np.testing.assert_allclose(got[index], slope, rtol=1e-5, atol=1e-6)


def solve(case):
    """The same case with the rewards that its policy samples in proportion to."""
    log_pf, log_pterm, terminable, _ = case
    log_z = np.repeat([-300.0, 7.0], SAMPLES)[:, None]
    log_r = log_z + log_pterm + np.pad(np.cumsum(log_pf, 1), [(0, 0), (1, 0)])
    return log_pf, log_pterm, terminable, log_r


@pytest.mark.parametrize("subtb_lambda", LAMBDAS)
@pytest.mark.parametrize("min_len", [0, 2])
def test_loss_and_gradient_vanish_exactly_where_the_problem_is_solved(subtb_lambda, min_len):
    with jax.enable_x64(True):
        case = solve(random_case(5, min_len))
        value, gradient = jax.value_and_grad(lambda log_pf: losses(log_pf, *case[1:], subtb_lambda).sum())(case[0])
        assert value < 1e-20
        assert np.abs(gradient).max() < 1e-10


@pytest.mark.parametrize("subtb_lambda", LAMBDAS)
def test_perturbing_one_reward_changes_the_gradient(subtb_lambda):
    with jax.enable_x64(True):
        case = random_case(3, min_len=1)
        gradient = jax.grad(lambda *args: losses(*args, subtb_lambda).sum())
        before = gradient(*case)
        log_r = case[3].copy()
        row, state = np.argwhere(case[2])[-1]
        log_r[row, state] += 0.5
        assert np.abs(gradient(*case[:3], log_r) - before).max() > 1e-3


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20), min_len=st.sampled_from([0, 2]), subtb_lambda=st.sampled_from(LAMBDAS))
def test_invariances(seed, min_len, subtb_lambda):
    """A constant added to one prompt's log R, the order of its samples, and unreached states change nothing."""
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        case = random_case(seed, min_len)
        expected = losses(*case, subtb_lambda)
        log_pf, log_pterm, terminable, log_r = case
        shifted = log_r + np.repeat(rng.normal(0, 100, PROMPTS), SAMPLES)[:, None]
        np.testing.assert_allclose(losses(*case[:3], shifted, subtb_lambda), expected, rtol=1e-9)
        order = np.concatenate([prompt * SAMPLES + rng.permutation(SAMPLES) for prompt in range(PROMPTS)])
        np.testing.assert_allclose(losses(*(array[order] for array in case), subtb_lambda), expected, rtol=1e-12)
        junk = np.where(terminable, log_r, 1e6)
        np.testing.assert_allclose(losses(log_pf, log_pterm, terminable, junk, subtb_lambda), expected, rtol=1e-12)


def test_extreme_rewards_stay_finite_in_float32():
    log_pf, log_pterm, terminable, log_r = (np.asarray(x) for x in random_case(1, 1))
    for scale in (1e3, -1e3):
        case = [np.asarray(x, np.float32) for x in (log_pf, log_pterm)]
        value, gradient = jax.value_and_grad(
            lambda log_pf, case=case, scale=scale: losses(
                log_pf, case[1], terminable, np.asarray(log_r + scale, np.float32), 1.0
            ).sum()
        )(case[0])
        expected, _ = reference(log_pf, log_pterm, terminable, log_r, 1.0)
        np.testing.assert_allclose(value, expected.sum(), rtol=1e-3)
        assert np.abs(gradient).max() < 1e4


def test_g_at_the_last_state_is_log_r_minus_log_pi():
    log_pf, log_pterm, terminable, log_r = random_case(2, 1)
    scores = Scores(*(jnp.asarray(x, jnp.float32) for x in (log_pf, log_pterm)), jnp.asarray(terminable))
    g = at_last_state(log_ratio(scores, jnp.asarray(log_r, jnp.float32)), scores.is_terminable_NxT)
    for row, reached in enumerate(terminable):
        last = np.flatnonzero(reached)[-1]
        np.testing.assert_allclose(g[row], log_r[row, last] - log_pterm[row, last] - log_pf[row].sum(), rtol=1e-5)


def test_a_wrong_shape_is_refused_while_tracing():
    log_pf, log_pterm, terminable, log_r = (jnp.asarray(x) for x in random_case(0))
    with pytest.raises(Exception, match="log_r_NxT"):
        subtb(Scores(log_pf, log_pterm, terminable), log_r[:, 1:], samples_per_prompt=SAMPLES, subtb_lambda=1.0)
