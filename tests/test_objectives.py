"""Every objective against its definition in float64, and the properties that make it a GFlowNet objective."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from gfn_jax.objectives import CONTROLS, OBJECTIVES, at_last_state, log_ratio
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


@functools.partial(jax.jit, static_argnames=("objective", "subtb_lambda"))
def losses(log_pf, log_pterm, terminable, log_r, log_z=(0.0, 0.0), *, objective="subtb", subtb_lambda=1.0):
    g = log_ratio(Scores(log_pf, log_pterm, terminable), log_r)
    return (OBJECTIVES | CONTROLS)[objective](
        g,
        jnp.asarray(log_r, g.dtype),
        terminable,
        jnp.asarray(log_z, g.dtype),
        samples_per_prompt=SAMPLES,
        subtb_lambda=subtb_lambda,
    )


@pytest.mark.parametrize("subtb_lambda", LAMBDAS)
@pytest.mark.parametrize(("min_len", "gaps"), [(0, False), (2, False), (0, True), (LENGTH, False)])
def test_values_and_gradients_equal_a_loop_over_all_pairs(subtb_lambda, min_len, gaps):
    with jax.enable_x64(True):
        for seed in range(3):
            case = random_case(seed, min_len, gaps)
            expected, estimates = reference(*case, subtb_lambda)
            np.testing.assert_allclose(losses(*case, subtb_lambda=subtb_lambda), expected, rtol=1e-12)

            gradient = jax.grad(lambda *args: losses(*args, subtb_lambda=subtb_lambda).sum(), argnums=(0, 1, 3))(*case)
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


def g_by_definition(case):
    """For every prompt, its trajectories' values of g in the order of their states."""
    log_pf, log_pterm, terminable, log_r = case
    paths = [
        [log_r[row, t] - log_pterm[row, t] - log_pf[row, :t].sum() for t in np.flatnonzero(terminable[row])]
        for row in range(PROMPTS * SAMPLES)
    ]
    return [paths[prompt * SAMPLES : (prompt + 1) * SAMPLES] for prompt in range(PROMPTS)]


@pytest.mark.parametrize(
    ("objective", "definition"),
    [
        ("pooled", lambda paths, log_z: np.var([g for path in paths for g in path])),
        ("vargrad", lambda paths, log_z: np.var([path[-1] for path in paths])),
        ("tb", lambda paths, log_z: np.mean([(path[-1] - log_z) ** 2 for path in paths])),
    ],
)
@pytest.mark.parametrize(("min_len", "gaps"), [(0, False), (2, True)])
def test_the_objectives_without_pairs_equal_their_definition(objective, definition, min_len, gaps):
    with jax.enable_x64(True):
        case, log_z = random_case(4, min_len, gaps), (2.0, -3.0)
        expected = [definition(paths, z) for paths, z in zip(g_by_definition(case), log_z, strict=True)]
        np.testing.assert_allclose(losses(*case, log_z, objective=objective), expected, rtol=1e-12)


def test_db_is_the_limit_of_subtb():
    with jax.enable_x64(True):
        for min_len, gaps in ((0, False), (2, False), (0, True)):
            case = random_case(6, min_len, gaps)
            limit = losses(*case, objective="subtb", subtb_lambda=1e-9)
            np.testing.assert_allclose(losses(*case, objective="db"), limit, rtol=1e-6)


def solve(case):
    """The same case with the rewards that its policy samples in proportion to, and their log Z."""
    log_pf, log_pterm, terminable, _ = case
    log_z = np.array([-300.0, 7.0])
    log_r = np.repeat(log_z, SAMPLES)[:, None] + log_pterm + np.pad(np.cumsum(log_pf, 1), [(0, 0), (1, 0)])
    return (log_pf, log_pterm, terminable, log_r), log_z


CHOICES = [*(("subtb", value) for value in LAMBDAS), *((name, 1.0) for name in OBJECTIVES if name != "subtb")]
every_objective = pytest.mark.parametrize(("objective", "subtb_lambda"), CHOICES)


@every_objective
@pytest.mark.parametrize("min_len", [0, 2])
def test_loss_and_gradient_vanish_exactly_where_the_problem_is_solved(objective, subtb_lambda, min_len):
    with jax.enable_x64(True):
        case, log_z = solve(random_case(5, min_len))

        def loss(log_pf):
            return losses(log_pf, *case[1:], log_z, objective=objective, subtb_lambda=subtb_lambda).sum()

        value, gradient = jax.value_and_grad(loss)(case[0])
        assert value < 1e-20
        assert np.abs(gradient).max() < 1e-10


@every_objective
def test_perturbing_one_reward_changes_the_gradient(objective, subtb_lambda):
    with jax.enable_x64(True):
        case = random_case(3, min_len=1)
        gradient = jax.grad(lambda *args: losses(*args, objective=objective, subtb_lambda=subtb_lambda).sum())
        before = gradient(*case)
        log_r = case[3].copy()
        row, state = np.argwhere(case[2])[-1]  # the last row's last state, which all objectives see
        log_r[row, state] += 0.5
        assert np.abs(gradient(*case[:3], log_r) - before).max() > 1e-3


@every_objective
def test_gradients_equal_finite_differences(objective, subtb_lambda):
    """Where no start state is needed: its estimate of log Z is a constant to the gradient alone."""
    with jax.enable_x64(True):
        case = random_case(8)
        case[2][:, 0] = True

        def loss(log_pf):
            return losses(log_pf, *case[1:], objective=objective, subtb_lambda=subtb_lambda).sum()

        gradient = jax.grad(loss)(case[0])
        for index in np.ndindex(case[0].shape):
            step = np.zeros_like(case[0])
            step[index] = 1e-6
            slope = (loss(case[0] + step) - loss(case[0] - step)) / 2e-6
            np.testing.assert_allclose(gradient[index], slope, rtol=1e-5, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**20), min_len=st.sampled_from([0, 2]), choice=st.sampled_from(CHOICES))
def test_invariances(seed, min_len, choice):
    """A constant added to a prompt's log R (but for `tb`), its samples' order, and padding change nothing."""
    rng = np.random.default_rng(seed)
    loss = functools.partial(losses, objective=choice[0], subtb_lambda=choice[1])
    with jax.enable_x64(True):
        case = random_case(seed, min_len)
        expected = loss(*case)
        log_pf, log_pterm, terminable, log_r = case
        shifted = log_r + np.repeat(rng.normal(0, 100, PROMPTS), SAMPLES)[:, None]
        if choice[0] != "tb":
            np.testing.assert_allclose(loss(*case[:3], shifted), expected, rtol=1e-9)
        order = np.concatenate([prompt * SAMPLES + rng.permutation(SAMPLES) for prompt in range(PROMPTS)])
        np.testing.assert_allclose(loss(*(array[order] for array in case)), expected, rtol=1e-12)
        junk = np.where(terminable, log_r, 1e6)
        np.testing.assert_allclose(loss(log_pf, log_pterm, terminable, junk), expected, rtol=1e-12)
        padded = [np.pad(array, [(0, 0), (0, 3)]) for array in case]
        np.testing.assert_allclose(loss(*padded), expected, rtol=1e-12)


@every_objective
@pytest.mark.parametrize("scale", [1e3, -1e3])
def test_rewards_of_a_thousand_nats_keep_their_precision_in_float32(objective, subtb_lambda, scale):
    case, log_z = random_case(1, 1), (scale, scale)
    loss = functools.partial(losses, objective=objective, subtb_lambda=subtb_lambda)
    with jax.enable_x64(True):
        expected = np.asarray(loss(*case[:3], case[3] + scale, log_z))
    narrow = [np.asarray(array, bool if array.dtype == bool else np.float32) for array in case]
    narrow[3] = np.asarray(case[3] + scale, np.float32)
    value, gradient = jax.value_and_grad(lambda log_pf: loss(log_pf, *narrow[1:], log_z).sum())(narrow[0])
    np.testing.assert_allclose(value, expected.sum(), rtol=1e-3)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() < 1e3


def test_the_published_objective_is_the_case_without_masks():
    """Eq. 3 of Hu et al. (2024), state by state: R of prefixes from the frozen model, unmasked log-probabilities."""
    rng = np.random.default_rng(0)
    rows = PROMPTS * SAMPLES
    log_pf, log_pterm = -rng.exponential(2, (rows, LENGTH)), -rng.exponential(2, (rows, LENGTH + 1))
    frozen_pf, frozen_pterm = -rng.exponential(2, (rows, LENGTH)), -rng.exponential(2, (rows, LENGTH + 1))
    log_r = (np.pad(np.cumsum(frozen_pf, 1), [(0, 0), (1, 0)]) + frozen_pterm) / 0.8

    def published(log_pf):
        """The mean, over all spans of tokens i .. j - 1, of the squared imbalance from s_i to s_j."""
        delta = log_r[:, :-1] - log_r[:, 1:] + log_pf + log_pterm[:, 1:] - log_pterm[:, :-1]
        spans = [
            jnp.square(delta[:, i:j].sum(1))
            for length in range(1, LENGTH + 1)
            for i in range(LENGTH + 1 - length)
            for j in [i + length]
        ]
        return jnp.stack(spans).mean()

    with jax.enable_x64(True):
        everything = np.ones((rows, LENGTH + 1), bool)

        def ours(log_pf):
            return losses(log_pf, log_pterm, everything, log_r).mean()

        expected, expected_gradient = jax.value_and_grad(published)(log_pf)
        value, gradient = jax.value_and_grad(ours)(log_pf)
        np.testing.assert_allclose(value, expected, rtol=1e-10)
        np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("left_out", [[], [4], [3, 4], [3, 4, 5]])
def test_reinforce_is_the_policy_gradient_with_the_others_mean_as_baseline(left_out):
    with jax.enable_x64(True):
        log_pf, log_pterm, terminable, log_r = random_case(7, min_len=1)
        terminable[left_out] = False
        expected_pf, expected_pterm, means = np.zeros_like(log_pf), np.zeros_like(log_pterm), []
        for prompt in range(PROMPTS):
            rows = [row for row in range(prompt * SAMPLES, (prompt + 1) * SAMPLES) if row not in left_out]
            last = {row: np.flatnonzero(terminable[row])[-1] for row in rows}
            rewards = {row: log_r[row, last[row]] for row in rows}
            means.append(sum(rewards.values()) / max(len(rows), 1))
            for row in rows:
                others = [rewards[other] for other in rows if other != row]
                advantage = rewards[row] - sum(others) / len(others) if others else 0.0
                # log π(y ⊤) is the sum of log_pf before the last state and of log_pterm there.
                expected_pf[row, : last[row]] = expected_pterm[row, last[row]] = -advantage / len(rows)

        def loss(log_pf, log_pterm):
            return losses(log_pf, log_pterm, terminable, log_r, objective="reinforce")

        np.testing.assert_allclose(loss(log_pf, log_pterm), -np.array(means), rtol=1e-12)
        gradient = jax.grad(lambda *args: loss(*args).sum(), argnums=(0, 1))(log_pf, log_pterm)
        np.testing.assert_allclose(gradient[0], expected_pf, atol=1e-12)
        np.testing.assert_allclose(gradient[1], expected_pterm, atol=1e-12)


def test_g_at_the_last_state_is_log_r_minus_log_pi():
    log_pf, log_pterm, terminable, log_r = random_case(2, 1)
    scores = Scores(*(jnp.asarray(x, jnp.float32) for x in (log_pf, log_pterm)), jnp.asarray(terminable))
    g = at_last_state(log_ratio(scores, jnp.asarray(log_r, jnp.float32)), scores.is_terminable_NxT)
    for row, reached in enumerate(terminable):
        last = np.flatnonzero(reached)[-1]
        np.testing.assert_allclose(g[row], log_r[row, last] - log_pterm[row, last] - log_pf[row].sum(), rtol=1e-5)


@every_objective
def test_wrong_shapes_are_refused_while_tracing(objective, subtb_lambda):
    log_pf, log_pterm, terminable, log_r = (jnp.asarray(x) for x in random_case(0))
    with pytest.raises(TypeCheckError, match="log_r_NxT"):
        log_ratio(Scores(log_pf, log_pterm, terminable), log_r[:, 1:])
    g = log_ratio(Scores(log_pf, log_pterm, terminable), log_r)
    arguments = {"samples_per_prompt": SAMPLES, "subtb_lambda": subtb_lambda}
    with pytest.raises(TypeCheckError, match="is_terminable_NxT"):
        OBJECTIVES[objective](g, log_r, terminable[1:], jnp.zeros(PROMPTS), **arguments)
