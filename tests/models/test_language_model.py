"""The ways of computing the same thing agree."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumerable import TinyWorld

from gfn_jax.models import attention
from gfn_jax.models.decoding import Decoder
from gfn_jax.models.hf_architecture import read_architecture
from gfn_jax.models.hf_weights import load_weights
from gfn_jax.models.language_model import LanguageModel
from gfn_jax.models.packing import Packing
from gfn_jax.models.parts import ModelStructure
from gfn_jax.types import LoRAConfig, Prompts

ALL_LAYERS = LoRAConfig(3, 6.0, ("all-linear",))


def load(directory, dtype=jnp.float32, remat=False):
    architecture = read_architecture(directory)
    structure = ModelStructure(architecture, ALL_LAYERS, dtype=dtype, remat=remat)
    return architecture, structure, jax.device_put(load_weights(directory, architecture, dtype))


def random_prompts(vocabulary, rows=3, length=13):
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, vocabulary, (rows, length)).astype(np.int32)
    return Prompts(jnp.asarray(tokens), jnp.array([length, length - 4, 1][:rows]))


@pytest.fixture(scope="module")
def world():
    return TinyWorld(words=11, min_len=0, max_len=3)


@jax.jit
def encode(model, prompts):
    return model.encode(prompts)


@jax.jit
def states(model, prompts, tokens):
    packing = Packing.whole(prompts, *tokens.shape[1:])
    return packing.apart(model.states(prompts, tokens, packing))


def test_a_fresh_adapter_changes_nothing_and_a_trained_one_does(world):
    base, _ = encode(world.frozen_model(), world.prompts)
    fresh, _ = encode(world.policy(world.structure.random_adapter(jax.random.key(0))), world.prompts)
    trained, _ = encode(world.policy(), world.prompts)
    np.testing.assert_allclose(fresh, base, atol=1e-6)
    assert np.abs(trained - base).max() > 0.1


@pytest.mark.accelerator
def test_the_adapter_equals_merged_weights(world):
    merged = jax.tree.map(lambda x: x, world.frozen)
    for name, adapter in world.adapter["blocks"].items():
        update = [jnp.tensordot(a, b, 1) for a, b in zip(adapter["lora_a"], adapter["lora_b"], strict=True)]
        merged["blocks"][name]["kernel"] = merged["blocks"][name]["kernel"] + 2.0 * jnp.stack(update)
    expected, _ = encode(world.structure.frozen(merged), world.prompts)
    np.testing.assert_allclose(encode(world.policy(), world.prompts)[0], expected, atol=2e-5)


def test_remat_saves_memory_and_changes_no_gradient(world):
    with_remat = ModelStructure(world.structure.architecture, ALL_LAYERS, dtype=jnp.float32, remat=True)

    def gradient(structure):
        def loss(adapter):
            return jnp.square(structure.policy(adapter, world.frozen).encode(world.prompts)[0]).sum()

        compiled = jax.jit(jax.grad(loss)).lower(world.adapter).compile()
        return compiled(world.adapter), compiled.memory_analysis().temp_size_in_bytes

    (expected, bytes_without), (got, bytes_with) = gradient(world.structure), gradient(with_remat)
    assert bytes_with < bytes_without
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, expected)


def whole_sequences(model: LanguageModel, prompts, tokens_BxSxL):
    """Hidden states of the continuations, each computed from its whole sequence without a cache."""
    _, samples, length = tokens_BxSxL.shape
    longest = int(prompts.length_B.max())
    rows = np.zeros((len(prompts.length_B), samples, longest + length), np.int32)
    for row, prompt, start, continuations in zip(rows, prompts.tokens_BxP, prompts.length_B, tokens_BxSxL, strict=True):
        row[:, :start] = prompt[:start]
        row[:, start : start + length] = continuations
    flat = Prompts(jnp.asarray(rows.reshape(-1, longest + length)), jnp.repeat(prompts.length_B + length, samples))
    hidden = np.asarray(encode(model, flat)[0]).reshape(*rows.shape, -1)
    return np.stack([hidden[row, :, start : start + length] for row, start in enumerate(prompts.length_B)])


@pytest.mark.accelerator
def test_decoding_and_teacher_forcing_equal_the_full_forward_under_padding(hugging_face_directory):
    _, directory = hugging_face_directory
    architecture, structure, frozen = load(directory)
    model = structure.policy(structure.random_adapter(jax.random.key(0)), frozen)
    prompts = random_prompts(architecture.vocab_size, length=11)
    tokens = jnp.asarray(np.random.default_rng(2).integers(0, architecture.vocab_size, (3, 2, 7)), jnp.int32)
    expected = whole_sequences(model, prompts, tokens)
    forced = states(model, prompts, tokens)
    np.testing.assert_allclose(forced[:, :, 1:], expected, rtol=1e-4, atol=1e-4)

    @jax.jit
    def decode(model, prompts, tokens):
        decoder = Decoder(model, prompts, 2, 7)
        hidden, cache = [decoder.first_hidden_BxSxD], decoder.empty_cache
        for step in range(7):
            one, cache = decoder.advance(tokens[..., step], jnp.asarray(step), cache)
            hidden.append(one)
        return jnp.stack(hidden, 2)

    np.testing.assert_allclose(decode(model, prompts, tokens), forced, rtol=1e-4, atol=1e-4)


def test_what_all_prompts_begin_with_is_encoded_once_and_changes_nothing(hugging_face_directory):
    _, directory = hugging_face_directory
    architecture, structure, frozen = load(directory)
    adapter = jax.tree.map(lambda x: x + 0.1, structure.random_adapter(jax.random.key(0)))
    rng = np.random.default_rng(3)
    beginning, rest = rng.integers(0, architecture.vocab_size, 7), rng.integers(0, architecture.vocab_size, (3, 6))
    rows = jnp.asarray(np.concatenate([np.tile(beginning, (3, 1)), rest], 1), jnp.int32)
    prompts = Prompts(rows, jnp.array([13, 10, 8]))
    tokens = jnp.asarray(rng.integers(0, architecture.vocab_size, (3, 2, 5)), jnp.int32)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def compute(adapter, prompts):
        model = structure.policy(adapter, frozen)
        forced = model.states(prompts, tokens, Packing.whole(prompts, *tokens.shape[1:]))
        hidden, cache = model.encode(prompts)
        return jnp.square(forced).mean(), (forced, hidden[:, -6:], cache)

    apart, together = (
        compute(adapter, each) for each in (prompts, prompts.replace(beginning=tuple(beginning.tolist())))
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), together, apart)


def test_what_stands_behind_a_prompt_is_never_read(world):
    tokens = jnp.ones((2, 1, 3), jnp.int32)
    noisy = Prompts(world.prompts.tokens_BxP.at[0, 2:].set(6), world.prompts.length_B)
    expected = states(world.policy(), world.prompts, tokens)
    np.testing.assert_array_equal(states(world.policy(), noisy, tokens), expected)


def test_causality_by_differentiating_earlier_outputs_by_later_inputs(world):
    """No hidden state depends on a later token's embedding, and each depends on its own and on earlier ones."""
    tokens = jnp.array([[3, 1, 4, 0, 5]])  # all different: a row of the embedding is one position
    direction = jax.random.normal(jax.random.key(0), (world.structure.architecture.width,))

    @jax.jit
    @jax.jacobian
    def jacobian(embedding):
        model = world.structure.policy(world.adapter, {**world.frozen, "token_embedding": embedding})
        return model.encode(Prompts(tokens, jnp.array([5])))[0][0] @ direction

    by_row = jnp.abs(jacobian(world.frozen["token_embedding"])).sum(-1)  # [position of the output, vocabulary]
    by_position = np.asarray(by_row[:, tokens[0]])
    assert (by_position[np.triu_indices(5, 1)] == 0).all()
    assert (by_position[np.tril_indices(5)] > 0).all()


@pytest.mark.accelerator
def test_long_texts_are_attended_to_in_blocks(monkeypatch):
    """The same values and gradients, and no array that is as long as the text in two axes."""
    count, before, prompt_length = 389, 7, 11
    rng = np.random.default_rng(0)
    q, k, v, prompt_k, prompt_v = (
        jnp.asarray(rng.normal(size=(2, *shape)), jnp.float32)
        for shape in [
            (1, count, 1, 3, 5),
            *2 * [(1, before + count, 1, 5)],
            *2 * [(prompt_length, 1, 5)],
        ]
    )
    places = jnp.arange(before, before + count)
    own_mask = attention.is_visible(places, jnp.arange(before + count), window=90)
    prompt_mask = jnp.asarray(rng.random((2, count, prompt_length)) < 0.5)
    direction = jnp.asarray(rng.normal(size=q.shape), jnp.float32)

    def gradient():
        def loss(q, k, v, prompt_k, prompt_v):
            prompt = attention.KeyValues(prompt_k, prompt_v)
            found = attention.attention(q, attention.KeyValues(k, v), own_mask, 0.3, prompt, prompt_mask)
            return jnp.vdot(found, direction)

        return jax.value_and_grad(loss, argnums=range(5))

    arguments = q, k, v, prompt_k, prompt_v
    is_whole = re.compile(rf"f32\[[\d,]*{count}[\d,]*,{before + count}[\d,]*\]")
    assert not is_whole.search(str(jax.make_jaxpr(gradient())(*arguments)))
    in_blocks = jax.jit(gradient())(*arguments)
    monkeypatch.setattr(attention, "LONGEST_WHOLE", count)
    assert is_whole.search(str(jax.make_jaxpr(gradient())(*arguments)))
    expected = jax.jit(gradient())(*arguments)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), in_blocks, expected)
