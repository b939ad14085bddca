"""Continuations without their padding: nothing is lost, and nothing comes out otherwise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumerable import TinyWorld

from gfn_jax.models import packing
from gfn_jax.models.layout import WHEREVER, Layout
from gfn_jax.models.packing import Packing, in_room, rooms
from gfn_jax.policy.scorer import score
from gfn_jax.types import Prompts, Trajectories


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize(("spare", "longest_prompt"), [(0, 7), (3, 7), (0, 2)])
def test_what_is_packed_comes_apart_again_and_so_do_gradients(shards, spare, longest_prompt):
    rng = np.random.default_rng(0)
    batch, samples, longest, queries = 4, 3, 5, 7
    length = rng.integers(0, longest + 1, (batch, samples))
    length[1, 2], length[2, 0] = 0, longest
    of_prompts = rng.integers(1, longest_prompt + 1, batch)
    prompts = Prompts(jnp.zeros((batch, 2 + queries), jnp.int32), jnp.asarray(2 + of_prompts), beginning=(3, 1))
    taken = np.maximum(of_prompts.reshape(shards, -1).sum(1), batch // shards * queries // 2)
    most = (taken + length.reshape(shards, -1).sum(1)).max()
    rows = Packing.of(prompts, jnp.asarray(length), longest, int(most) + spare, shards)
    assert rows.room_for(prompts, jnp.asarray(length)) == most
    is_token, is_of_prompt = np.arange(longest) < length[..., None], np.arange(queries) < of_prompts[:, None]
    x = rng.normal(size=(batch, samples, longest, 2)).astype(np.float32)
    z = rng.normal(size=(batch, queries, 2)).astype(np.float32)

    packed, unpack = jax.vjp(rows.pack, jnp.asarray(z), jnp.asarray(x))
    assert packed.shape == (shards, most + spare, 2)
    for row, own in enumerate(np.split(np.arange(batch), shards)):  # continuations in their order, then prompts
        tokens = np.concatenate([x[own][is_token[own]], z[own][is_of_prompt[own]]])
        np.testing.assert_array_equal(packed[row, : len(tokens)], tokens)
        np.testing.assert_array_equal(packed[row, len(tokens) :], 0)
    jax.tree.map(
        np.testing.assert_array_equal, rows.unpack(packed), (z * is_of_prompt[..., None], x * is_token[..., None])
    )
    y = jnp.asarray(rng.normal(size=packed.shape).astype(np.float32))
    jax.tree.map(np.testing.assert_array_equal, unpack(y), rows.unpack(y))
    states = rng.normal(size=(batch, samples, longest + 1)).astype(np.float32)
    is_state = np.arange(longest + 1) <= length[..., None]
    np.testing.assert_array_equal(rows.apart(rows.together(jnp.asarray(states))), states * is_state)


def test_the_least_room_is_taken_that_holds_all_tokens():
    chosen = jax.jit(lambda tokens: in_room(jnp.asarray, (8, 16, 31), tokens))
    assert [int(chosen(tokens)) for tokens in (0, 8, 9, 16, 17, 31)] == [8, 8, 16, 16, 31, 31]
    short, long = (Prompts(jnp.ones((4, length), jnp.int32), jnp.ones(4, jnp.int32)) for length in (40, 240))
    whole = Packing.whole(short, 8, 30)
    assert rooms(10**8, WHEREVER, whole) == (224, 336, 504, 752, 1120)
    assert rooms(10**4, WHEREVER, whole) == rooms(10**8, Layout(has_few_kernels=True), whole) == (1120,)
    assert rooms(10**6, Layout(shards=16), whole) == rooms(10**6, WHEREVER, whole) == (1120,)  # a device has its own
    assert rooms(10**8, WHEREVER, Packing.whole(long, 1, 4)) == (656, 976)  # 480 are taken to be of prompts
    assert rooms(10**8, WHEREVER, Packing.whole(long, 0, 1)) == (192, 288, 432, 648, 960)


@pytest.fixture(scope="module")
def world():
    return TinyWorld(words=5, max_len=7, banned=2, min_len=1, support_min_p=0.05)


def whole_room(world) -> int:
    return Packing.whole(world.prompts, 3, world.max_len).places


def drawn(world, most: int) -> Trajectories:
    """3 continuations of each of the two prompts, of 1 to `most` tokens."""
    rng = np.random.default_rng(most)
    length = rng.integers(1, most + 1, 6)
    length[0] = most
    tokens = rng.integers(0, world.words, (6, world.max_len)) * (np.arange(world.max_len) < length[:, None])
    return Trajectories.given(jnp.asarray(tokens, jnp.int32), jnp.asarray(length, jnp.int32))


@pytest.mark.accelerator
def test_scores_and_their_gradients_are_the_same_in_a_row_without_padding(world):
    trajectories = drawn(world, 5)
    weights = np.random.default_rng(0).normal(size=(2, *trajectories.is_terminable_NxT.shape)).astype(np.float32)

    @functools.partial(jax.jit, static_argnums=1)
    @functools.partial(jax.grad, has_aux=True)
    def compute(adapter, room):
        models = world.structure.policy_and_frozen(adapter, world.frozen)
        scores = score(*models, world.rules, world.prompts, trajectories, room)
        possible = jnp.where(jnp.isfinite(scores.log_pf_NxL), scores.log_pf_NxL, 0)
        return (possible * weights[0, :, 1:]).sum() + (scores.log_pterm_NxT * weights[1]).sum(), scores

    (gradient, scores), (whole_gradient, whole) = (
        compute(world.adapter, room)
        for room in (int(trajectories.length_N.sum() + world.prompts.length_B.sum()), whole_room(world))
    )
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, scores, whole)
    jax.tree.map(lambda a, b: close(a, b, atol=1e-5 * np.abs(b).max()), gradient, whole_gradient)


def test_scores_are_the_same_whatever_room_the_lengths_choose(world, monkeypatch):
    monkeypatch.setitem(packing.WORTH_PACKING, "cpu", 0)
    models = world.policy(), world.frozen_model(), world.rules, world.prompts
    chosen, whole = jax.jit(lambda *given: score(*given)), jax.jit(lambda *given: score(*given, whole_room(world)))
    for most in (1, 4, 7):  # there are rooms of 16, 24, 40 and 52
        got, expected = chosen(*models, drawn(world, most)), whole(*models, drawn(world, most))
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), got, expected)


def test_prompts_are_encoded_the_same_without_their_padding(world, monkeypatch):
    whole_hidden, whole = jax.jit(lambda *given: world.policy().encode(*given))(world.prompts)
    monkeypatch.setitem(packing.WORTH_PACKING, "cpu", 0)
    hidden, cache = jax.jit(lambda *given: world.policy().encode(*given))(world.prompts)  # 7 tokens in a room of 8
    is_token = np.asarray(world.prompts.is_token_BxP)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    close(hidden[is_token], whole_hidden[is_token])
    close(cache.last_hidden_BxD, whole.last_hidden_BxD)
    jax.tree.map(lambda a, b: close(a[:, is_token], b[:, is_token]), cache.layers, whole.layers)
    assert not np.asarray(cache.layers.keys)[:, ~is_token].any()  # the row had no place for padding
