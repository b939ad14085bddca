"""Sampler and scorer are one distribution, and it sums to 1 under every mask."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumerable import TinyWorld
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gfn_jax.models.packing import Packing
from gfn_jax.policy import read_out, sampler
from gfn_jax.policy.behaviour import Behaviour, behaviour_logits, draw_items
from gfn_jax.policy.masks import mask_logits, support_tolerance
from gfn_jax.policy.sampler import sample
from gfn_jax.policy.scorer import frozen_log_probs, score
from gfn_jax.types import Scores, Trajectories

MASKS = {
    "free": {"min_len": 0},
    "minimum length": {"min_len": 2},
    "support": {"min_len": 0, "support_min_p": 0.3},
    "support and minimum length": {"min_len": 1, "support_min_p": 0.3},
    "fixed length": {"min_len": 3},
}


@pytest.fixture(scope="module", params=MASKS.values(), ids=MASKS)
def world(request):
    return TinyWorld(words=5, max_len=3, banned=2, **request.param)


@jax.jit
def score_jit(policy, frozen, rules, prompts, trajectories):
    return score(policy, frozen, rules, prompts, trajectories)


frozen_jit = jax.jit(frozen_log_probs, static_argnums=3)


@jax.jit
def draw_jit(key, logits):
    return draw_items(jax.random.uniform(key, (2, len(logits)), logits.dtype), logits)


DRAWS = 4096
ON, OFF = Behaviour(), Behaviour(2.0, 3.0, 1.0, top_k=3)


@functools.cache
def draw(world, behaviour):
    """Many samples of each prompt, drawn once for all tests."""

    @jax.jit
    def drawn(policy, frozen, prompts, key):
        return sample(policy, frozen, world.rules, prompts, key, samples_per_prompt=DRAWS, behaviour=behaviour)

    return drawn(world.policy(), world.frozen_model(), world.prompts, jax.random.key(0))


def test_the_distribution_sums_to_one(world):
    np.testing.assert_allclose(np.exp(world.exact_log_probs(world.adapter)).sum(1), 1, atol=1e-5)


@pytest.mark.accelerator
def test_the_sampler_draws_from_the_scored_distribution(world):
    everything = world.all_continuations()
    index = {
        (int(length), *tokens[:length].tolist()): row
        for row, (tokens, length) in enumerate(
            zip(np.asarray(everything.tokens_NxL), np.asarray(everything.length_N), strict=True)
        )
    }
    trajectories, _ = draw(world, ON)
    counts = np.zeros((2, len(everything.length_N) // 2))
    for row, (tokens, length) in enumerate(
        zip(np.asarray(trajectories.tokens_NxL), np.asarray(trajectories.length_N), strict=True)
    ):
        counts[row // DRAWS, index[int(length), *tokens[:length].tolist()] % counts.shape[1]] += 1
    exact = np.exp(world.exact_log_probs(world.adapter))
    assert (counts[exact == 0] == 0).all()
    # The expected total variation of n draws is at most sqrt(classes / (2 pi n)).
    tolerance = 1.5 * np.sqrt((exact > 0).sum(1) / (2 * np.pi * DRAWS))
    assert (0.5 * np.abs(counts / DRAWS - exact).sum(1) < tolerance).all()


@pytest.mark.accelerator
@pytest.mark.parametrize("behaviour", [ON, OFF], ids=["on", "off"])
def test_sampled_log_probabilities_equal_teacher_forced_ones(world, behaviour):
    trajectories, sampled = draw(world, behaviour)
    scored = score_jit(world.policy(), world.frozen_model(), world.rules, world.prompts, trajectories)
    np.testing.assert_array_equal(sampled.is_terminable_NxT, scored.is_terminable_NxT)
    np.testing.assert_allclose(sampled.log_pf_NxL, scored.log_pf_NxL, atol=1e-5)
    np.testing.assert_allclose(sampled.log_pterm_NxT, scored.log_pterm_NxT, atol=1e-5)
    at_maximum = np.asarray(trajectories.length_N) == world.max_len
    assert at_maximum.any()
    assert (np.asarray(scored.log_pterm_NxT)[at_maximum, -1] == 0).all()


@pytest.mark.accelerator
def test_nothing_that_was_drawn_in_bfloat16_is_impossible_to_the_scorer():
    """Decoding and teacher forcing round differently, also at the support's edge."""
    world = TinyWorld(words=101, max_len=7, min_len=1, support_min_p=0.1, embedding_std=0.3, dtype=jnp.bfloat16)
    trajectories, sampled = draw(world, ON)
    scored = score_jit(world.policy(), world.frozen_model(), world.rules, world.prompts, trajectories)
    assert sampled.log_pf_NxL.dtype == jnp.float32
    assert np.isfinite(scored.log_pf_NxL).all()
    last = trajectories.length_N[:, None]
    assert jnp.take_along_axis(scored.is_terminable_NxT, last, 1).all()
    differences = np.abs(np.asarray(sampled.log_pf_NxL - scored.log_pf_NxL))
    assert np.quantile(differences, 0.99) < 0.3  # nats; one unit in bfloat16's last place of a logit of 30 is 0.13


def test_lengths_and_bans_hold_in_samples(world):
    trajectories, _ = draw(world, OFF)
    tokens, lengths = np.asarray(trajectories.tokens_NxL), np.asarray(trajectories.length_N)
    assert lengths.min() >= world.rules.min_len
    assert lengths.max() <= world.max_len
    assert tokens.max() < world.words
    assert (tokens[np.arange(world.max_len)[None] >= lengths[:, None]] == 0).all()


def test_read_out_in_chunks_equals_read_out_at_once(world, monkeypatch):
    everything = world.all_continuations()
    arguments = (world.policy(), world.frozen_model(), world.rules, world.prompts, everything)
    expected = score_jit(*arguments)
    monkeypatch.setattr(read_out, "CHUNK_ELEMENTS", 0)
    monkeypatch.setattr(read_out, "FEWEST_STATES", 1)  # one state at a time
    chunked = jax.jit(lambda *given: score(*given))(*arguments)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), chunked, expected)


@pytest.mark.accelerator
def test_gradients_of_scores_equal_those_of_logits_written_out(monkeypatch):
    """The chunked read-out has its own gradient: here against differentiation through [N, T, V]."""
    world = TinyWorld(words=5, max_len=3, banned=2, **MASKS["support and minimum length"])
    everything = world.all_continuations()
    prompts, rules = world.prompts, world.rules
    states = jnp.arange(world.max_len + 1)
    is_token = states[None, :-1] < everything.length_N[:, None]
    weights = np.random.default_rng(0).normal(size=(2, *everything.is_terminable_NxT.shape)).astype(np.float32)

    def hidden_states(model):
        tokens_BxSxL = everything.tokens_NxL.reshape(len(prompts.length_B), -1, world.max_len)
        packing = Packing.whole(prompts, *tokens_BxSxL.shape[1:])
        hidden_BxSxTxD = packing.apart(model.states(prompts, tokens_BxSxL, packing))
        return hidden_BxSxTxD.reshape(-1, *hidden_BxSxTxD.shape[2:])

    def weighted(scores):
        return (scores.log_pf_NxL * weights[0, :, 1:]).sum() + (scores.log_pterm_NxT * weights[1]).sum()

    def written_out(adapter):
        policy, frozen = world.structure.policy_and_frozen(adapter, world.frozen)
        logits, frozen_logits = (model.logits(hidden_states(model)) for model in (policy, frozen))
        drawn = jnp.where(is_token, everything.tokens_NxL, rules.terminator)
        drawn = jnp.pad(drawn, [(0, 0), (0, 1)], constant_values=rules.terminator)
        near = {"drawn": drawn, "tolerance": support_tolerance(logits.dtype)}
        log_p = jax.nn.log_softmax(mask_logits(rules, logits, states[None, :], frozen_logits, **near), axis=-1)
        log_pf = jnp.take_along_axis(log_p[:, :-1], drawn[:, :-1, None], 2)[..., 0]
        may_stop = expected.is_terminable_NxT
        return weighted(
            Scores(
                jnp.where(is_token & jnp.isfinite(log_pf), log_pf, 0),
                jnp.where(may_stop, jnp.where(may_stop, log_p[..., rules.terminator], 0), 0),
                may_stop,
            )
        )

    expected = score_jit(world.policy(), world.frozen_model(), rules, prompts, everything)
    possible = np.isfinite(np.asarray(expected.log_pf_NxL))
    monkeypatch.setattr(read_out, "FEWEST_STATES", 2 * len(everything.length_N))
    monkeypatch.setattr(read_out, "CHUNK_ELEMENTS", 0)

    def chunked(adapter):  # where the masks forbid what is given there is nothing to differentiate
        models = world.structure.policy_and_frozen(adapter, world.frozen)
        scores = score(*models, rules, prompts, everything)
        return weighted(scores.replace(log_pf_NxL=jnp.where(possible, scores.log_pf_NxL, 0)))

    got, want = jax.jit(jax.grad(chunked))(world.adapter), jax.jit(jax.grad(written_out))(world.adapter)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max()), got, want)


@given(
    logits=arrays(np.float32, (3, 256), elements=st.floats(-30, 30, width=32)),
    forbidden=arrays(bool, (3, 256)),
    seed=st.integers(0, 99),
)
@settings(max_examples=50, deadline=None)
def test_what_is_forbidden_is_never_drawn(logits, forbidden, seed):
    forbidden[:, seed] = False  # something is allowed
    items = draw_jit(jax.random.key(seed), jnp.where(forbidden, -jnp.inf, logits))
    assert not forbidden[np.arange(3), items].any()


@pytest.mark.accelerator
def test_items_are_drawn_in_proportion_to_their_weights():
    logits = np.random.default_rng(0).normal(0, 2, 256).astype(np.float32)
    logits[::3] = -np.inf
    rows = 1 << 17
    items = draw_jit(jax.random.key(0), jnp.broadcast_to(logits, (rows, 256)))
    expected = np.exp(logits) / np.exp(logits).sum()
    counts = np.bincount(items, minlength=256)
    spread = np.sqrt(rows * expected * (1 - expected))
    assert np.abs((counts - rows * expected)[expected > 0] / spread[expected > 0]).max() < 4.5
    assert counts[::3].sum() == 0


def test_scores_of_a_row_do_not_depend_on_its_batch(world):
    everything = world.all_continuations()
    per_prompt = len(everything.length_N) // 2
    order = np.random.default_rng(0).permutation(per_prompt)
    order = np.concatenate([order, order + per_prompt])
    shuffled = jax.tree.map(lambda x: x[order], everything)
    arguments = (world.policy(), world.frozen_model(), world.rules, world.prompts)
    expected, got = score_jit(*arguments, everything), score_jit(*arguments, shuffled)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[order], atol=1e-5), got, expected)


def test_what_follows_the_stop_changes_nothing(world):
    """Neither the scores nor the frozen likelihood read the tokens behind a trajectory's end."""
    tokens = jnp.array([[1, 2, 0], [1, 2, 4]])
    for length in (0, 1, 2):
        pair = Trajectories.given(tokens.at[:, length:].set(jnp.array([[0], [3]])), jnp.array([length, length]))
        prompts = jax.tree.map(lambda x: x[:1], world.prompts)
        scores = score_jit(world.policy(), world.frozen_model(), world.rules, prompts, pair)
        likelihoods = frozen_jit(world.frozen_model(), prompts, pair, world.rules.terminator)
        for values in jax.tree.leaves((scores, likelihoods)):
            np.testing.assert_array_equal(values[0], values[1])


def test_the_frozen_likelihood_is_over_the_full_vocabulary():
    world = TinyWorld(words=5, max_len=3, banned=2, min_len=2, support_min_p=0.3)
    prompts = jax.tree.map(lambda x: x[1:], world.prompts)
    continuation = Trajectories.given(jnp.array([[3, 1, 4]]), jnp.array([2]))
    log_p, log_pterm = frozen_jit(world.frozen_model(), prompts, continuation, world.rules.terminator)
    sequence = prompts.replace(
        tokens_BxP=jnp.concatenate([prompts.tokens_BxP, jnp.array([[3, 1, 4]])], 1), length_B=jnp.array([8])
    )
    model = world.frozen_model()
    full = jax.nn.log_softmax(model.logits(model.encode(sequence)[0])[0, :, : world.structure.architecture.vocab_size])
    np.testing.assert_allclose(log_p[0], [full[4, 3], full[5, 1], 0], atol=1e-5)
    np.testing.assert_allclose(log_pterm[0], [*full[4:7, world.rules.terminator], 0], atol=1e-5)


def test_the_support_is_relative_to_the_likeliest_allowed_item():
    world = TinyWorld(words=3, max_len=4, min_len=1, banned=1, support_min_p=0.5)
    width = world.rules.is_word_V.shape[0]
    frozen = jnp.full((3, width), -jnp.inf).at[:, :5].set(jnp.log(jnp.array([0.1, 0.06, 0.04, 0.2, 0.6])))
    masked = mask_logits(world.rules, jnp.zeros((3, width)), jnp.array([0, 1, 4]), frozen)
    allowed = np.asarray(masked[:, :5] == 0)
    # The banned item, of 0.6, counts for nothing; at step 0 neither does ⊤ (item 3), of 0.2.
    assert allowed.tolist() == [
        [True, True, False, False, False],
        [True, False, False, True, False],
        [False, False, False, True, False],
    ]
    assert np.isneginf(masked[:, 5:]).all()


@pytest.mark.parametrize(
    ("behaviour", "temperature", "kept"),
    [
        (Behaviour(), 1.0, [0, 1, 2, 3, 4, 5]),
        (Behaviour(top_k=2), 1.0, [1, 4]),
        (Behaviour(top_k=9), 1.0, [0, 1, 2, 3, 4, 5]),
        (Behaviour(top_p=0.39), 1.0, [1]),
        (Behaviour(top_p=0.41), 1.0, [1, 4]),
        (Behaviour(top_p=0.79), 1.0, [0, 1, 4]),
        (Behaviour(top_k=3, top_p=0.7), 1.0, [1, 4]),
        (Behaviour(top_p=0.41), 1e-3, [1]),
    ],
)
def test_top_k_and_top_p_on_a_six_token_table(behaviour, temperature, kept):
    probabilities = jnp.array([[0.15, 0.4, 0.05, 0.08, 0.3, 0.02]])
    logits = behaviour_logits(behaviour, jnp.log(probabilities), jnp.asarray(temperature))
    assert np.flatnonzero(np.isfinite(logits[0])).tolist() == kept
    expected = jax.nn.log_softmax(jnp.log(probabilities[0, jnp.array(kept)]) / temperature)
    np.testing.assert_allclose(jax.nn.log_softmax(logits[0, jnp.array(kept)]), expected, rtol=1e-4)


def kept_by_sorting(logits, top_k, top_p):
    """The items that a sorted list keeps, ties at its end included."""
    if top_k:
        logits = np.where(logits >= np.sort(logits)[-min(top_k, len(logits))], logits, -np.inf)
    falling = np.sort(logits)[::-1].astype(np.float64)
    p = np.exp(falling - falling[0])
    before = (np.cumsum(p) - p) / p.sum()
    return np.isfinite(logits) & (logits >= falling[before < top_p - 1e-6].min())


@pytest.mark.accelerator
@given(
    st.lists(st.sampled_from([-np.inf, -31.0, -1.5, -0.0, 0.0, 0.25, 0.5, 3.0, 1e30]), min_size=1, max_size=13),
    st.integers(0, 14),
    st.sampled_from([0.17, 0.43, 0.71, 0.97]),
)
@settings(max_examples=60, deadline=None)
def test_what_is_cut_is_what_sorting_cuts(logits, top_k, top_p):
    row = np.array([*logits, 0.3], np.float32)
    padded = np.pad(row, (0, 14 - len(row)), constant_values=-np.inf)
    cut = behaviour_logits(
        Behaviour(top_k=top_k, top_p=top_p if top_p < 1 else None), jnp.asarray(padded)[None], jnp.asarray(1.0)
    )
    np.testing.assert_array_equal(np.isfinite(cut[0]), kept_by_sorting(padded, top_k, top_p))


def test_the_loop_ends_with_the_last_row():
    """With a stop that is nearly certain, sampling 13 tokens costs few of them."""
    world = TinyWorld(words=3, min_len=0, max_len=13, embedding_std=0.02)
    calls = []
    model = world.policy(world.fresh_adapter())
    bias = jnp.zeros(world.rules.is_word_V.shape[0]).at[world.rules.terminator].set(30.0)
    plain_logits = type(model).logits

    def counted(self, hidden):
        jax.debug.callback(lambda: calls.append(1))
        return plain_logits(self, hidden) + bias[None]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model), "logits", counted)
        sample_jit = jax.jit(lambda *given: sample(*given, samples_per_prompt=4))
        trajectories, _ = sample_jit(model, world.frozen_model(), world.rules, world.prompts, jax.random.key(0))
    jax.effects_barrier()
    assert (np.asarray(trajectories.length_N) == 0).all()
    assert len(calls) <= 2


@pytest.mark.parametrize(("min_len", "max_len", "widths"), [(1, 13, {10, 4}), (4, 4, {10})])
def test_the_loop_goes_on_with_the_samples_that_have_not_ended(monkeypatch, min_len, max_len, widths):
    world = TinyWorld(words=5, banned=2, min_len=min_len, max_len=max_len, support_min_p=0.05, embedding_std=0.3)
    model, rows = world.policy(), []
    plain_logits = type(model).logits

    def counted(self, hidden):
        jax.debug.callback(lambda: rows.append(len(hidden)))
        return plain_logits(self, hidden)

    monkeypatch.setattr(type(model), "logits", counted)

    def drawn(worth):
        monkeypatch.setattr(sampler, "WORTH_NARROWING", worth)
        rows.clear()
        sample_jit = jax.jit(lambda *given: sample(*given, samples_per_prompt=5))
        trajectories, scores = sample_jit(model, world.frozen_model(), world.rules, world.prompts, jax.random.key(12))
        jax.effects_barrier()
        return trajectories, scores, list(rows)

    *narrowed, rows_narrowed = drawn(0)
    *whole, rows_whole = drawn(np.inf)
    assert set(rows_narrowed) == widths
    assert set(rows_whole) == {10}
    assert len(rows_narrowed) == len(rows_whole)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), narrowed, whole)
